"""How commands print: one JSON object, a table, or a few lines of many."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rtk.runtime.console import complain, printable

if TYPE_CHECKING:
    from rtk.config.load import LoadedConfig


def say(text: str) -> None:
    """Print a text that may hold names of files, classes or runs, without what a terminal would obey."""
    print(printable(text))


def print_json(content: Any) -> None:
    """Print what `--json` promises."""
    print(json.dumps(content, indent=1))


def warn_of_unlike(lines: Sequence[str], ranked: bool) -> None:
    """Say on standard error what runs were not measured alike on; nothing where all is alike."""
    if lines:
        outcome = "are ranked by --force only" if ranked else "are not ranked (--force ranks them)"
        title = f"warning: these runs were not measured on the same and {outcome}"
        complain("\n  ".join([title, *lines]))


def warn_of_kept_sets(loaded: LoadedConfig) -> None:
    """Say on standard error that sets of rtk's digits will be measured beside a training set of one's own."""
    from rtk.config.load import kept_builtin

    kept = kept_builtin(loaded)
    if kept:
        print(
            f"rtk: warning: data.train is replaced, but {', '.join(kept)} are still those of "
            f"{next(iter(kept.values()))}; data.near_ood={{}} and so on drop them, and "
            "rtk init FOLDER writes a recipe without them",
            file=sys.stderr,
        )


def print_some(title: str, lines: list[str], most: int = 10) -> None:
    """Print how many lines there are and the first of them; nothing where there are none."""
    if lines:
        say(f"{title}: {len(lines)}")
        say("\n".join(f"  {line}" for line in lines[:most]))


def duration(seconds: float) -> str:
    """A time as `48 s`, `3 min 20 s` or `2 h 05 min`."""
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def print_aligned(rows: list[list[str]], is_text: Sequence[int] = (0,)) -> None:
    """Print rows, the first of which holds the headings, in columns as wide as they are: never broken.

    `is_text` holds the columns of words, which begin on the left.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = enumerate(zip(row, widths, strict=True))
        print("  ".join((str.ljust if i in is_text else str.rjust)(*cell) for i, cell in cells).rstrip())


def print_table(title: str, rows: list[list[str]]) -> None:
    """Print rows, the first of which holds the headings; only words of the last column may be broken."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = [[printable(cell) for cell in row] for row in rows]
    print(printable(title))
    table = Table()
    for index, heading in enumerate(rows[0]):
        words = [word for row in rows for word in row[index].split()]
        justify: Any = "left" if index == 0 else "right"
        whole = max(map(len, words), default=0) if index < len(rows[0]) - 1 else None
        table.add_column(Text(heading), justify=justify, no_wrap=index == 0, min_width=whole, overflow="fold")
    for row in rows[1:]:
        table.add_row(*map(Text, row))  # as text: a name such as [/x] is no markup
    Console().print(table)
