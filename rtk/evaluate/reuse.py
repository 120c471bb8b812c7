"""Whether a run has been measured already as is wanted now, so that nothing has to be done again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from rtk.config.errors import ConfigError
from rtk.config.schema import EvaluateConfig, RunConfig
from rtk.data.sets.class_names import labels_hash
from rtk.data.sets.dataset import content_hash
from rtk.evaluate.sets import binding_record, configured_ood, evaluation_selections
from rtk.runs.folder import RunFolder
from rtk.scores.selection import given_hyperparameters
from rtk.train.checkpoint import read_state

SETTINGS = "evaluated_with"  # of `metrics.json`: the keys of `evaluate`
DECIDED_ON = "decided_on"  # and the images of `data.calibration`
# Keys that figures depend on, and keys of the decision rule, which another evaluation must not take away.
MEASURING = ("confidence", "ood_score", "ds_method", "protocol", "search_images", "knn_k")
DECIDING = ("risk", "id_coverage", "rule", "guarantee", "prediction_sets")


def is_measured(run: RunFolder, config: RunConfig, names: Iterable[str], checkpoint: str = "best") -> bool:
    """Whether the last evaluation of a run has the figures of some scores that this config would give.

    Args:
        run: a trained run.
        config: of `evaluation_config`.
        names: of scores.
        checkpoint: `best` or `last`.

    Raises:
        ConfigError: a set is missing, see `evaluation_selections`.
    """
    result = run.read_json("evaluation/metrics.json")
    if result is None or SETTINGS not in result or not (run.evaluation / "scores.parquet").exists():
        return False
    before, now = result[SETTINGS], config.evaluate
    at = {"checkpoint": checkpoint, "step": read_state(run.checkpoints / checkpoint)["step"]}
    return (
        all(result[key] == value for key, value in at.items())
        and set(names) <= result["scores"].keys()
        and all(before.get(key) == getattr(now, key) for key in MEASURING)
        and now.bootstrap in (0, before["bootstrap"])
        and _given(before, names) == _given(now.model_dump(mode="json"), names)
        and result["groups"] == {name: entry.group for name, entry in configured_ood(config).items()}
        and result["measured_on"] == _images(run, config)
    )


def _given(settings: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Hyper-parameters of some scores that were given."""
    given = given_hyperparameters(_as_config(settings))
    return {name: given[name] for name in names if name in given}


def _images(run: RunFolder, config: RunConfig) -> dict[str, Any]:
    """What `measured_on` would say: content and rows of the sets, and how the test's labels are read."""
    selections = evaluation_selections(config, None, binding_record(run, config))
    tested = ("test", *config.data.csid, *configured_ood(config))
    images: dict[str, Any] = {
        name: {"data": content_hash(selections[name].dataset), "rows": len(selections[name])}
        for name in tested
    }
    images["test"]["labels"] = labels_hash(selections["test"].dataset)
    return images


def keeping(run: RunFolder, config: RunConfig) -> RunConfig:
    """A config of an evaluation with the decision rule and the scores of the one before, if there was one.

    What is measured anew then has what it had, and more.
    """
    result = run.read_json("evaluation/metrics.json") or {}
    before = result.get(SETTINGS)
    if before is None:
        return config
    now = config.evaluate.model_dump(mode="json")
    kept = {key: before[key] for key in DECIDING if key in before}
    given = _as_mapping(before["scores"]) | _as_mapping(now["scores"])
    evaluate = _as_config({**now, **kept, "scores": given})
    path = result.get(DECIDED_ON, {}).get("path", config.data.calibration)
    data = config.data.model_copy(update={"calibration": path})
    return config.model_copy(update={"evaluate": evaluate, "data": data})


def _as_config(settings: Mapping[str, Any]) -> EvaluateConfig:
    try:
        return EvaluateConfig.model_validate(settings)
    except ValidationError as error:
        key = ".".join(map(str, error.errors()[0]["loc"]))
        raise ConfigError(
            f"evaluation/metrics.json: damaged: {SETTINGS}.{key} is nothing that rtk evaluate writes"
        ) from None


def _as_mapping(scores: Any) -> dict[str, Any]:
    return dict(scores) if isinstance(scores, Mapping) else {name: {} for name in scores}
