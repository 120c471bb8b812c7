"""What a run of interpolated weights was made of: `interpolation.json`, which other runs do not have."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rtk.runs.atomic import write_json

INTERPOLATION = "interpolation.json"


@dataclass(frozen=True)
class Interpolation:
    """Weights between the start of a fine-tuning and its end.

    Attributes:
        start: path of the weights that the fine-tuning began with.
        start_sha256: of these, see `rtk.train.initial.source_identity`.
        run: name of the fine-tuned run.
        place: of its folder.
        checkpoint: `best` or `last`.
        sha256: of the checkpoint's manifest.
        step: of the checkpoint.
        alpha: share of the fine-tuned weights, in [0, 1].
        with_head: whether the head was interpolated too; else it is the fine-tuned one.
        criterion: validation metric that chose the share; None: it was given.
        tried: a row for each share, `alpha` and its validation metrics.
        batchnorm_images: on which BatchNorm's statistics were re-estimated; 0 where there is none.
    """

    start: str
    start_sha256: str
    run: str
    place: str
    checkpoint: str
    sha256: str
    step: int
    alpha: float
    with_head: bool
    criterion: str | None
    tried: Sequence[Mapping[str, float]]
    batchnorm_images: int

    @property
    def words(self) -> str:
        """What is said of such a run."""
        chosen = "given" if self.criterion is None else f"by {self.criterion}"
        return (
            f"interpolated: {self.alpha:g} of {self.run} ({self.checkpoint}, step {self.step}) and "
            f"{1 - self.alpha:g} of its start {self.start}, {chosen}"
        )

    def write(self, folder: Path) -> None:
        """Keep it in a run's folder."""
        write_json(folder / INTERPOLATION, asdict(self))


def read_interpolation(folder: Path) -> Interpolation | None:
    """What a run's weights were interpolated from; None of another run."""
    path = folder / INTERPOLATION
    return Interpolation(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None
