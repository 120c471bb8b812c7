"""`rtk data check` as a user meets it: what it prints, its JSON file and its page of pictures."""

from __future__ import annotations

import json
import re
import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rtk.cli import main
from rtk.data.decode.pipeline import evaluation_selection
from rtk.data.sets.dataset import open_dataset
from rtk.evaluate.predict import prediction_files
from rtk.runs.folder import RunFolder

OLD_RUN = Path(__file__).parents[1] / "old" / "run"
DIGITS = [str(digit) for digit in range(8)]


def scene(seed, width=40, height=40):
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    buffer = BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def sets(tmp_path):
    """Two prepared sets: 24 and 8 images; the first of both is the same picture; one is broken, one large."""

    def write(name, images, labels):
        folder = tmp_path / "data"
        folder.mkdir(exist_ok=True)
        table = {"image": pa.array(images, pa.binary()), "label": labels, "path": [f"<{i}>" for i in labels]}
        pq.write_table(pa.table(table), folder / f"{name}.parquet")
        (folder / "classes.json").write_text(json.dumps({"classes": DIGITS}))
        return str(folder / f"{name}.parquet")

    train = [scene(seed) for seed in range(22)] + [b"no image", scene(60, 400, 400)]
    test = [scene(0, 30, 30)] + [scene(seed) for seed in range(40, 47)]
    return [
        write("train", train, [row % 8 for row in range(24)]),
        write("test", test, [row // 4 for row in range(8)]),
    ]


@pytest.fixture
def run(tmp_path, sets):
    """A run with predictions of the test set: sure of every label but that of row 3, where it sees a 1."""
    shutil.copytree(OLD_RUN, tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    dataset = open_dataset(sets[1])
    selection = evaluation_selection(run.config().data, dataset)
    logits = np.full((8, 8), -3.0, np.float32)
    logits[np.arange(8), [0, 0, 0, 1, 1, 1, 1, 1]] = 3.0
    columns = {"logits": logits, "features": np.zeros((8, 2), np.float32)}
    prediction_files(run, {"test": selection})["test"].write(selection, columns, {})
    return run


def test_summary_json_and_page(tmp_path, sets, capsys):
    page = tmp_path / "new/check.html"
    assert main(["data", "check", *sets, "--out", str(page)]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^ +1 images that cannot be decoded$", printed, re.M)
    assert re.search(r"^ +1 pictures that are in several sets$", printed, re.M)
    content = json.loads(page.with_suffix(".json").read_text())
    assert content["summary"] == {
        "images": 32,
        "broken": 1,
        "groups_over_sets": 1,
        "groups_with_different_labels": 0,
        "groups_of_near_duplicates": 1,
        "odd_sizes": 1,
        "rare_classes": 8,
    }
    (group,) = content["near_duplicates"]
    assert [(place["set"], place["row"]) for place in group["images"]] == [("train", 0), ("test", 0)]
    assert not group["exact"]
    (broken,) = content["broken"]
    assert (broken["set"], broken["row"], broken["label"]) == ("train", 22, "6")
    assert "no image in a supported format" in broken["reason"]
    assert content["odd_sizes"][0]["size"] == [400, 400]
    assert content["sets"]["test"]["class_counts"] == [4, 4, 0, 0, 0, 0, 0, 0]
    html = page.read_text()
    assert html.count('<img src="data:image/jpeg;base64,') == 3  # a pair, and the large one
    assert "The same picture in several sets" in html
    assert "Labels that look wrong" not in html
    assert "&lt;0&gt;" in html  # names of files are text
    assert "<0>" not in html


def test_labels_that_look_wrong(tmp_path, sets, run, capsys):
    (tmp_path / "data/test.parquet").rename(tmp_path / "data/holdout.parquet")  # content counts, not names
    page = tmp_path / "check.html"
    sets[1] = str(tmp_path / "data/holdout.parquet")
    options = ["--run", str(run.path), "--out", str(page), "--json"]
    assert main(["data", "check", sets[1], *options]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["page"] == str(page)
    (doubt,) = content["labels"]["holdout"]
    assert (doubt["row"], doubt["label"], doubt["suggested"]) == (3, "0", "1")
    assert doubt["suggested_probability"] == pytest.approx(1 / (1 + 7 * np.exp(-6)))
    assert content["summary"]["doubtful_labels"] == 1
    html = page.read_text()
    assert "<b>labelled 0 (0.2%)</b><br>looks like 1 (98%)<br>&lt;0&gt;" in html
    assert "The run was trained on" not in html


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "check.txt"], "--out: got 'check.txt', wanted a name that ends in .html"),
        (["--run", "nowhere"], "run: got 'nowhere'"),
        (["/nowhere.parquet"], "/nowhere.parquet: does not exist"),
    ],
)
def test_bad_usage(sets, arguments, message, capsys):
    assert main(["data", "check", sets[0], *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_set_given_twice(sets, capsys):
    assert main(["data", "check", sets[0], sets[0]]) == 2
    assert "twice" in capsys.readouterr().err


def test_classes_that_the_run_does_not_know(tmp_path, sets, run, capsys):
    (tmp_path / "data/classes.json").write_text(json.dumps({"classes": [*DIGITS[:7], "cat"]}))
    assert main(["data", "check", sets[1], "--run", str(run.path), "--out", str(tmp_path / "x.html")]) == 2
    assert "'cat'" in capsys.readouterr().err
