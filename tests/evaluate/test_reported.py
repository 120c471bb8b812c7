"""What becomes of an evaluation: tables, the report's page, MLflow's copy."""

from __future__ import annotations

import csv
import json

import pytest

from rtk.cli import main
from rtk.config import load_config
from rtk.report.run_page import write_report
from rtk.report.run_tables import write_run_tables
from rtk.runs.results import read_result, read_scores
from rtk.tracking.mirror import Mirror
from rtk.tracking.sending import send_evaluation
from rtk.train.launch import launch_training
from tests.evaluate.conftest import SMALL
from tests.train.ranks import workers_forked

pytestmark = pytest.mark.slow


def test_json_csv_and_parquet_agree(run):
    result = read_result(run)
    write_run_tables(run)
    with (run.evaluation / "table.csv").open() as file:
        rows = {(row["set"], row["score"]): row for row in csv.DictReader(file)}
    assert float(rows["photos", "knn"]["auroc"]) == result["sets"]["photos"]["knn"]["auroc"]
    assert float(rows["near (mean)", "knn"]["ds_aurc"]) == result["summary"]["ds_aurc_near"]
    assert float(rows["test", "msp"]["aurc"]) == result["summary"]["aurc"]
    assert set(read_scores(run)["group"].to_pylist()) == {"id", "near", "far"}


def test_report_is_one_file_with_real_curves(run):
    page = write_report([run, run]).read_text()
    assert page.count("<svg") >= 8
    assert "http" not in page.replace("http://www.w3.org", "").replace("http://purl", "").replace(
        "http://creative", ""
    ).replace("https://matplotlib", "")
    assert f"{read_result(run)['summary']['accuracy'] * 100:.2f}" in page


def test_report_pools_runs_in_one_table(run, tmp_path, capsys):
    table = tmp_path / "both.md"
    out = str(tmp_path / "page.html")
    assert main(["report", str(run.path), "--out", out, "--table", str(table), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"report": out, "tables": [str(table)]}
    assert "| photos | knn |" in table.read_text()


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
    with workers_forked():
        outcome = launch_training(load_config("digits_ce", overrides))
    assert outcome.status == "finished"
    assert any(row["key"] == "train/loss/cross_entropy" for row in outcome.run.read_metrics())
