"""A trained run under covariate shift: images that rtk or others have corrupted, and the full spectrum."""

from __future__ import annotations

import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from rtk.config import ConfigError
from rtk.data.decode.pipeline import Selection, decode_datasets
from rtk.data.image import BadImageError, decode_rgb, encode_png
from rtk.data.prepare.prepare import prepare
from rtk.data.sets.builtin import resolve_path
from rtk.data.sets.dataset import open_dataset
from rtk.data.views.augment import to_float
from rtk.evaluate.corruptions import SEVERITIES, corrupt_image, corruption_scores, measured_with, read_rows
from rtk.evaluate.evaluate import evaluate_run
from rtk.evaluate.model import load_model
from rtk.evaluate.pool import Pool
from rtk.evaluate.predictions_file import read_predictions
from rtk.evaluate.score_table import as_predictions, rows_of
from rtk.evaluate.sets import evaluation_config
from rtk.metrics import aurc, ds_aurc, ood_detection
from rtk.report.run_page import write_report
from rtk.runs.results import read_scores
from rtk.scores import FittedScore, compute_image_score

pytestmark = pytest.mark.slow


def test_corruptions_lower_the_accuracy_and_are_the_same_again(run):
    pytest.importorskip("imagecorruptions")
    first = evaluate_run(run, corrupted=12)
    rows = read_rows(run.evaluation, first["step"])
    assert len(rows) == 1 + 15 * 5
    assert {row["images"] for row in rows} == {12}
    assert first["corruptions"]["accuracy"] < rows[0]["accuracy"]
    evaluate_run(run, corrupted=12)
    assert read_rows(run.evaluation, first["step"]) == rows
    assert "Accuracy under corruptions" in write_report([run]).read_text()


def test_corruptions_are_predicted_by_the_pool_and_name_what_is_wrong(run, tmp_path):
    pytest.importorskip("imagecorruptions")
    settings = run.config().evaluate.model_copy(update={"actors": 2, "batch_size": 5})
    msp = {"msp": FittedScore({}, {}, None)}
    selection = Selection(open_dataset(resolve_path("builtin:digits/test.parquet")), 32, rows=12)
    with Pool(run, "best", settings) as pool:
        rows = corruption_scores(pool, selection, msp, types=["contrast"])["msp"]
        assert len(pool.actors) == 2
    assert [(row["corruption"], row["severity"]) for row in rows[:2]] == [("none", 0), ("contrast", 1)]
    table = pq.read_table(resolve_path("builtin:digits/test.parquet")).slice(0, 6)
    images = pa.array([*table["image"].to_pylist()[:5], b"broken"])
    pq.write_table(
        table.set_column(table.column_names.index("image"), "image", images), tmp_path / "t.parquet"
    )
    (tmp_path / "classes.json").write_text(json.dumps({"classes": list("0123456789")}))
    broken = Selection(open_dataset(tmp_path / "t.parquet"), 32)
    with Pool(run, "best", settings.model_copy(update={"actors": 1})) as one:
        assert corruption_scores(one, selection, msp, types=["contrast"]) == {"msp": rows}
        with pytest.raises(BadImageError, match="data set 'test', row 5"):
            corruption_scores(one, broken, msp, types=["contrast"])


