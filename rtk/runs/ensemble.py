"""What an ensemble's run was made of: `ensemble.json`, which other runs do not have."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rtk.config.ensemble import Average, EnsembleConfig
from rtk.config.model import ModelConfig
from rtk.runs.atomic import write_json
from rtk.runs.checkpoints import MANIFEST, fetch_state
from rtk.runs.file_records import hash_of_file

ENSEMBLE = "ensemble.json"


@dataclass(frozen=True)
class Member:
    """A network of an ensemble, as it was when that was made.

    Attributes:
        run: name of its run.
        place: of the run's folder.
        checkpoint: `best`, `last`, or the name of a numbered one.
        sha256: of the checkpoint's manifest, which has the hash of every file.
        step: of the checkpoint.
        model: its config.
    """

    run: str
    place: str
    checkpoint: str
    sha256: str
    step: int
    model: dict[str, Any]


@dataclass(frozen=True)
class EnsembleRecord:
    """What is known of an ensemble.

    Attributes:
        average: what is averaged.
        members: in the order of their features.
        shared_holdout: whether the images held out are the same for all members, so that none was trained on
            an image that scores are tuned on.
    """

    average: Average
    members: tuple[Member, ...]
    shared_holdout: bool

    @property
    def config(self) -> EnsembleConfig:
        """How its network is built."""
        models = tuple(ModelConfig.model_validate(member.model) for member in self.members)
        return EnsembleConfig(average=self.average, members=models)

    @property
    def words(self) -> str:
        """What is said of an ensemble's run."""
        names = ", ".join(
            f"{member.run} ({member.checkpoint}, step {member.step})" for member in self.members
        )
        return f"an ensemble of {len(self.members)} (mean of their {self.average}): {names}"

    def write(self, folder: Path) -> None:
        """Keep it in a run's folder."""
        write_json(folder / ENSEMBLE, asdict(self))


def read_ensemble(folder: Path) -> EnsembleRecord | None:
    """What an ensemble's run was made of; None of another run."""
    path = folder / ENSEMBLE
    if not path.exists():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    members = tuple(Member(**member) for member in content["members"])
    return EnsembleRecord(content["average"], members, content["shared_holdout"])


def checkpoint_identity(folder: Path) -> str:
    """SHA-256 of what describes a checkpoint: its manifest, or of earlier versions its state."""
    manifest = folder / MANIFEST
    return hash_of_file(manifest if manifest.is_file() else fetch_state(folder))
