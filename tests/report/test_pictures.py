"""Pictures of a run whose images ship with rtk."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import ExifTags, Image

from rtk.data.image import decode_rgb
from rtk.data.sets.builtin import resolve_path
from rtk.data.sets.dataset import open_dataset, read_rows
from rtk.report.classes import class_names
from rtk.report.evaluated import EvaluatedRun
from rtk.report.gallery import Picture, gallery
from rtk.report.pictures import MOST, _as_seen, choose, galleries
from rtk.report.run_page import write_report
from rtk.runs.folder import RunFolder


@pytest.fixture
def run(tmp_path, old_run) -> RunFolder:
    shutil.copytree(old_run, tmp_path / "run")
    return RunFolder.open(tmp_path / "run")


def change_result(run: RunFolder, **changes: object) -> EvaluatedRun:
    path = run.evaluation / "metrics.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return EvaluatedRun.read(run, "run")


def columns_of(entry: EvaluatedRun) -> dict[str, np.ndarray]:
    return {name: entry.table[name].to_numpy(zero_copy_only=False) for name in entry.table.column_names}


def test_the_surest_mistakes_accepted_ood_images_and_refused_right_ones(make_run, read):
    (entry,) = read(make_run("one"))
    columns = columns_of(entry)
    decisions = np.where(columns["msp"] >= 0.6, "accept", "likely-wrong")
    mistakes, near, far, refused = choose(entry, columns, decisions)
    wrong = np.flatnonzero((columns["group"] == "id") & ~columns["is_correct"])
    assert mistakes.rows.tolist() == sorted(wrong, key=lambda row: -columns["msp"][row])[:MOST]
    for one, group in ((near, "near"), (far, "far")):
        own = [
            row
            for row in range(len(decisions))
            if columns["group"][row] == group and decisions[row] == "accept"
        ]
        assert one.rows.tolist() == sorted(own, key=lambda row: -columns["knn"][row])[:MOST]
        assert one.words.startswith(f"{len(own)} of {(columns['group'] == group).sum()} images")
    good = (columns["group"] == "id") & columns["is_correct"] & (decisions != "accept")
    assert set(refused.rows) <= set(np.flatnonzero(good))
    assert refused.words.startswith(f"{good.sum()} of ")
    assert [one.heading for one in choose(entry, columns, None)][1:] == [
        "Near-OOD images that look most familiar",
        "Far-OOD images that look most familiar",
        "Right, but least trusted",
    ]


def test_each_picture_is_that_of_its_caption(run):
    entry = EvaluatedRun.read(run, "run")
    html = "".join(one.html for one in galleries(entry, class_names(entry)))
    figures = re.findall(r'base64,([^"]*)".*?<figcaption>(.*?)</figcaption>', html)
    assert len(figures) > 3 * MOST
    shipped = {
        row.sample_id: row.image
        for name in ("test", "near_digits89", "far_photos")
        for row in read_rows(open_dataset(resolve_path(f"builtin:digits/{name}.parquet")))
    }
    for data, caption in figures:
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)
        wanted = decode_rgb(shipped[int(caption.rpartition("image ")[2])], None)
        assert np.abs(shown - wanted).mean() < 12  # what JPEG changes
    row = next(caption for _, caption in figures if "taken for" in caption).split("<br>")
    table = {key: values.tolist() for key, values in columns_of(entry).items()}
    number = table["sample_id"].index(int(row[-1].removeprefix("image ")))
    assert row[0] == f"<b>{table['label'][number]}, taken for {table['prediction'][number]}</b>"
    assert row[1] == f"msp {table['msp'][number]:.4g}"
    assert row[2] == f"knn {table['knn'][number]:.4g}"


def test_the_page_says_where_the_images_are_gone(run):
    paths = EvaluatedRun.read(run, "run").result["paths"]
    entry = change_result(run, paths={**paths, "test": "nowhere/test.parquet"})
    mistakes, near, *_ = galleries(entry, class_names(entry))
    assert "<img" not in mistakes.html
    assert re.search("No pictures of test: .*nowhere/test.parquet", mistakes.missing)
    assert near.html.count("<img") == MOST
    assert not near.missing
    assert "No pictures of test" in write_report([run]).read_text()


def test_other_images_under_the_same_path_are_not_shown(run, tmp_path):
    source = open_dataset(resolve_path("builtin:digits/test.parquet"))
    table = pq.read_table(source.files[0])
    swapped = table.set_column(
        table.column_names.index("image"), "image", table["image"].take(list(range(len(table)))[::-1])
    )
    pq.write_table(swapped, tmp_path / "test.parquet")
    paths = EvaluatedRun.read(run, "run").result["paths"]
    entry = change_result(run, paths={**paths, "test": str(tmp_path / "test.parquet")})
    missing = next(galleries(entry, ["0"] * 10)).missing
    assert "holds other images than those that were evaluated" in missing


def test_the_page_of_an_old_run(run):
    html = write_report([run]).read_text()
    assert html.count('src="data:image/jpeg') > 3 * MOST
    assert not re.search(r'src="(?!data:)', html)
    assert "At a wanted risk of 95 % it accepts 98.4 % of the test images" in html
    assert "Images: test 433; near-OOD digits89 354; far-OOD photos 400." in html
    assert "Confusion" in html


def test_pictures_are_turned_as_the_model_saw_them():
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[ExifTags.Base.Orientation] = 6  # a quarter turn
    Image.new("RGB", (60, 20), "red").save(buffer, "JPEG", exif=exif)
    shapes = {}
    for how in ("apply", "ignore"):
        html = gallery([Picture(_as_seen(buffer.getvalue(), how), ["red"])])
        shapes[how] = Image.open(io.BytesIO(base64.b64decode(re.search(r'base64,([^"]*)"', html)[1]))).size
    assert shapes == {"apply": (20, 60), "ignore": (60, 20)}
