"""The study of a sweep: what is drawn, and what a journal remembers."""

from __future__ import annotations

import pytest
from optuna.trial import TrialState

from rtk.config.errors import ConfigError
from rtk.config.search_space import parse_space
from rtk.runtime.ray_session import start_ray  # noqa: F401 (before ray.tune, whose settings it makes)
from rtk.tune.study import build_sampler, draw, open_study, remaining_trials

TREE = {
    "objectives": {"val/ds_aurc_near": "min"},
    "trials": 40,
    "space": {
        "sharpness.variant": {"choice": ["fsam", "none"]},
        "sharpness.rho": {"loguniform": [0.01, 0.5], "when": {"sharpness.variant": ["fsam"]}},
        "objective.regpixmix.k": {"randint": [1, 3]},
        "model.temperature": {"quniform": [2.0, 4.0, 0.5]},
    },
}


@pytest.mark.parametrize("sampler", ["tpe", "gp", "nsga2", "random"])
def test_every_sampler_draws_within_the_space(tmp_path, sampler):
    space = parse_space({**TREE, "sampler": {"name": sampler, "startup": 4, "population": 4}}, "here")
    study = open_study(tmp_path, space)
    drawn = []
    for _ in range(12):
        trial = study.ask()
        drawn.append(draw(trial, space))
        study.tell(trial, drawn[-1]["model.temperature"])
    for values in drawn:
        assert ("sharpness.rho" in values) == (values["sharpness.variant"] == "fsam")
        assert all(space.space[key].contains(value) for key, value in values.items())
        assert values["model.temperature"] % 0.5 == 0
    assert {values["objective.regpixmix.k"] for values in drawn} <= {1, 2, 3}
    assert {values["sharpness.variant"] for values in drawn} == {"fsam", "none"}


@pytest.mark.parametrize("sampler", ["tpe", "gp", "nsga2", "random"])
@pytest.mark.parametrize("seed", [2**32 - 1, 2**32, 2**63 - 1])
def test_every_sampler_takes_the_seeds_that_a_recipe_takes(sampler, seed):
    config = parse_space({**TREE, "sampler": {"name": sampler, "seed": seed}}, "here").sampler
    assert build_sampler(config, seed_offset=3) is not None


def test_a_seed_that_no_recipe_takes_is_named_at_once():
    with pytest.raises(
        ConfigError, match=r"here: sampler.seed: got 9223372036854775808, wanted .* less than"
    ):
        parse_space({**TREE, "sampler": {"seed": 2**63}}, "here")


def searcher(folder, space, ended):
    from rtk.tune.searcher import StudySearcher

    return StudySearcher(open_study(folder, space), space, ended.append)


def test_what_was_running_is_handed_out_again_and_nothing_is_lost(tmp_path):
    space, ended = parse_space({**TREE, "trials": 5}, "here"), []
    first = searcher(tmp_path, space, ended)
    given = {name: first.suggest(name) for name in ("a", "b", "c", "d")}
    first.on_trial_result("a", {"epoch": 1, "val/ds_aurc_near": 0.5})
    first.on_trial_complete("a", {"epoch": 2, "finished": True, "val/ds_aurc_near": 0.25})
    first.on_trial_result("b", {"epoch": 1, "val/ds_aurc_near": 0.75})
    first.on_trial_complete("b", {"epoch": 1, "finished": False, "val/ds_aurc_near": 0.75})
    first.on_trial_complete("c", {"failed": "out of memory"})
    assert [trial.state for trial in ended] == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]

    # As after kill -9: only the journal is left.
    second = searcher(tmp_path, space, ended)
    assert remaining_trials(second.study, space) == 2
    assert second.suggest("x") == given["d"]
    assert second.suggest("y")["number"] == 4
    second.on_trial_complete("x", {"epoch": 2, "finished": True, "val/ds_aurc_near": float("nan")})
    second.on_trial_complete("y", None, error=True)
    states = [trial.state.name for trial in second.study.trials]
    assert states == ["COMPLETE", "PRUNED", "FAIL", "FAIL", "FAIL"]
    reasons = [trial.user_attrs.get("reason") for trial in second.study.trials]
    assert reasons[2] == "out of memory"
    assert "nan" in reasons[3]
    assert "its process died" in reasons[4]
    assert remaining_trials(second.study, space) == 0


def test_a_paused_trial_that_is_stopped_is_pruned_with_its_last_value(tmp_path):
    """HyperBand does not give its result again."""
    ended: list = []
    only = searcher(tmp_path, parse_space({**TREE, "trials": 1}, "here"), ended)
    only.suggest("a")
    only.on_trial_result("a", {"epoch": 1, "finished": False, "val/ds_aurc_near": 0.875})
    only.on_trial_complete("a", None)
    assert ended[0].state == TrialState.PRUNED
    assert ended[0].user_attrs["values"] == [0.875]


def test_a_renamed_sweep_keeps_its_study(tmp_path):
    space, first = parse_space({**TREE, "trials": 1}, "here"), tmp_path / "a"
    first.mkdir()
    searcher(first, space, []).suggest("x")
    assert len(open_study(first.rename(tmp_path / "b"), space).trials) == 1


def test_asha_goes_on_with_the_rungs_of_before(tmp_path):
    from ray.tune.schedulers import TrialScheduler

    from rtk.tune.scheduler import build_scheduler

    space = parse_space({**TREE, "scheduler": {"name": "asha", "grace": 1, "reduction": 2}}, "here")
    study = open_study(tmp_path, space)
    for value in (0.1, 0.2, 0.3):
        trial = study.ask()
        trial.report(value, 1)
        study.tell(trial, value)
    scheduler = build_scheduler(space, 4, study, tmp_path)

    class New:
        trial_id = "new"

    scheduler.on_trial_add(None, New)
    result = {"epoch": 1, "val/ds_aurc_near": 0.9}
    assert scheduler.on_trial_result(None, New, result) == TrialScheduler.STOP
