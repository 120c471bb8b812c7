"""Comparisons of run folders whose metrics are known."""

from __future__ import annotations

import csv
import json

import pytest
from optuna.trial import TrialState

from rtk.cli import main
from rtk.config import ConfigError, load_config
from rtk.config.search_space import parse_space
from rtk.report.comparison import compare
from rtk.report.comparison_page import _settings, _tables, write_comparison
from rtk.report.comparison_table import as_text, short_keys
from rtk.runs.folder import RunFolder
from rtk.runs.sweep import Sweep
from rtk.tune.study import draw, open_study


@pytest.fixture
def runs(tmp_path):
    """Three seeds of a baseline and three of a better variant; the better one is better with every seed."""
    made = []
    for lr, gain in ((0.05, 0.0), (0.1, 0.02)):
        for seed in range(3):
            overrides = [
                f"output={tmp_path}",
                f"seed={seed}",
                f"optimizer.lr={lr}",
                "tracking.experiment=mine",
            ]
            run = RunFolder.create(load_config("digits_ce", overrides))
            run.append_metrics(9, 1.0, {"val/accuracy": 0.5})
            accuracy = 0.9 + 0.01 * seed + gain
            run.append_metrics(18, 2.0, {"val/accuracy": accuracy, "val/ds_aurc_near": 0.3 - gain})
            made.append(run)
    return made


def test_seeds_are_grouped_and_only_what_differs_is_shown(runs, tmp_path):
    found = compare([str(run.path) for run in runs])
    assert [len(group.entries) for group in found.groups] == [3, 3]
    better, worse = found.groups
    assert better.values("val/ds_aurc_near") == pytest.approx([0.28] * 3)
    assert worse.values("val/accuracy") == pytest.approx([0.9, 0.91, 0.92])


def test_a_difference_that_every_seed_shows_is_significant(runs):
    found = compare([str(run.path) for run in runs])
    by_metric = {one.metric: one for one in found.differences}
    accuracy = by_metric["val/accuracy"]
    # Paired by seed every difference is 0.02, so the interval is a point, though the groups overlap.
    assert (accuracy.low, accuracy.difference, accuracy.high) == pytest.approx((0.02, 0.02, 0.02))
    assert accuracy.is_significant
    assert accuracy.seeds == 3


def test_groups_are_compared_by_their_names_and_paired_by_seed(make_run, tmp_path, capsys):
    for seed in (2, 0, 1):
        make_run(f"a-seed{seed}", seed, skill=0.1, overrides=(f"seed={seed}", "optimizer.lr=0.1"))
    for seed in (1, 2, 3):
        make_run(f"b-seed{seed}", seed, skill=0.3, overrides=(f"seed={seed}",))
    found = compare(["a", "b"], output=str(tmp_path))
    assert found.given == ["a", "b"]
    seeds = {group.label: [entry.seed for entry in group.entries] for group in found.groups}
    assert seeds == {"a": [0, 1, 2], "b": [1, 2, 3]}
    (aurc,) = (one for one in found.differences if one.metric == "aurc")
    by_seed = {
        group.label: {entry.seed: entry.metrics["aurc"] for entry in group.entries} for group in found.groups
    }
    paired = [by_seed["b"][seed] - by_seed["a"][seed] for seed in (1, 2)]
    assert (aurc.seeds, aurc.difference) == (2, pytest.approx(sum(paired) / 2))
    assert min(paired) - 1e-12 <= aurc.low <= aurc.high <= max(paired) + 1e-12
    assert main(["report", "a", "--output", str(tmp_path), "--out", str(tmp_path / "a.html")]) == 0
    assert all(f"a-seed{seed}" in (tmp_path / "a.html").read_text() for seed in range(3))


def test_a_group_that_was_not_measured_alike_has_no_mean(make_run, tmp_path):
    make_run("a-seed0", 0, overrides=("seed=0",))
    other = make_run("a-seed1", 1, overrides=("seed=1",))
    result = json.loads((other.evaluation / "metrics.json").read_text())
    (other.evaluation / "metrics.json").write_text(json.dumps({**result, "ds_method": "grid"}))
    found = compare(["a"], output=str(tmp_path))
    assert [group.label for group in found.groups] == ["a-seed0", "a-seed1"]
    assert found.unlike == ["ds_method: exact in a-seed0; grid in a-seed1"]
    (group,) = compare(["a"], output=str(tmp_path), force=True).groups
    assert len(group.entries) == 2


def test_where_and_experiment(runs, tmp_path):
    chosen = compare(
        experiment="mine",
        output=str(tmp_path),
        where="params.optimizer.lr = 0.1 and metrics.val/accuracy > 0.925",
    )
    assert [entry.seed for group in chosen.groups for entry in group.entries] == [1, 2]
    with pytest.raises(ConfigError, match="no run under"):
        compare(experiment="other", output=str(tmp_path))
    with pytest.raises(ConfigError, match="--where: got 'lr 0.1', wanted such as"):
        compare(experiment="mine", output=str(tmp_path), where="lr 0.1")
    with pytest.raises(ConfigError, match="the nearest there is is params.optimizer.lr"):
        compare(experiment="mine", output=str(tmp_path), where="params.optimzer.lr = 0.1")
    with pytest.raises(ConfigError, match="--where: got the value"):
        compare(experiment="mine", output=str(tmp_path), where="params.seed = [")
    without = compare(experiment="mine", output=str(tmp_path), where="params.data.train_rows = null")
    assert sum(len(group.entries) for group in without.groups) == len(runs)
    with pytest.raises(ConfigError, match="holds for none"):
        compare(experiment="mine", output=str(tmp_path), where="params.optimizer.lr = 7")
    with pytest.raises(ConfigError, match="got 'val/acuracy', wanted one of"):
        compare(experiment="mine", output=str(tmp_path), metrics=["val/acuracy"])
    with pytest.raises(ConfigError, match="just one of them"):
        compare()


