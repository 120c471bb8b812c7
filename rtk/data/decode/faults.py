"""What is done with images that cannot be decoded: fail at the first, or skip, list and count them."""

from __future__ import annotations

import csv
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from rtk.data.image import BadImageError


@dataclass(frozen=True)
class Fault:
    """One image that cannot be decoded.

    Attributes:
        set: name of the data set in the config, such as `train`.
        row: its row number there.
        sample_id: its stable id; None where the data has none.
        path: the file that it was made from; None where the data does not say.
        reason: why it cannot be decoded.
    """

    set: str
    row: int
    sample_id: int | None
    path: str | None
    reason: str

    def __str__(self) -> str:
        name = f" ({self.path})" if self.path else ""
        return f"data set {self.set!r}, row {self.row}{name}: {self.reason}"


@dataclass
class FaultLog:
    """Take in faults and apply `data.on_error` and `data.max_errors`.

    Attributes:
        on_error: `fail` or `skip`.
        max_errors: most faults of a data set that may be skipped: a share of its rows below 1, else a number.
        file: CSV file that skipped images are listed in, each once; None: nowhere.
        skipped: what has been skipped so far.
    """

    on_error: str = "fail"
    max_errors: float = 0.0
    file: Path | None = None
    skipped: dict[tuple[str, int], Fault] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.file is not None and self.file.exists():
            with self.file.open(newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    known = _parse(row)
                    self.skipped[known.set, known.row] = known

    def add(self, fault: Fault, rows: int) -> None:
        """Take in a fault of a data set of `rows` rows.

        Raises:
            BadImageError: naming the image where `on_error` is `fail`, or the limit where it has been passed.
        """
        if self.on_error == "fail":
            raise BadImageError(f"{fault} (data.on_error=skip leaves such images out)")
        if (fault.set, fault.row) in self.skipped:
            return
        self.skipped[fault.set, fault.row] = fault
        self._write(fault)
        count = sum(name == fault.set for name, _ in self.skipped)
        limit = self.max_errors * rows if self.max_errors < 1 else self.max_errors
        if count > limit:
            raise BadImageError(
                f"data.max_errors: {count} images of data set {fault.set!r} cannot be decoded, at most "
                f"{self.max_errors:g}{f' of {rows}' if self.max_errors < 1 else ''} may; the last: {fault}"
            )

    def _write(self, fault: Fault) -> None:
        if self.file is None:
            return
        is_new = not self.file.exists()
        with self.file.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [column.name for column in fields(Fault)])
            if is_new:
                writer.writeheader()
            writer.writerow(asdict(fault))


def _parse(row: dict[str, str]) -> Fault:
    sample_id = int(row["sample_id"]) if row["sample_id"] else None
    return Fault(row["set"], int(row["row"]), sample_id, row["path"] or None, row["reason"])
