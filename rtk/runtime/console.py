"""Progress of long work on standard error: a bar on a terminal, a line now and then in a job's log."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[int, int], None]
SECONDS_A_LINE = 30.0
# All but tabs and ends of lines; the last two ranges hide or turn what stands beside them.
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def complain(text: str) -> None:
    """Print on standard error what may hold names of files, classes or runs, as `printable` shows them."""
    print(printable(text), file=sys.stderr, flush=True)


@contextmanager
def progress_bar(title: str) -> Iterator[Progress]:
    """A bar that is moved by calls with the number done and the total; lines where there is no terminal."""
    if not sys.stderr.isatty():
        yield progress_lines(title)
        return
    from rich.console import Console
    from rich.progress import Progress as RichProgress

    with RichProgress(console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(title, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def progress_lines(title: str, every: float = SECONDS_A_LINE) -> Progress:
    """A function that prints how much is done, at most once every `every` seconds."""
    last = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= every:
            last = time.monotonic()
            print(f"{title}: {done:,} of {total:,}", file=sys.stderr, flush=True)

    return show


def printable(text: str) -> str:
    """A text without what a terminal would obey: names of files and classes may come from anybody.

    Control characters and those that turn the direction of writing are shown as Python writes them.
    """
    return OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def halves(progress: Progress) -> tuple[Progress, Progress]:
    """Progress of two passes over the same things, shown as one."""
    return (
        lambda done, total: progress(done, 2 * total),
        lambda done, total: progress(total + done, 2 * total),
    )


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun: `1 class`, `2 classes`; the plural ends in s where none is given."""
    return f"{number} {one if number == 1 else many or one + 's'}"
