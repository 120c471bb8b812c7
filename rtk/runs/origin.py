"""Where the weights of an imported run come from: `origin.json`, which trained runs do not have."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from rtk.runs.atomic import write_json
from rtk.runs.ensemble import read_ensemble
from rtk.runs.interpolation import read_interpolation

ORIGIN = "origin.json"


@dataclass(frozen=True)
class Origin:
    """What is known of weights that rtk did not train.

    Attributes:
        file: path that they were read from.
        sha256: of the file; of a folder, of its files' hashes in the order of their names.
        names: whose names the tensors had.
        place: where they were in the file, such as `state_dict`; empty where it held nothing else.
        ignored: names of what else the file held, such as `hyper_parameters`.
    """

    file: str
    sha256: str
    names: str
    place: str
    ignored: tuple[str, ...]

    @property
    def words(self) -> str:
        """What is said of an imported run."""
        return f"imported, not trained by rtk: {self.file} (SHA-256 {self.sha256}; names of {self.names})"

    def write(self, folder: Path) -> None:
        """Keep it in a run's folder."""
        write_json(folder / ORIGIN, asdict(self))


def is_imported(folder: Path) -> bool:
    """Whether a run's weights were imported."""
    return (folder / ORIGIN).exists()


def read_origin(folder: Path) -> Origin | None:
    """The origin of an imported run's weights; None of a run that rtk trained."""
    if not is_imported(folder):
        return None
    content = json.loads((folder / ORIGIN).read_text(encoding="utf-8"))
    return Origin(**{**content, "ignored": tuple(content["ignored"])})


def said_of(folder: Path) -> str:
    """What is said of a run that was imported, joined or interpolated; nothing of one that rtk trained."""
    found = read_ensemble(folder) or read_interpolation(folder) or read_origin(folder)
    return "" if found is None else found.words


def hash_weights(path: Path) -> str:
    """SHA-256 of a file; of a folder, of the hashes of its safetensors files."""
    if path.is_file():
        return _hash(path)
    hashes = [_hash(file) for file in sorted(path.glob("*.safetensors"))]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