def test_full_spectrum_counts_shifted_images_as_in_distribution_and_changes_nothing_else(run, tmp_path):
    test = resolve_path("builtin:digits/test.parquet")
    table, classes = pq.read_table(test), open_dataset(test).classes
    last = len(classes) - 1  # the shifted set has its classes in another order
    dark = [encode_png(decode_rgb(image, None) // 3) for image in table["image"].to_pylist()]
    shifted = table.set_column(table.column_names.index("image"), "image", pa.array(dark))
    labels = pa.array(last - table["label"].to_numpy())
    pq.write_table(
        shifted.set_column(table.column_names.index("label"), "label", labels), tmp_path / "d.parquet"
    )
    (tmp_path / "classes.json").write_text(json.dumps({"classes": classes[::-1]}))
    settings = ["evaluate.scores=[msp, knn]", "evaluate.risk=0.3"]
    standard = evaluate_run(run, evaluation_config(run, settings))
    found = evaluate_run(run, evaluation_config(run, [*settings, f"data.csid.dark={tmp_path / 'd.parquet'}"]))
    for key in ("summary", "test", "scores", "sets", "decision", "calibration"):
        assert found[key] == standard[key]
    assert "full_spectrum" not in standard
    parts = {
        name: read_predictions(run.evaluation / "predictions" / f"{name}.parquet")
        for name in ("test", "dark")
    }
    right = {name: own["prediction"] == own["label"] for name, own in parts.items()}
    np.testing.assert_array_equal(parts["dark"]["label"], parts["test"]["label"])
    full = found["full_spectrum"]
    assert full["summary"]["accuracy"] == pytest.approx(np.concatenate([*right.values()]).mean())
    assert full["csid"]["dark"]["msp"]["accuracy"] == pytest.approx(right["dark"].mean())
    sure = {name: as_predictions(own).logits.softmax(1).amax(1).numpy() for name, own in parts.items()}
    both, correct = np.concatenate([*sure.values()]), np.concatenate([*right.values()])
    scores = rows_of(read_scores(run), "set", "photos")
    wanted = ood_detection(both, scores["msp"])
    got = full["sets"]["photos"]["msp"]
    assert {key: got[key] for key in wanted} == pytest.approx(wanted, abs=1e-6)
    assert full["test"]["msp"]["aurc"] == pytest.approx(aurc(both, correct), abs=1e-6)
    assert got["ds_aurc"] == pytest.approx(
        ds_aurc(both, both, correct, scores["msp"], scores["msp"]), abs=1e-6
    )
    assert set(pc.unique(read_scores(run)["set"]).to_pylist()) == {"test", *found["groups"]}
    keys = {row["key"] for row in run.read_metrics()}
    assert {"test/full_spectrum/accuracy", "test/full_spectrum/auroc_far"} <= keys
    assert "Full spectrum" in write_report([run]).read_text()


def test_prepared_corruptions_are_measured_as_those_that_rtk_makes(run, tmp_path, capsys):
    pytest.importorskip("imagecorruptions")
    test = Selection(open_dataset(resolve_path("builtin:digits/test.parquet")), 32, rows=12)
    images = decode_datasets({"test": test})["test"]
    pixels = images.images.transpose(0, 2, 3, 1)
    kinds = {
        "contrast": "contrast",
        "saturate": "brightness",
    }  # the one is among the 15 common types, the other not
    (tmp_path / "CIFAR-10-C").mkdir()
    for name, kind in kinds.items():
        levels = [
            corrupt_image(image, kind, severity, int(sample_id))
            for severity in SEVERITIES
            for image, sample_id in zip(pixels, images.sample_ids, strict=True)
        ]
        np.save(tmp_path / "CIFAR-10-C" / f"{name}.npy", np.stack(levels))
    np.save(tmp_path / "CIFAR-10-C/labels.npy", np.tile(images.labels, 5))
    prepare(tmp_path / "CIFAR-10-C", tmp_path / "c", classes_from=resolve_path("builtin:digits/test.parquet"))
    config = evaluation_config(run, ["evaluate.scores=[sure_plus, rr_fast]"])
    found = evaluate_run(run, config, corrupted_sets=str(tmp_path / "c"))
    rows = read_rows(run.evaluation, found["step"], measured_with(found))
    assert [row["corruption"] for row in rows] == ["none", *["contrast"] * 5, *["saturate"] * 5]
    assert rows[0]["accuracy"] == found["summary"]["accuracy"]
    with Pool(run, "best", config.evaluate) as pool:
        states = {"msp": FittedScore({}, {}, None)}
        wanted = corruption_scores(pool, test, states, types=["contrast"])["msp"]
    shared = ("severity", "images", "accuracy", "aurc")
    for row, other in zip(rows[1:6], wanted[1:], strict=True):
        assert {key: row[key] for key in shared} == pytest.approx({key: other[key] for key in shared})
    assert found["corruptions"]["aurc"] == pytest.approx(np.mean([row["aurc"] for row in rows[1:6]]))
    assert set(found["corruptions_by_score"]) == {"msp", "rr_fast"}
    with (run.evaluation / "corruptions.csv").open() as file:
        of_radius = [row for row in csv.DictReader(file) if row["confidence"] == "rr_fast"]
    assert len(of_radius) == 11
    assert {row["accuracy"] for row in of_radius} == {str(row["accuracy"]) for row in rows}
    loaded = load_model(run, "best")
    faintest = decode_datasets({"c": Selection(open_dataset(tmp_path / "c/contrast-5.parquet"), 32)})["c"]
    radius = compute_image_score("rr_fast", loaded, to_float(torch.from_numpy(faintest.images))).numpy()
    with torch.no_grad():
        logits = loaded(to_float(torch.from_numpy(faintest.images)))
    correct = (logits.argmax(1).numpy() == images.labels).astype(bool)
    assert float(of_radius[5]["aurc"]) == pytest.approx(aurc(radius, correct), abs=1e-4)
    page = write_report([run]).read_text()
    assert "corrupted by others" in page
    assert "means over types and severities" in page
    with pytest.raises(ConfigError, match="got --corruptions too"):
        evaluate_run(run, config, corrupted=12, corrupted_sets=str(tmp_path / "c"))
    with pytest.raises(ConfigError, match="--corrupted: got .*without sets called"):
        evaluate_run(run, config, corrupted_sets=str(tmp_path / "CIFAR-10-C"))
