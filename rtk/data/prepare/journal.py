"""What `prepare` has finished of an output folder, so that it goes on there after an interrupt or a crash."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rtk.data.prepare.parquet_writer import FileSummary
from rtk.runs.atomic import write_json

FILE, LOCK = "progress.json", ".lock"


@dataclass(frozen=True)
class Finished:
    """A written file, and where `prepare` stood then.

    Attributes:
        split: name of the split that the file is of.
        summary: what it holds.
        position: records of the split that had been read.
        done: images of the source that had been looked at.
        written: images written, over all files.
        bad: origin and reason of every image found broken.
    """

    split: str
    summary: FileSummary
    position: int
    done: int
    written: int
    bad: list[tuple[str, str]]


class Journal:
    """Finished files of a folder, in order; those of another job (`key`) are removed."""

    def __init__(self, folder: Path, key: dict[str, Any]) -> None:
        self.folder, self.key = folder, json.loads(json.dumps(key))
        self.finished: list[Finished] = []
        known = json.loads((folder / FILE).read_text(encoding="utf-8")) if (folder / FILE).exists() else {}
        if known.get("key") == self.key:
            self.finished = [_parse(entry) for entry in known["finished"]]
        else:
            _empty(folder)

    def note(self, entry: Finished) -> None:
        """Write down a finished file."""
        self.finished.append(entry)
        write_json(self.folder / FILE, {"key": self.key, "finished": [asdict(e) for e in self.finished]})


@contextmanager
def resumable_folder(out: Path) -> Iterator[Path]:
    """A hidden sibling of `out`, renamed to it if the body succeeds.

    If the body fails with a ValueError it is removed; after anything else (an interrupt, a full disk) what is
    finished stays for the next time.

    Raises:
        ValueError: another process is writing it.
    """
    folder = out.parent / f".{out.name}.partial"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / LOCK, timeout=0):
            yield folder
    except Timeout:
        raise ValueError(f"{out}: is being prepared by another process") from None
    except ValueError:
        shutil.rmtree(folder)
        raise
    except BaseException:
        if not (folder / FILE).exists():  # nothing is finished
            shutil.rmtree(folder)
        raise
    for name in (FILE, LOCK):
        (folder / name).unlink(missing_ok=True)
    folder.replace(out)


def _parse(entry: dict[str, Any]) -> Finished:
    summary = entry["summary"]
    pairs = {name: tuple(summary[name]) for name in ("class_counts", "width", "height")}
    bad = [(origin, reason) for origin, reason in entry["bad"]]
    return Finished(**{**entry, "summary": FileSummary(**{**summary, **pairs}), "bad": bad})


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()
