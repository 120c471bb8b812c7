"""Whether what has been measured is what is wanted: one thing that differs is enough."""

from __future__ import annotations

import pytest
import torch

from rtk.config import ConfigError, load_config
from rtk.evaluate.reuse import SETTINGS, _images, is_measured, keeping
from rtk.evaluate.sets import configured_ood, evaluation_config
from rtk.runs.folder import RunFolder
from rtk.train.imported import import_weights
from tests.models.published_networks import CifarResNet, settle


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunFolder:
    """A run whose last evaluation is made up, but for what says how it was made."""
    output = tmp_path_factory.mktemp("runs")
    torch.save(settle(CifarResNet(2, 8)).state_dict(), output / "w.pt")
    config = load_config("digits_ce", ["model.width=2", f"output={output}"])
    return import_weights(output / "w.pt", config, "a").run


def measured(run, *overrides, **changes):
    config = evaluation_config(run, overrides)
    settings = config.evaluate.model_dump(mode="json")
    result = {
        "checkpoint": "best",
        "step": 0,
        SETTINGS: settings,
        "scores": {"msp": {}, "knn": {}},
        "groups": {name: entry.group for name, entry in configured_ood(config).items()},
        "measured_on": _images(run, config),
    }
    run.write_json("evaluation/metrics.json", result | changes)
    (run.evaluation / "scores.parquet").touch()


def is_there(run, *overrides, names=("msp", "knn")):
    return is_measured(run, evaluation_config(run, overrides), names)


def test_the_same_is_not_measured_again(run):
    measured(run)
    assert is_there(run)
    assert is_there(run, "evaluate.scores=[msp]", names=["msp"])
    assert is_there(run, "evaluate.actors=2", "evaluate.risk=0.1")


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        ([], ["msp", "vim"]),
        (["evaluate.protocol=rat_splits"], ["msp"]),
        (["evaluate.scores.knn.k=3"], ["msp", "knn"]),
        (["evaluate.bootstrap=10"], ["msp"]),
        (["data.far_ood={}"], ["msp"]),
        (["data.far_ood.photos=builtin:digits/near_digits89.parquet"], ["msp"]),
        (
            ["data.test=builtin:digits/validation.parquet", "data.validation=builtin:digits/test.parquet"],
            ["msp"],
        ),
    ],
)
def test_what_differs_is_measured_again(run, overrides, names):
    measured(run)
    assert not is_there(run, *overrides, names=names)


@pytest.mark.parametrize("change", [{"step": 3}, {"checkpoint": "last"}, {SETTINGS: None}])
def test_another_checkpoint_or_an_older_rtk_is_measured_again(run, change):
    measured(run, **change)
    if change.get(SETTINGS, "") is None:
        result = run.read_json("evaluation/metrics.json")
        del result[SETTINGS]
        run.write_json("evaluation/metrics.json", result)
    assert not is_there(run)
    run.remove_json("evaluation/metrics.json")
    assert not is_there(run)
    config = evaluation_config(run)
    assert keeping(run, config) == config


def test_a_new_evaluation_keeps_the_rule_and_the_scores_of_the_one_before(run):
    measured(run, "evaluate.risk=0.05", "evaluate.scores={msp: {}, knn: {k: 7}}")
    kept = keeping(run, evaluation_config(run, ["evaluate.scores=[vim]"])).evaluate
    assert kept.risk == 0.05
    assert kept.scores == {"msp": {}, "knn": {"k": 7}, "vim": {}}


def test_settings_that_are_none_are_named(run):
    settings = evaluation_config(run, ()).evaluate.model_dump(mode="json")
    measured(run, **{SETTINGS: settings | {"guarantee": "a"}})
    with pytest.raises(ConfigError, match=r"damaged: evaluated_with\.guarantee"):
        keeping(run, evaluation_config(run, ()))
