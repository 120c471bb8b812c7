"""What a run or a sweep was trained on, by content: the part of `environment.json` that is about data.

A path only says where images lay. Which images they are is said by the hash of their content, and which class
a logit stands for by the recorded names: so a run can be used wherever it and its data are moved to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rtk.config.data import DataConfig
from rtk.runs.atomic import write_json
from rtk.runs.json_files import read_json

ENVIRONMENT = "environment.json"
OLDER_KEYS = {"near:": "validation_near_ood.", "far:": "validation_far_ood."}


@dataclass(frozen=True)
class DataRecord:
    """What is known of the data of a run.

    Attributes:
        hashes: `content_hash` of what training read, by key below `data`.
        classes: names in the order of the logits; empty where an older rtk did not write them down.
        folder: that the config's relative paths are relative to; None: not written down.
    """

    hashes: Mapping[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    folder: str | None = None

    @classmethod
    def read(cls, folder: Path) -> DataRecord:
        """The record of a run's or a sweep's folder; an empty one where there is none."""
        path = folder / ENVIRONMENT
        content = read_json(path) if path.exists() else {}
        hashes = {_key(key): value for key, value in content.get("data", {}).items()}
        return cls(hashes, tuple(content.get("classes", ())), content.get("folder"))

    def is_moved(self, key: str, value: Any) -> bool:
        """Whether a changed value of a dotted key may be the same images elsewhere: their hash will tell."""
        return isinstance(value, str) and key.removeprefix("data.") in self.hashes


NO_RECORD = DataRecord()  # of a run that is still to be trained


def located(data: DataConfig, folder: Path) -> DataConfig:
    """The config of the run in `folder` with relative paths found again, whatever the working folder.

    They are looked for in the folder that training was started in, in those above the run, and in the working
    folder; what is in none of them stays as it is, to be named by whoever opens it.
    """
    begun = DataRecord.read(folder).folder
    # Without a record the working folder comes first: a run may just be being made.
    places = [Path(), *folder.parents] if begun is None else [Path(begun), *folder.parents, Path()]
    return data.with_paths(lambda _, path: _found(path, places))


def absolute(path: str) -> str:
    """A local path that exists, as an absolute one; anything else as it is."""
    return str(Path(path).absolute()) if Path(path).exists() else path


def _found(path: str, places: Sequence[Path]) -> str:
    there = next((place / path for place in places if (place / path).exists()), None)
    return path if there is None or there.resolve() == Path(path).resolve() else str(there)


def _key(key: str) -> str:
    """A key of `data`, also from runs that called `validation_near_ood.NAME` `near:NAME`."""
    old = next((prefix for prefix in OLDER_KEYS if key.startswith(prefix)), None)
    return key if old is None else OLDER_KEYS[old] + key.removeprefix(old)


def remember_classes(folder: Path, classes: Sequence[str]) -> None:
    """Write the names of a run's classes down where an older rtk has not: its images may be gone later."""
    path = folder / ENVIRONMENT
    content = read_json(path) if path.exists() else {}
    if "classes" not in content:
        write_json(path, {**content, "classes": list(classes)})
