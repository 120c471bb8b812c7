"""A trained run, evaluated: predictions once, tables, report, MLflow."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from rtk.cli import main
from rtk.config import load_config
from rtk.data.decode.pipeline import Selection, decode_datasets
from rtk.data.sets.builtin import resolve_path
from rtk.data.sets.dataset import open_dataset
from rtk.deploy.export import export_run
from rtk.deploy.packaged_model import PackagedModel
from rtk.evaluate import measure
from rtk.evaluate.evaluate import evaluate_run
from rtk.evaluate.label_check import check_labels_with
from rtk.evaluate.model import load_model
from rtk.evaluate.predictions_file import read_predictions, read_stamp
from rtk.evaluate.reuse import keeping
from rtk.evaluate.run_decision import current_decision
from rtk.evaluate.score_table import as_predictions, fit_data, rows_of, score_table
from rtk.evaluate.sets import evaluation_config, evaluation_selections
from rtk.metrics import aurc, ds_aurc
from rtk.metrics.label_errors import label_errors
from rtk.report.run_page import write_report
from rtk.report.run_tables import write_run_tables
from rtk.runs.checkpoints import forget, prune
from rtk.runs.folder import RunFolder
from rtk.runs.results import read_result, read_scores
from rtk.scores import compute_score, fit_score
from rtk.scores.decision import DecisionRule, decide
from rtk.scores.threshold_search import choose_thresholds, combine
from rtk.tracking.mirror import Mirror
from rtk.tracking.sending import send_evaluation
from rtk.train.launch import launch_training
from rtk.train.saving import save_weights
from tests.evaluate.conftest import SMALL
from tests.train.ranks import workers_forked

pytestmark = pytest.mark.slow


SPLITS = ("train", "validation")


def copy_of(run, folder) -> RunFolder:
    """The same run with its evaluation, to be evaluated otherwise."""
    return RunFolder(Path(shutil.copytree(run.path, folder / "copy")))


def test_predictions_are_those_of_the_model_in_the_order_of_the_data(run):
    dataset = open_dataset(resolve_path("builtin:digits/test.parquet"))
    arrays = decode_datasets({"test": Selection(dataset, 32)})["test"]
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


def test_predictions_are_written_once_and_measured_the_same_by_tasks(run, monkeypatch):
    summary = read_result(run)["summary"]
    paths = sorted((run.evaluation / "predictions").glob("*.parquet"))
    before = [path.stat().st_mtime_ns for path in paths]
    monkeypatch.setattr(measure, "QUICK", 0)
    assert evaluate_run(run, evaluation_config(run, ["evaluate.scores=[msp]"]))["summary"] == summary
    monkeypatch.undo()
    assert [path.stat().st_mtime_ns for path in paths] == before
    evaluate_run(run)


def test_json_csv_and_parquet_agree(run):
    result = read_result(run)
    write_run_tables(run)
    with (run.evaluation / "table.csv").open() as file:
        rows = {(row["set"], row["score"]): row for row in csv.DictReader(file)}
    assert float(rows["photos", "knn"]["auroc"]) == result["sets"]["photos"]["knn"]["auroc"]
    assert float(rows["near (mean)", "knn"]["ds_aurc"]) == result["summary"]["ds_aurc_near"]
    assert float(rows["test", "msp"]["aurc"]) == result["summary"]["aurc"]
    assert set(read_scores(run)["group"].to_pylist()) == {"id", "near", "far"}


def test_splits_have_a_mean_and_a_spread(run):
    overrides = ["evaluate.protocol=rat_splits", "evaluate.scores=[msp, odin_temperature]"]
    result = evaluate_run(run, evaluation_config(run, overrides))
    images = open_dataset(resolve_path("builtin:digits/test.parquet")).rows
    assert len(result["protocol"]["splits"]) == 3
    assert result["std"]["summary"]["accuracy"] > 0
    assert {"temperature", "criterion"} == set(result["protocol"]["tried"]["odin_temperature"][0])
    assert len(rows_of(read_scores(run), "set", "test")["label"]) == images - int(0.2 * images)
    assert " ± " in write_report([run]).read_text()
    evaluate_run(run)


def test_decision_rule_does_on_the_test_set_what_it_says(run, capsys):
    photos = resolve_path("builtin:digits/far_photos.parquet")
    near = resolve_path("builtin:digits/near_digits89.parquet")
    suite = run.path / "suite.yaml"
    suite.write_text(f"near: {{only: '{near}'}}\nvalidation_ood: '{photos}'\n")
    command = ["evaluate", str(run.path), "--suite", str(suite), "--protocol", "aps", "--risk", "0.1"]
    assert main([*command, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    reached = result["decision"]
    assert [row["k"] for row in result["protocol"]["tried"]["knn"]] == [50, 100, 200]
    rule = DecisionRule.load(run.evaluation / "decision.json")
    test = rows_of(read_scores(run), "set", "test")
    accepted = decide(test[rule.confidence], test[rule.ood_score], rule.tau_id, rule.tau_ood) == "accept"
    assert reached["test"]["coverage"] == pytest.approx(accepted.mean())
    assert reached["test"]["risk"] == pytest.approx(1 - test["is_correct"][accepted].mean())
    assert reached["validation"]["risk"] <= 0.1
    assert set(reached) >= {"test_and_near", "tau_id", "tau_ood"}
    assert "Decision rule for a risk of 10.00 %" in write_report([run]).read_text()
    assert rule.made_from.keys() == {"checkpoint", "predictions", "scores"}
    assert current_decision(run, "best") == rule
    assert main([*command, "--confidence", "0.9", "--rule", "linear", "--risk", "0.001", "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert not result["decision"]["reached"]
    assert result["decision"]["confidence"] == 0.9
    assert result["joint_rules"]["fitted"]["rectangle"] == "rectangle"
    compared = result["joint_rules"]["near"]
    assert list(compared) == ["rectangle", "linear", "monotone"]
    for name, values in compared.items():
        differs = result["joint_rules"]["fitted"][name] != "rectangle"
        change = values["ds_aurc"] - compared["rectangle"]["ds_aurc"]
        assert change == (pytest.approx(values["difference"]["ds_aurc"]["estimate"]) if differs else 0.0)
    assert "joint rules, fitted on the validation images" in write_report([run]).read_text()
    assert main([*command, "--confidence", "0.8", "--risk", "0.99", "--sets", "aps"]) == 0
    said = capsys.readouterr().out
    rule, decision = DecisionRule.load(run.evaluation / "decision.json"), read_result(run)["decision"]
    assert rule.promise() == decision["promise"]
    assert f"promised: {rule.promise()}" in said
    assert rule.promise().startswith("with 80.0% confidence")
    assert "its price: " in said
    assert decision["coverage"] == decision["validation"]["coverage"] > 0
    assert rule.sets.images < decision["validation"]["images"]
    assert 0 < rule.guarantee.ood_bound == decision["ood_bound"] <= 1
    assert len(rule.guarantee.calibration) == 64
    assert "promised: " in write_report([run]).read_text()
    evaluate_run(run)  # no risk is wanted: a rule that stayed would be of an evaluation that is gone
    assert "decision.json: removed" in capsys.readouterr().err
    assert sorted(run.evaluation.glob("decision.*")) == []


def some_of(name, folder, rows) -> Path:
    """A prepared set of some rows of a built-in one."""
    table = pq.read_table(resolve_path(f"builtin:digits/{name}.parquet"))
    folder.mkdir()
    pq.write_table(table.take(rows), folder / "some.parquet")
    (folder / "classes.json").write_text(json.dumps({"classes": [str(number) for number in range(8)]}))
    return folder / "some.parquet"


def test_thresholds_can_be_chosen_on_images_that_a_user_gives_for_it(run, tmp_path, capsys):
    """Scores are fitted as before; the rule, its promise and the package say what it was calibrated on."""
    given = some_of("validation", tmp_path / "mine", list(range(0, 140, 2)))
    run = copy_of(run, tmp_path)
    risk = ["--scores", "msp", "knn", "--risk", "0.8"]
    assert main(["evaluate", str(run.path), *risk, "--json"]) == 0
    before, first = json.loads(capsys.readouterr().out), DecisionRule.load(run.evaluation / "decision.json")
    assert (before["decision"]["set"], "decided_on" in before) == ("validation", False)
    assert main(["evaluate", str(run.path), *risk, "--calibration", str(given), "--json"]) == 0
    result, rule = json.loads(capsys.readouterr().out), DecisionRule.load(run.evaluation / "decision.json")
    assert (result["scores"], result["fitted_on"]) == (before["scores"], before["fitted_on"])
    assert result["decided_on"]["rows"] == result["decision"]["calibration"]["images"] == 70
    assert "validation" not in result["decision"]
    assert rule.chosen_on.startswith("70 calibration images")
    assert (rule.tau_id, rule.tau_ood) != (first.tau_id, first.tau_ood)

    seen = as_predictions(read_predictions(run.evaluation / "predictions" / "calibration.parquet"))
    fit = fit_data(
        run.config(),
        {name: read_predictions(run.evaluation / "predictions" / f"{name}.parquet") for name in SPLITS},
        load_model(run),
    )
    pair = {name: rule.hyperparameters[name] for name in (rule.confidence, rule.ood_score)}
    scores = [compute_score(name, seen, fit, **values).numpy() for name, values in pair.items()]
    correct = (seen.logits.argmax(1) == seen.labels).numpy()
    expected = choose_thresholds(combine(*scores, correct), 0.8, run.config().evaluate.id_coverage)
    assert (rule.tau_id, rule.tau_ood) == pytest.approx(expected)

    kept = keeping(run, evaluation_config(run, ["evaluate.scores=[energy]"]))
    assert kept.data.calibration == result["decided_on"]["path"]
    promised = [*risk, "--risk", "0.99", "--confidence", "0.8"]
    assert main(["evaluate", str(run.path), *promised, "--calibration", str(given)]) == 0
    said = capsys.readouterr().out
    assert "of the calibration images accepted" in said
    assert "  calibration: 70 images" in said
    assert "thresholds chosen on calibration images" in write_report([run]).read_text()
    packaged = PackagedModel.load(export_run(run)).rule
    assert (
        packaged.guarantee.calibration == packaged.made_from["calibration"] == rule.made_from["calibration"]
    )
    assert packaged.made_from["calibration"] != first.made_from["predictions"]
    assert packaged.made_from["predictions"] not in (first.made_from["predictions"], "")


def test_classes_in_another_order_are_measured_by_name(run, tmp_path, capsys):
    """The digits 7 to 2, as a person might have prepared them apart: same images, same figures."""
    table = pq.read_table(resolve_path("builtin:digits/test.parquet"))
    chosen = table.filter(pc.greater_equal(table["label"], 2))
    for name, names in (("same", [str(n) for n in range(8)]), ("turned", [str(n) for n in range(7, 1, -1)])):
        numbers = pa.array([names.index(str(label)) for label in chosen["label"].to_pylist()])
        (tmp_path / name).mkdir()
        pq.write_table(chosen.set_column(1, "label", numbers), tmp_path / name / "all.parquet")
        (tmp_path / name / "classes.json").write_text(json.dumps({"classes": names}))
    test, fit = (tmp_path / name / "all.parquet" for name in ("turned", "same"))
    run = copy_of(run, tmp_path)
    expected = evaluate_run(run, evaluation_config(run, [f"data.test={fit}"]))["summary"]
    found = evaluate_run(run, evaluation_config(run, [f"data.test={test}"]))
    assert found["summary"] == expected
    predicted = read_predictions(run.evaluation / "predictions" / "test.parquet")["prediction"]
    digits = chosen["label"].to_numpy()
    assert expected["accuracy"] == pytest.approx((predicted == digits).mean())
    stamp = read_stamp(run.evaluation / "predictions" / "test.parquet")["predictions"]
    assert stamp["labels"] == [7, 6, 5, 4, 3, 2]
    assert {key: stamp[key] for key in ("data", "rows")}.items() <= found["measured_on"]["test"].items()
    assert "labels are taken by name (6 of 8 classes)" in capsys.readouterr().err
    by_number = evaluate_run(run, evaluation_config(run, [f"data.test={test}", "data.labels_by=number"]))
    assert by_number["summary"]["accuracy"] == pytest.approx((predicted == 7 - digits).mean())


def test_report_is_one_file_with_real_curves(run):
    page = write_report([run, run]).read_text()
    assert page.count("<svg") >= 8
    assert "http" not in page.replace("http://www.w3.org", "").replace("http://purl", "").replace(
        "http://creative", ""
    ).replace("https://matplotlib", "")
    assert f"{read_result(run)['summary']['accuracy'] * 100:.2f}" in page


def test_command_prints_one_json_object(run, capsys):
    extra = f"far:again={resolve_path('builtin:digits/far_photos.parquet')}"
    (run.evaluation / "table.csv").unlink(missing_ok=True)
    assert main(["evaluate", str(run.path), "--ood", extra, "--scores", "msp", "energy", "--json"]) == 0
    assert "again" in (run.evaluation / "table.csv").read_text()
    result = json.loads(capsys.readouterr().out)
    assert result["sets"]["again"]["energy"] == result["sets"]["photos"]["energy"]
    assert set(result["scores"]) == {"msp", "energy", "knn"}  # knn is the recipe's headline score


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


def test_missing_pieces_are_named(run, capsys):
    assert main(["evaluate", str(run.path), "--ood", "far:x=/nowhere"]) == 2
    assert "data.far_ood.x: /nowhere: " in capsys.readouterr().err
    assert main(["evaluate", str(run.path), "--scores", "mps"]) == 2
    assert "msp" in capsys.readouterr().err
    assert main(["evaluate", str(run.path), "--ood", "far:test=/a"]) == 2
    assert "'test' is taken" in capsys.readouterr().err
    assert main(["evaluate", str(run.path), "--calibration", "builtin:digits/validation.parquet"]) == 2
    assert "--calibration: got images to choose thresholds on, wanted --risk R" in capsys.readouterr().err


def test_what_was_trained_on_is_not_evaluated_on(run, capsys):
    train = run.config().data.train
    for override, message in (
        (f"data.test={train}", "data.train: got images of the test set 'test'"),
        (f"data.validation={train}", "data.validation: got the training images"),
        ("data.validation=null", "the run held no training images out"),
        ("evaluate.bootstrap=9", "evaluate.bootstrap: got resamples with evaluate.protocol=rat_splits"),
    ):
        assert main(["evaluate", str(run.path), override, "--protocol", "rat_splits"]) == 2
        assert message in capsys.readouterr().err


def test_images_that_cannot_be_decoded_are_left_out_where_asked(run, tmp_path, capsys):
    images = pq.read_table(resolve_path("builtin:digits/near_digits89.parquet")).slice(0, 40)
    encoded = [b"" if row in (5, 30) else data for row, data in enumerate(images["image"].to_pylist())]
    path = tmp_path / "broken" / "all.parquet"
    path.parent.mkdir()
    pq.write_table(pa.table({"image": encoded, "label": images["label"]}), path)
    copy = copy_of(run, tmp_path)
    command = ["evaluate", str(copy.path), "--ood", f"far:broken={path}"]
    assert main(command) == 2
    assert "data set 'broken', row 5: empty (0 bytes) (data.on_error=skip" in capsys.readouterr().err
    assert main([*command, "data.on_error=skip", "data.max_errors=1"]) == 2
    assert "data.max_errors: 2 images of data set 'broken'" in capsys.readouterr().err
    assert main([*command, "data.on_error=skip", "data.max_errors=2"]) == 0
    printed = capsys.readouterr().out
    assert "broken: left out 2 images" in printed
    tested = open_dataset(resolve_path("builtin:digits/test.parquet")).rows
    assert re.search(rf"^Images: test {tested:,}; .*broken 38", printed, re.MULTILINE)
    assert re.search(r"^accuracy: \d+\.\d\d% \[\d+\.\d\d%, \d+\.\d\d%\]", printed, re.MULTILINE)
    saved = read_predictions(copy.evaluation / "predictions" / "broken.parquet")
    assert (saved["sample_id"] == np.delete(np.arange(40), [5, 30])).all()


def test_a_score_that_is_not_a_number_is_named():
    columns = {"logits": np.eye(3, dtype=np.float32), "features": np.eye(3, dtype=np.float32)}
    ids = {name: np.arange(3) for name in ("sample_id", "label", "prediction")}
    broken = {"rr_fast": np.array([0.5, np.nan, 0.25], np.float32)}
    with pytest.raises(ValueError, match=r"score rr_fast: got NaN for 1 of 3 images of 'test'"):
        score_table({"test": columns | ids | broken}, {"rr_fast": fit_score("rr_fast")}, {})


def test_labels_are_checked_by_predictions_made_for_it(run, tmp_path):
    path = Path(resolve_path("builtin:digits/test.parquet"))
    table = pq.read_table(path)
    labels = table["label"].to_numpy().copy()
    labels[::10] = (labels[::10] + 1) % 8
    changed = table.set_column(table.column_names.index("label"), "label", pa.array(labels))
    pq.write_table(changed, tmp_path / "changed.parquet")
    shutil.copy(path.parent / "classes.json", tmp_path)
    train = open_dataset(resolve_path("builtin:digits/train.parquet"))
    last = len(labels) - 1
    sets = {"changed": open_dataset(tmp_path / "changed.parquet"), "train": train}
    found = check_labels_with(run, sets, {"changed": (last,)})
    logits = read_predictions(run.evaluation / "predictions" / "test.parquet")["logits"][:last]
    expected = label_errors(torch.tensor(logits).double().softmax(1).numpy(), labels[:last])
    assert len(expected.rows) > 10
    assert set(found["changed"].rows) == set(expected.rows)
    assert (found["changed"].images, found["changed"].trained_on) == (last, 0)
    assert (found["train"].images, found["train"].trained_on) == (train.rows, 256)
    assert len(list((run.evaluation / "predictions").glob("checked-*.parquet"))) == 2


def test_an_ensemble_is_measured_exported_and_ranked_as_one_run(run, tmp_path, capsys):
    copy = copy_of(run, tmp_path)
    best, other = load_model(copy), load_model(copy)
    with torch.no_grad():
        for value in other.parameters():
            value.add_(0.02 * torch.randn(value.shape, generator=torch.Generator().manual_seed(0)))
    forget(copy.checkpoints / "last")  # which may be a third
    save_weights(copy.checkpoints / "second", other, {"step": 99, "num_classes": 8, "metrics": None})
    prune(copy.checkpoints, kept=0)
    command = ["evaluate", str(copy.path), "--ensemble", "--snapshots", "--scores", "msp", "--risk", "0.5"]
    assert main([*command, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    made = RunFolder.open(tmp_path / result["run"])
    assert {"msp", "knn", "mutual_information", "pairwise_kl", "vote_share"} == result["scores"].keys()
    saved = read_predictions(made.evaluation / "predictions" / "test.parquet")
    arrays = decode_datasets({"test": evaluation_selections(made.config())["test"]})["test"]
    images = torch.from_numpy(arrays.images).float() / 255
    with torch.no_grad():
        shares = torch.stack([model(images) for model in (best, other)]).double().softmax(2).mean(0)
    found = torch.from_numpy(saved["logits"]).double().softmax(1)
    torch.testing.assert_close(found, shares, rtol=0, atol=1e-4)
    assert main(["export", str(made.path), "--no-mlflow"]) == 0
    packaged = PackagedModel.load(made.path / "export")
    with torch.no_grad():
        torch.testing.assert_close(packaged.model(images).double().softmax(1), shares, rtol=0, atol=1e-4)
    before = (made.evaluation / "metrics.json").stat().st_mtime_ns
    capsys.readouterr()
    assert main(["leaderboard", str(made.path), "--scores", "msp", "vote_share", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["score"] for row in rows} == {"msp", "vote_share"}
    assert (made.evaluation / "metrics.json").stat().st_mtime_ns == before  # nothing was measured again
