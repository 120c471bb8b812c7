"""Whether the figures of several runs were measured on the same, so that one may be called better.

What decides is the content of the sets, not their paths or names: hashes that training and evaluation wrote.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rtk.config.data import GROUPS
from rtk.config.load import flatten
from rtk.config.metric_names import FULL_SPECTRUM, VALIDATION
from rtk.evaluate.predictions_file import read_stamp
from rtk.runs.checkpoints import has_checkpoint
from rtk.runs.data_record import DataRecord
from rtk.runs.folder import RunFolder
from rtk.runs.results import read_result
from rtk.train.checkpoint import class_count

SHOWN_DIGITS = 8  # of a hash
MOST_NAMES = 3  # of runs or classes, in a line


class Condition(NamedTuple):
    """One thing that figures depend on: what must be equal, and how it is shown."""

    value: Any
    shown: str


def unlike_runs(runs: Mapping[str, RunFolder], metrics: Sequence[str]) -> list[str]:
    """What some metrics of runs, by name, were not measured alike on: a line each."""
    return unlike({name: conditions_of(run, metrics) for name, run in runs.items()})


def unlike(runs: Mapping[str, Mapping[str, Condition]]) -> list[str]:
    """What is not the same for all runs, a line each, with what it is for whom.

    Args:
        runs: conditions by what they are about, by name of the run. What a run does not say is not compared.
    """
    lines = []
    for about in dict.fromkeys(about for known in runs.values() for about in known):
        names: dict[Any, list[str]] = {}
        shown: dict[Any, str] = {}
        for name, known in runs.items():
            if about in known:
                names.setdefault(known[about].value, []).append(name)
                shown.setdefault(known[about].value, known[about].shown)
        if len(names) > 1:
            parts = (f"{shown[value]} in {_some(own)}" for value, own in names.items())
            lines.append(f"{about}: {'; '.join(parts)}")
    return lines


def conditions_of(run: RunFolder, metrics: Sequence[str]) -> dict[str, Condition]:
    """What some metrics of a run depend on, as far as it is written down."""
    found = dict(_classes(run))
    of_validation = [metric for metric in metrics if metric.startswith(VALIDATION)]
    if of_validation:
        found |= dict(_of_validation(run, _groups(of_validation)))
    of_test = [metric for metric in metrics if not metric.startswith(VALIDATION)]
    if of_test and (run.evaluation / "metrics.json").exists():
        found |= dict(_of_test(run, _groups(of_test), any(m.startswith(FULL_SPECTRUM) for m in of_test)))
    return found


def _groups(metrics: Sequence[str]) -> list[str]:
    return [group for group in GROUPS if any(metric.endswith(f"_{group}") for metric in metrics)]


def _classes(run: RunFolder) -> Iterator[tuple[str, Condition]]:
    names, last = DataRecord.read(run.path).classes, run.checkpoints / "last"
    if names:
        yield "class names", Condition(tuple(sorted(names)), _some(names))
    if names or has_checkpoint(last):
        count = len(names) or class_count(last)
        yield "number of classes", Condition(count, str(count))


def _of_validation(run: RunFolder, groups: Sequence[str]) -> Iterator[tuple[str, Condition]]:
    """Images, OOD sets and score of the metrics of each epoch; images held out differ from seed to seed."""
    record, config = DataRecord.read(run.path), dict(flatten(run.config_tree()))
    if "validation" in record.hashes:
        yield "validation images", _images({"validation": {"data": record.hashes["validation"]}})
    elif "train" in record.hashes:
        name = f"{config['data.validation_fraction']:g} of train"
        yield (
            "validation images",
            _images({name: {"data": record.hashes["train"], "share": config["data.validation_fraction"]}}),
        )
    for group in groups:
        start = f"validation_{group}_ood."
        keys = [key for key in record.hashes if key.startswith(start)]
        yield (
            f"{group}-OOD validation images",
            _images({key.removeprefix(start): {"data": record.hashes[key]} for key in keys}),
        )
    for key in ("validation_score", "ds_method") if groups else ():
        if f"evaluate.{key}" in config:
            yield f"evaluate.{key}", Condition(config[f"evaluate.{key}"], config[f"evaluate.{key}"])


def _of_test(run: RunFolder, groups: Sequence[str], full: bool) -> Iterator[tuple[str, Condition]]:
    """Images of the test and OOD sets, of the `full` spectrum too, scores and protocol of the evaluation."""
    result = read_result(run)
    measured = result.get("measured_on") or _stamped(run, ("test", *result["groups"]))
    sets = {"test images": ["test"]} | {
        f"{group}-OOD images": [name for name, own in result["groups"].items() if own == group]
        for group in groups
    }
    sets["images under covariate shift"] = (
        list(result.get("full_spectrum", {}).get("csid", ())) if full else []
    )
    for about, names in sets.items():
        if names and all(name in measured for name in names):
            yield about, _images({name: measured[name] for name in names})
    labels = measured.get("test", {}).get("labels")
    if labels is not None:
        yield "names that the test's labels are read as", Condition(labels, labels[:SHOWN_DIGITS])
    protocol = result["protocol"]
    settings = {key: result.get(key) for key in ("confidence", "ood_score", "ds_method")}
    settings["protocol"] = protocol["name"]
    settings["evaluate.search_images"] = protocol.get("search_images")  # of rat_splits alone
    deciding = dict.fromkeys((result["confidence"], result["ood_score"]))
    for name in deciding if protocol["name"] == "fixed" else ():
        settings[f"k of {name}"] = protocol["hyperparameters"].get(name, {}).get("k")
    for about, value in settings.items():
        if value is not None:
            yield about, Condition(value, str(value))


def _stamped(run: RunFolder, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What older evaluations were measured on, as their predictions say."""
    stamps = {name: read_stamp(run.evaluation / "predictions" / f"{name}.parquet") for name in names}
    return {
        name: {key: stamp["predictions"][key] for key in ("data", "rows")}
        for name, stamp in stamps.items()
        if stamp
    }


def _images(sets: Mapping[str, Mapping[str, Any]]) -> Condition:
    """Sets by the content and number of their images, whatever they are called."""
    shown = [f"{name} {one['data'][:SHOWN_DIGITS]}{_rows(one)}" for name, one in sets.items()]
    value = tuple(sorted((one["data"], one.get("rows", 0), one.get("share", 0)) for one in sets.values()))
    return Condition(value, " + ".join(shown) or "none")


def _rows(one: Mapping[str, Any]) -> str:
    return f" ({one['rows']:,} images)" if "rows" in one else ""


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more
