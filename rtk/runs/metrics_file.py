"""`metrics.csv`: one value a row, so that training, validation and evaluation can share it.

Rows are appended; a run that goes on from an earlier step replaces the file by one without those past it.
"""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from rtk.config.errors import ConfigError
from rtk.runs.atomic import write_text

COLUMNS = ("step", "epoch", "time", "key", "value")
NUMBERS = {"step": int, "epoch": float, "time": float, "value": float}
Row: TypeAlias = dict[str, Any]


def append_rows(path: Path, step: int, epoch: float, values: Mapping[str, float]) -> None:
    """Add a row `step, epoch, time, key, value` for every value."""
    is_new = not path.exists()
    now = f"{time.time():.3f}"
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if is_new:
            writer.writerow(COLUMNS)
        writer.writerows([step, f"{epoch:.4f}", now, key, repr(float(v))] for key, v in values.items())


def read_rows(path: Path) -> list[Row]:
    """Rows with numbers as numbers; none where there is no file."""
    return MetricsTail(path).read_new()


def replace_rows(path: Path, rows: Iterable[Row]) -> None:
    """Let the file hold these rows."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


class MetricsTail:
    """Reads what has been added since it last read; all of it once more, where the file is another one.

    Attributes:
        from_start: whether it has last read from the beginning, so that nothing it read before counts.
    """

    from_start = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self.restart()

    def restart(self) -> None:
        """Begin at the beginning."""
        self._inode, self._read = 0, 0

    def read_new(self) -> list[Row]:
        """Rows that are whole and new; a row that is being written comes with the next call.

        Raises:
            ConfigError: the file is damaged.
        """
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return []
        with file:
            about = os.fstat(file.fileno())
            if about.st_ino != self._inode or about.st_size < self._read:
                self._inode, self._read = about.st_ino, 0
            self.from_start = self._read == 0
            file.seek(self._read)
            text, newline, _ = file.read().rpartition(b"\n")
        self._read += len(text + newline)
        try:
            rows = csv.reader(text.decode("utf-8").splitlines())
            whole = [row for row in rows if len(row) == len(COLUMNS) and row[0] != COLUMNS[0]]
            return [_parsed(dict(zip(COLUMNS, row, strict=True))) for row in whole if row[-1]]
        except (ValueError, csv.Error) as error:  # no text, no table or no numbers
            raise ConfigError(f"{self.path}: damaged: {error}") from None


def _parsed(row: dict[str, str]) -> Row:
    return {**row, **{name: kind(row[name]) for name, kind in NUMBERS.items()}}
