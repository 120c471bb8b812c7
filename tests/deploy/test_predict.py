"""`rtk predict`: which model, which images, and how what it says is shown."""

import csv
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rtk.cli import main
from rtk.config import ConfigError
from rtk.data.prepare.sources import open_source
from rtk.deploy.predict import find_images, open_model, predict_files
from tests.deploy.random_package import encoded


def test_files_folders_and_parquet(folder, images):
    model, files = open_model(str(folder)), find_images(images)
    rows = list(predict_files(model, files))
    assert [row["image"].rpartition("/")[2] for row in rows] == [
        "a.png", "b.JPG", "more.parquet:0", "more.parquet:1",
    ]  # fmt: skip
    assert [{k: v for k, v in row.items() if k != "image"} for row in rows] == model.predict(
        [encoded(seed) for seed in range(4)]
    )


def test_command_line(packaged, folder, images, capsys, tmp_path):
    assert main(["predict", str(folder), *images, "--jsonl"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 4
    assert main(["predict", str(folder), images[0]]) == 0
    printed = capsys.readouterr().out
    assert rows[0]["decision"] in printed
    assert "error" not in printed
    decisions = [row["decision"] for row in rows[:2]]
    counts = ", ".join(f"{decisions.count(name)} {name}" for name in ("accept", "likely-wrong", "unfamiliar"))
    assert printed.splitlines()[-2:] == [packaged.rule.promise(), f"2 images: {counts}"]


def test_errors_have_a_column_of_their_own_and_are_counted(folder, images, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)  # a short path: a long one would be broken
    (tmp_path / "photos" / "broken.png").write_bytes(b"no image")
    command = ["predict", str(folder), "photos"]
    assert main([*command, "--jsonl"]) == 1
    written = capsys.readouterr()
    assert [json.loads(line)["error"] is None for line in written.out.splitlines()] == [True, True, False]
    assert written.err.splitlines()[-1].endswith(", 1 cannot be read")
    assert main(command) == 1
    lines = capsys.readouterr().out.splitlines()
    headings = [cell.strip() for cell in lines[2].strip("┃").split("┃")]
    assert headings == ["decision", "label", "confidence", "ood_score", "error", "image"]
    (broken,) = ([c.strip() for c in line.strip("│").split("│")] for line in lines if "broken.png" in line)
    assert broken[:4] == ["–", "", "", ""]
    assert broken[4].startswith("no image in a supported format")
    assert lines[-1].startswith("3 images: ")
    assert lines[-1].endswith(", 1 cannot be read")


@pytest.mark.parametrize(
    ("change", "said"),
    [({"step": 8}, "has other thresholds"), ({"tau_id": 0.5}, "has other thresholds"), ({}, None)],
)
def test_an_export_of_before_the_last_evaluation_is_refused(packaged, tmp_path, change, said):
    run, rule = tmp_path / "run", packaged.rule
    packaged.save(run / "export")
    (run / "config.yaml").touch()
    assert open_model(str(run)).rule == rule  # never evaluated here
    measured = {"step": rule.step, "tau_id": rule.tau_id, "tau_ood": rule.tau_ood, **change}
    step = measured.pop("step")
    (run / "evaluation").mkdir()
    (run / "evaluation" / "metrics.json").write_text(json.dumps({"step": step, "decision": measured}))
    if said is None:
        assert open_model(str(run)).rule == rule
        (run / "evaluation" / "metrics.json").write_text(json.dumps({"step": step}))
        said = "has no decision rule"
    with pytest.raises(ConfigError, match=f"{said}; rtk export"):
        open_model(str(run))
    assert open_model(str(run / "export")).rule == rule


def test_names_that_are_no_text_are_shown_as_text(folder, capsys, tmp_path):
    photo = os.fsencode(tmp_path) + b"/caf\xe9.png"
    with open(photo, "wb") as file:
        file.write(encoded(0))
    table = tmp_path / "t.csv"
    assert main(["predict", str(folder), os.fsdecode(photo), "--jsonl", "--csv", str(table)]) == 0
    assert json.loads(capsys.readouterr().out)["image"].endswith("/caf\\xe9.png")
    assert "/caf\\xe9.png" in table.read_text(encoding="utf-8")


def test_csv_and_page_hold_what_was_said_with_names_escaped(folder, packaged, capsys, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    names = ['<b>"a" & b.png', "comma, and ü.png", "torn.png"]
    for seed, name in enumerate(names):
        (photos / name).write_bytes(b"torn" if name == "torn.png" else encoded(seed))
    table, page = tmp_path / "t.csv", tmp_path / "t.html"
    assert main(["predict", str(folder), str(photos), "--csv", str(table), "--html", str(page)]) == 1
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [str(photos / name) for name in names]
    first = packaged.predict([encoded(0)])[0]
    assert float(rows[0]["ood_score"]) == pytest.approx(first["ood_score"], rel=1e-5)
    assert (rows[0]["decision"], rows[0]["label"], rows[0]["error"]) == (
        first["decision"],
        first["label"],
        "",
    )
    assert rows[2]["decision"] == ""
    assert "no image" in rows[2]["error"]
    html = page.read_text(encoding="utf-8")
    assert "&lt;b&gt;&#34;a&#34; &amp; b.png" in html
    assert "<b>&#34;" not in html
    assert '<b>"' not in html
    assert html.count("data:image/jpeg;base64,") == 2
    assert f"<h2>{first['decision']}</h2>" in html
    assert "torn.png" in html.partition("cannot be read</h2>")[2]
    for option in ("--csv", "--html"):
        assert main(["predict", str(folder), str(photos), option, str(tmp_path / "no" / "t")]) == 2
        assert f"{option}: got" in capsys.readouterr().err


def test_a_file_that_may_not_be_read_costs_only_itself(packaged, tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(0))
    rows = list(predict_files(packaged, [tmp_path / "a.png", tmp_path / "gone.png"]))
    assert [row["error"] for row in rows] == [None, "No such file or directory"]
    assert rows[1]["decision"] is None


def test_a_folder_of_parquet_parts_is_read_and_a_table_without_images_named(images, tmp_path):
    parts = tmp_path / "photos" / "all.parquet"
    parts.mkdir()
    (tmp_path / "more.parquet").rename(parts / "part-0.parquet")
    assert [file.name for file in find_images(images[:1])] == ["a.png", "part-0.parquet", "b.JPG"]
    pq.write_table(pa.table({"label": [1]}), tmp_path / "labels.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    for name, message in (
        ("labels", "has columns label, wanted one column with images"),
        ("broken", "is no Parquet file"),
    ):
        with pytest.raises(ConfigError, match=message):
            find_images([str(tmp_path / f"{name}.parquet")])


def test_folders_are_read_as_prepare_reads_them(folder, images, tmp_path):
    photos = tmp_path / "photos"
    for hidden in ("@eaDir", "__MACOSX", ".cache"):
        (photos / hidden).mkdir()
        (photos / hidden / "a.png").write_bytes(encoded(0))
    (photos / "._a.png").write_bytes(b"of another system")
    (photos / "below" / "c.jfif").write_bytes(encoded(0))
    (photos / "back").symlink_to(photos)
    (tmp_path / "subset").mkdir()
    (tmp_path / "subset" / "linked").symlink_to(photos)
    (photos / "gone.png").symlink_to(tmp_path / "nowhere.png")
    found = find_images([str(tmp_path / "subset")])
    assert [file.name for file in found] == ["a.png", "b.JPG", "c.jfif", "gone.png"]
    assert {file.name for file in found} == {record.payload.name for record in _records(photos)}
    rows = list(predict_files(open_model(str(folder)), found))
    assert [row["error"] for row in rows] == [None, None, None, "No such file or directory"]
    (photos / "more").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="more: a link to .*nowhere, which does not exist"):
        find_images([str(photos)])


def _records(folder):
    (split,) = open_source(folder, classes_from="none").splits
    return list(split.read())


@pytest.mark.parametrize("column", ["image", "img"])
def test_parquet_of_the_hugging_face_hub(folder, tmp_path, column):
    values = [{"bytes": encoded(0), "path": "a.png"}, {"bytes": encoded(1), "path": None}, None]
    table = pa.table({column: pa.array(values, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))})
    pq.write_table(table, tmp_path / "train.parquet")
    model = open_model(str(folder))
    rows = list(predict_files(model, find_images([str(tmp_path / "train.parquet")])))
    wanted = model.predict([encoded(0), encoded(1), b""])
    assert [{key: value for key, value in row.items() if key != "image"} for row in rows] == wanted
    assert rows[2]["error"] == "empty (0 bytes)"


@pytest.mark.parametrize(
    ("model", "image"), [("package", "nowhere.png"), ("nowhere", "photos"), ("package", "empty")]
)
def test_what_is_not_there_is_named(folder, images, tmp_path, model, image):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"nowhere|empty"):
        list(predict_files(open_model(str(tmp_path / model)), find_images([str(tmp_path / image)])))