def test_command_line_writes_table_json_csv_and_page(runs, tmp_path, capsys):
    names = [str(run.path) for run in runs]
    assert main(["compare", *names]) == 0
    text = capsys.readouterr().out
    assert "91.00 ± 1.00" in text
    assert "lr=0.1" in text
    assert "significant (3 seeds)" in text
    table, page = tmp_path / "t.csv", tmp_path / "page.html"
    assert main(["compare", *names, "--json", "--csv", str(table), "--html", str(page)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [record["params"]["optimizer.lr"] for record in found["runs"]] == [0.1] * 3 + [0.05] * 3
    assert found["differences"][0]["significant"]
    rows = list(csv.DictReader(table.open()))
    assert [float(row["metrics.val/ds_aurc_near"]) for row in rows] == pytest.approx([0.28] * 3 + [0.3] * 3)
    html = page.read_text()
    assert html.count("<svg") == 1  # parallel coordinates
    assert "http" not in html.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    ).replace("https://matplotlib.org", "")


@pytest.fixture
def sweep(tmp_path):
    """A two-objective sweep whose trials are known: 0 and 1 are on the front, 2 is beaten, 3 failed."""
    tree = {
        "objectives": {"val/accuracy": "max", "val/ds_aurc_near": "min"},
        "trials": 4,
        "space": {"optimizer.lr": {"loguniform": [0.01, 0.1]}},
    }
    space, config = parse_space(tree, "here"), load_config("digits_ce", [f"output={tmp_path}"])
    sweep = Sweep.create(space, config, "two")
    study = open_study(sweep.path, space)
    for number, values in enumerate([(0.9, 0.1), (0.95, 0.2), (0.85, 0.3), None]):
        trial = study.ask()
        lr = draw(trial, space)["optimizer.lr"]
        run = RunFolder.create(
            load_config("digits_ce", [f"output={sweep.path}", f"optimizer.lr={lr}"]), f"trial-{number:04d}"
        )
        if values is None:
            trial.set_user_attr("reason", "out of memory")
            study.tell(trial, state=TrialState.FAIL)
        else:
            run.append_metrics(5, 1.0, dict(zip(space.metrics, values, strict=True)))
            study.tell(trial, values)
    return sweep


def test_a_sweep_has_a_pareto_front_and_reasons_of_failures(sweep, tmp_path, capsys):
    page = tmp_path / "sweep.html"
    assert main(["compare", "--sweep", "two", "--output", str(tmp_path), "--json", "--html", str(page)]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    by_number = {run["number"]: run for run in runs}
    assert [by_number[number]["pareto"] for number in range(4)] == [True, True, False, False]
    assert [run["number"] for run in runs] == [1, 0, 2, 3]  # by the first objective, failures last
    assert by_number[3]["reason"] == "out of memory"
    html = page.read_text()
    for title in ("Pareto front", "Optimisation history", "out of memory"):
        assert title in html
    assert main(["compare", "--sweep", "two", "--output", str(tmp_path)]) == 0
    assert "complete, on the front" in capsys.readouterr().out


def test_short_keys_stay_apart():
    keys = ["optimizer.lr", "objective.regmixup.weight", "objective.regpixmix.weight", "seed"]
    assert short_keys(keys) == ["lr", "regmixup.weight", "regpixmix.weight", "seed"]


def test_settings_are_rows_and_what_has_no_effect_is_hidden(tmp_path):
    runs = []
    for overrides in (
        ["sharpness.rho=0.1"],
        ["sharpness.variant=sam", "sharpness.rho=0.2", "averaging.decay=0.9"],
    ):
        run = RunFolder.create(load_config("digits_ce", [f"output={tmp_path}", *overrides]))
        run.append_metrics(9, 1.0, {"val/accuracy": 0.9 + 0.05 * len(runs), "val/aurc": 0.02})
        runs.append(run)
    found = compare([str(run.path) for run in runs])
    (settings,) = _settings(found)
    assert settings.columns == [run.name for run in runs]
    texts = {name: [cell.text for cell in cells] for name, cells in settings.rows}
    assert texts == {"sharpness.variant": ["none", "sam"], "sharpness.rho": ["–", "0.2"]}
    (table,) = _tables(found)
    rows = dict(table.rows)
    place = table.columns.index("val accuracy %")
    assert (rows[runs[1].name][place].text, rows[runs[1].name][place].around) == ("95.00", "+5.00")
    assert rows[runs[0].name][place].around == ""
    text = as_text(found.groups, found.metrics)
    assert "decay" not in text
    assert text.count("rho=") == 1


def test_one_unit_throughout_a_sweep(sweep, tmp_path):
    found = compare(sweep="two", output=str(tmp_path))
    html = write_comparison(found, tmp_path / "page.html").read_text()
    assert "95.00" in html  # of the table
    assert "val accuracy % (max)" in html
    assert "val DS-AURC near ‰ (min)" in html
    assert "val/accuracy (max)" not in html
    assert "lr (log)" in html
    assert found.importances == {}  # of three trials
    assert "Importance" not in html
