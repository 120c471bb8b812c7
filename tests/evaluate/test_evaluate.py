"""A trained run, evaluated: predictions once, tables, report, MLflow."""

from __future__ import annotations

import csv
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from rtk.cli import main
from rtk.config import ConfigError, load_config
from rtk.data.catalog import resolve_path
from rtk.data.dataset import open_dataset
from rtk.data.pipeline import Source, decode_datasets
from rtk.evaluate.evaluate import evaluate_run, parse_ood, read_result
from rtk.evaluate.predict import load_model, read_predictions
from rtk.evaluate.report import write_report
from rtk.metrics import aurc, ds_aurc
from rtk.run_folder import RunFolder
from rtk.tracking import Mirror, send_evaluation
from rtk.train.launch import launch_training

pytestmark = pytest.mark.slow

SMALL = ["model.width=4", "data.train_rows=256", "train.duration=4ep", "train.precision=fp32"]


@pytest.fixture(scope="module")
def run(ray_session, tmp_path_factory) -> RunFolder:
    output = tmp_path_factory.mktemp("runs")
    run = launch_training(load_config("digits_demo", [f"output={output}", *SMALL])).run
    evaluate_run(run)
    return run


def test_predictions_are_those_of_the_model_in_the_order_of_the_data(run):
    dataset = open_dataset(resolve_path("builtin:digits/test.parquet"))
    arrays = decode_datasets({"test": Source(dataset, 32)})["test"]
    saved = read_predictions(run.evaluation / "predictions" / "test.parquet")
    with torch.no_grad():
        logits, features = load_model(run).forward_features(torch.from_numpy(arrays.images).float() / 255)
    np.testing.assert_allclose(saved["logits"], logits.numpy(), rtol=0, atol=1e-4)
    np.testing.assert_allclose(saved["features"], features.numpy(), rtol=0, atol=1e-4)
    assert (saved["sample_id"] == arrays.sample_ids).all()
    assert (saved["label"] == arrays.labels).all()


def test_summary_equals_metrics_computed_from_the_predictions(run):
    summary = read_result(run)["summary"]
    predictions = {
        n: read_predictions(run.evaluation / "predictions" / f"{n}.parquet") for n in ("test", "photos")
    }
    test = predictions["test"]
    confidence = {n: torch.from_numpy(p["logits"]).softmax(1).amax(1).numpy() for n, p in predictions.items()}
    correct = test["label"] == test["prediction"]
    assert summary["accuracy"] == pytest.approx(correct.mean())
    assert summary["aurc"] == pytest.approx(aurc(confidence["test"], correct), abs=1e-9)
    msp = read_result(run)["scores"]["msp"]
    five = (confidence["test"], confidence["test"], correct, confidence["photos"], confidence["photos"])
    assert msp["ds_aurc_far"] == pytest.approx(ds_aurc(*five), abs=1e-9)


def test_predictions_are_written_once(run):
    paths = sorted((run.evaluation / "predictions").glob("*.parquet"))
    before = [path.stat().st_mtime_ns for path in paths]
    evaluate_run(run, scores=("msp",))
    assert [path.stat().st_mtime_ns for path in paths] == before
    evaluate_run(run)


def test_json_csv_and_parquet_agree(run):
    result = read_result(run)
    with (run.evaluation / "metrics.csv").open() as file:
        rows = {
            (row["set"], row["score"], row["metric"]): float(row["value"]) for row in csv.DictReader(file)
        }
    assert rows["photos", "knn", "auroc"] == result["sets"]["photos"]["knn"]["auroc"]
    assert rows["test", "", "ds_aurc_near"] == result["summary"]["ds_aurc_near"]
    table = pq.read_table(run.evaluation / "scores.parquet")
    assert set(table["group"].to_pylist()) == {"id", "near", "far"}


def test_report_is_one_file_with_real_curves(run):
    page = write_report([run, run]).read_text()
    assert page.count("<svg") >= 8
    assert "http" not in page.replace("http://www.w3.org", "").replace("http://purl", "").replace(
        "http://creative", ""
    ).replace("https://matplotlib", "")
    assert f"{read_result(run)['summary']['accuracy'] * 100:.2f}" in page


def test_command_prints_one_json_object(run, capsys):
    extra = f"far:again={resolve_path('builtin:digits/far_photos.parquet')}"
    assert main(["evaluate", str(run.path), "--ood", extra, "--scores", "msp", "energy", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["sets"]["again"]["energy"] == result["sets"]["photos"]["energy"]
    assert set(result["scores"]) == {"msp", "energy", "knn"}  # knn is the recipe's headline score


def test_mlflow_holds_params_metrics_and_files(run):
    send_evaluation(run)
    mirror = Mirror(run)
    client, run_id = mirror._connect(), run.read_json("mlflow.json")["run_id"]
    stored = client.get_run(run_id)
    assert stored.info.status == "FINISHED"
    assert stored.data.params["sharpness.variant"] == "fsam"
    last = {row["key"]: row["value"] for row in run.read_metrics()}
    assert {key: stored.data.metrics[key] for key in last} == pytest.approx(last)
    steps = [metric.step for metric in client.get_metric_history(run_id, "train/loss/regpixmix")]
    assert steps == [row["step"] for row in run.read_metrics() if row["key"] == "train/loss/regpixmix"]
    assert {"report.html", "metrics.json"} <= {
        path.rpartition("/")[2] for path in (f.path for f in client.list_artifacts(run_id, "evaluation"))
    }


def test_training_goes_on_without_the_tracking_server(ray_session, tmp_path):
    overrides = [f"output={tmp_path}", *SMALL, "train.duration=1ep", "tracking.uri=http://127.0.0.1:9"]
    outcome = launch_training(load_config("digits_ce", overrides))
    assert outcome.status == "finished"
    assert any(row["key"] == "train/loss/cross_entropy" for row in outcome.run.read_metrics())


@pytest.mark.parametrize(
    ("text", "name", "group"),
    [("cifar10=/a", "cifar10", "near"), ("mnist=/a", "mnist", "far"), ("near:cats=/a=b", "cats", "near")],
)
def test_ood_sets_are_parsed(text, name, group):
    parsed = parse_ood(text)
    assert (parsed.name, parsed.group) == (name, group)


@pytest.mark.parametrize("text", ["cats", "cats=/a", "middle:cats=/a", "=/a", "mnist="])
def test_bad_ood_sets_are_refused(text):
    with pytest.raises(ConfigError, match="--ood"):
        parse_ood(text)


def test_missing_pieces_are_named(run, capsys):
    assert main(["evaluate", str(run.path), "--ood", "far:x=/nowhere"]) == 2
    assert "--ood x: " in capsys.readouterr().err
    assert main(["evaluate", str(run.path), "--scores", "mps"]) == 2
    assert "msp" in capsys.readouterr().err
    assert main(["evaluate", str(run.path), "--ood", "far:test=/a"]) == 2
    assert "'test' is taken" in capsys.readouterr().err
