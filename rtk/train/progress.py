"""The driver's view of a run: a bar on a terminal, a line now and then anywhere else, on standard error."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from rtk.runs.folder import RunFolder

LINE_EVERY_SECONDS = 10.0


class ProgressDisplay:
    """Shows `progress.json` of a run, and its notices, as often as `refresh` is called."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.is_terminal = sys.stderr.isatty()
        self._last: dict[str, Any] = {"phase": "starting workers"}
        self._last_line = 0.0
        self._notices = len(run.read_notices())
        (run.path / "progress.json").unlink(missing_ok=True)

    def __enter__(self) -> ProgressDisplay:
        if self.is_terminal:
            self._start_bar()
        else:
            self.say(f"{self.run.name}: starting workers")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.refresh(force=True)
        if self.is_terminal:
            self._bar.stop()

    def refresh(self, force: bool = False) -> None:
        """Show what has changed since the last call."""
        notices = self.run.read_notices()
        for notice in notices[self._notices :]:
            self.say(notice)
        self._notices = len(notices)
        current = self.run.read_json("progress.json") or self._last
        if current == self._last and not force:
            return
        due = time.monotonic() - self._last_line >= LINE_EVERY_SECONDS
        self._last = current
        if self.is_terminal:
            self._bar.update(
                self._task,
                description=current["phase"],
                completed=current.get("step", 0),
                total=current.get("total_steps"),
                details=describe(current),
            )
        elif due or force:
            self._last_line = time.monotonic()
            self.say(f"{self.run.name}: {current['phase']} {describe(current)}")

    def say(self, text: str) -> None:
        """Print a line without disturbing the bar."""
        if self.is_terminal and hasattr(self, "_bar"):
            self._bar.console.print(text, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def _start_bar(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[details]}"),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task("starting workers", total=None, details="")
        self._bar.start()


def describe(progress: dict[str, Any]) -> str:
    """One line of figures: epoch, losses, validation, speed, data wait, time left."""
    if "step" not in progress:
        return ""
    parts = [f"epoch {progress['epoch']:.1f}/{progress['epochs']:g}"]
    losses = {
        key.rpartition("/")[2]: value for key, value in progress.items() if key.startswith("train/loss/")
    }
    parts += [f"{name} {value:.3f}" for name, value in losses.items()]
    parts += [f"{key} {progress[key]:.4f}" for key in ("val/accuracy", "val/aurc") if key in progress]
    if "train/images_per_second" in progress:
        parts.append(f"{progress['train/images_per_second']:.0f} images/s")
        parts.append(f"data wait {progress['train/data_wait']:.0%}")
    if progress.get("seconds_left") is not None:
        minutes, seconds = divmod(round(progress["seconds_left"]), 60)
        parts.append(f"{minutes}:{seconds:02d} left")
    return " · ".join(parts)
