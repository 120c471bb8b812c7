"""Thresholds of a trained run: on which images they are chosen, what they reach, what is promised of them."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rtk.cli import main
from rtk.data.sets.builtin import resolve_path
from rtk.deploy.export import export_run
from rtk.deploy.packaged_model import PackagedModel
from rtk.evaluate.evaluate import evaluate_run
from rtk.evaluate.model import load_model
from rtk.evaluate.predictions_file import read_predictions
from rtk.evaluate.reuse import keeping
from rtk.evaluate.run_decision import current_decision
from rtk.evaluate.score_table import as_predictions, fit_data, rows_of
from rtk.evaluate.sets import evaluation_config
from rtk.report.run_page import write_report
from rtk.runs.results import read_result, read_scores
from rtk.scores import compute_score
from rtk.scores.decision import DECISIONS, DecisionRule, decide
from rtk.scores.threshold_search import choose_thresholds, combine
from tests.evaluate.conftest import copy_of

pytestmark = pytest.mark.slow
SPLITS = ("train", "validation")


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
    exported, test = PackagedModel.load(export_run(run)), read_result(run)["decision"]["test"]
    shares = {name: count / test["images"] for name, count in exported.expected.items()}
    assert shares == pytest.approx({name: test[name] for name in DECISIONS})
    packaged = exported.rule
    assert (
        packaged.guarantee.calibration == packaged.made_from["calibration"] == rule.made_from["calibration"]
    )
    assert packaged.made_from["calibration"] != first.made_from["predictions"]
    assert packaged.made_from["predictions"] not in (first.made_from["predictions"], "")
