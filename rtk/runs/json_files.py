"""Reading back the JSON files of a run: one that is damaged is named when it is read, with what is wrong.

What reads them goes far into them, in many places. So what a file may hold is said here, once: a value where
a word is wanted, or a time beyond the calendar, is found before anything is done with it. Keys that are not
named may be there: other versions write others.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from rtk.config.errors import ConfigError
from rtk.runs.file_records import SAMPLED

Shape: TypeAlias = Callable[[Any], bool] | Mapping[str, Any] | list[Any]
ANY = "*"  # the key of a shape for what keys are not named
MOST_CLASSES = 10**6
LARGEST, LAST_SECOND = 2**63, 2**35  # the latter in the year 3058


def is_anything(value: Any) -> bool:
    """Whether it is any value."""
    return True


def is_text(value: Any) -> bool:
    """Whether it is a word that can be encoded: half a surrogate pair cannot."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def is_flag(value: Any) -> bool:
    """Whether it is true or false."""
    return isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether it is a number; one that is not finite is, for a metric may be NaN."""
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, float) or (is_whole and abs(value) < LARGEST)


def is_count(value: Any) -> bool:
    """Whether it is a number of things, or of a step."""
    return isinstance(value, int) and is_number(value) and value >= 0


def is_class_count(value: Any) -> bool:
    """Whether it is a number of classes, for which a head is built."""
    return is_count(value) and 0 < value <= MOST_CLASSES


def is_time(value: Any) -> bool:
    """Whether it is a time in seconds since 1970."""
    return is_number(value) and math.isfinite(value) and 0 <= value < LAST_SECOND


def is_length(value: Any) -> bool:
    """Whether it is a time that something takes, in seconds."""
    return is_number(value) and (math.isnan(value) or abs(value) < LAST_SECOND)


def or_none(shape: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Null, or what another one wants."""
    return lambda value: value is None or shape(value)


def is_mapping(value: Any) -> bool:
    """Whether it is a mapping of anything."""
    return isinstance(value, dict)


def is_metrics(value: Any) -> bool:
    """Whether it is numbers by name, some of which may not be known."""
    return isinstance(value, dict) and all(map(or_none(is_number), value.values()))


def is_figure(value: Any) -> bool:
    """Whether it is what is measured: a number, one that is not known, or several (an interval, say)."""
    if isinstance(value, dict | list):
        return all(map(is_figure, value.values() if isinstance(value, dict) else value))
    return value is None or is_flag(value) or is_number(value)


def is_checksums(value: Any) -> bool:
    """Whether it is the checksums of a long file's blocks."""
    return isinstance(value, list) and len(value) > SAMPLED and all(map(is_count, value))


NESTED = {ANY: {ANY: is_figure}}
RANK: dict[str, Shape] = {
    "rank": is_count,
    "host": is_text,
    "step": is_count,
    "samples": is_count,
    "data_wait": is_number,
    "collective": is_number,
    "memory_gib": or_none(is_number),
    "silent": is_length,
}
FILE: dict[str, Shape] = {"bytes": is_count, "sha256": is_text, "blocks": is_checksums}
SHAPES: dict[str, Shape] = {
    "status.json": {
        "status": is_text,
        "keep_checkpoints": is_flag,
        "tags": {ANY: is_anything},
        "started": is_time,
        "ended": or_none(is_time),
    },
    "progress.json": {
        "phase": is_text,
        "step": is_count,
        "total_steps": is_count,
        "epoch": is_number,
        "epochs": is_number,
        "seconds_left": or_none(is_length),
        ANY: or_none(is_number),
    },
    "vitals.json": {"host": is_text, "time": is_time, "ranks": [RANK]},
    "state.json": {
        "step": is_count,
        "num_classes": is_class_count,
        "world_size": is_count,
        "kinds": [is_text],
        "metrics": or_none(is_metrics),
        "scalars": {},
        "optimizer": or_none(is_text),
    },
    "manifest.json": {
        "step": is_count,
        "world_size": is_count,
        "saved": or_none(is_text),
        "metrics": or_none(is_metrics),
        "files": {ANY: FILE},
        "config": or_none(is_text),
    },
    "best.json": {"step": is_count, ANY: or_none(is_number)},
    "environment.json": {
        "rtk": is_text,
        "packages": {ANY: or_none(is_text)},
        "data": {ANY: is_text},
        "classes": [is_text],
        "folder": or_none(is_text),
        "hardware": {},
        "plugins": {ANY: is_text},
    },
    "mlflow.json": {
        "uri": is_text,
        "run_id": or_none(is_text),
        "status": or_none(is_mapping),
        "marks": {ANY: is_number},
    },
    "evaluation/metrics.json": {
        "summary": {ANY: or_none(is_number)},
        "test": NESTED,
        "scores": NESTED,
        "sets": {ANY: NESTED},
        "groups": {ANY: is_text},
        "paths": {ANY: is_text},
        "protocol": {"name": is_text},
        "step": is_count,
        "confidence": is_text,
        "ood_score": is_text,
        "ds_method": is_text,
        "run": is_text,
        "checkpoint": is_text,
        "evaluated_with": or_none(is_mapping),
        "full_spectrum": {},
    },
}


def read_json(path: Path, name: str | None = None) -> dict[str, Any]:
    """Content of a JSON file that rtk has written, a mapping.

    Args:
        path: of the file.
        name: in `SHAPES`, such as `evaluation/metrics.json`; by default that of the file.

    Raises:
        ConfigError: it is no JSON, or holds something else than rtk writes; names the file and the key.
        OSError: it cannot be read.
    """
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path}: damaged, wanted a file")
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: damaged, wanted JSON ({error})") from None
    fault = first_fault(content, SHAPES.get(name or path.name, {}))
    if fault is not None:
        raise ConfigError(f"{path}: damaged: {fault}, which rtk does not write")
    return content


def first_fault(content: Any, shape: Shape, key: str = "") -> str | None:
    """What does not have its shape, with its dotted key; None where all does."""
    if callable(shape):
        return None if shape(content) else f"{key or 'it'} is {repr(content)[:60]}"
    wanted, word = (list, "list") if isinstance(shape, list) else (dict, "mapping")
    if not isinstance(content, wanted):
        return f"{key or 'it'} is {repr(content)[:60]}, no {word}"
    parts: list[tuple[str, Any, Any]]
    if isinstance(shape, list):
        parts = [(str(number), each, shape[0]) for number, each in enumerate(content)]
    else:
        any_key = shape.get(ANY, is_anything)
        parts = [(own, each, shape.get(own, any_key)) for own, each in dict(content).items()]
    faults = (first_fault(each, own, f"{key}.{k}" if key else k) for k, each, own in parts)
    return next((fault for fault in faults if fault is not None), None)
