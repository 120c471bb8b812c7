"""`rtk train --keep-alive`: a process that does nothing but start the run again where it was killed."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from types import FrameType
from typing import TYPE_CHECKING, Any

from rtk.commands.parsers import Options
from rtk.runs.folder import RunFolder
from rtk.runs.names import free_folder, unique_name
from rtk.runtime.interrupts import RAY_ENDED, RAY_ENDED_CODE, wanted_signals

if TYPE_CHECKING:
    from rtk.config.schema import RunConfig

DEATHS = 5  # in a row, without a step more: whatever kills the run will do so again
WAIT_SECONDS = (1.0, 60.0)  # before the next start: after the first death without a step more, and at most


def keep_alive(options: Options, config: RunConfig | None) -> int:
    """Train in a process of its own, and go on from the last checkpoint wherever that is killed.

    Args:
        options: of `rtk train`.
        config: of a new run; None: `options.resume` names one.

    Returns:
        Exit code of the process that ended by itself; 128 and the signal's number where it was given up.
    """
    run, command = _resumed(options) if config is None else _new(options, config)
    reached, deaths = _step(run), 0
    with Charge() as charge:
        while True:
            ends = _ends_of_ray(run)
            code = charge.run([*command, *(["--json"] if options.json else [])])
            if charge.signal is None and _ends_of_ray(run) > ends:  # which ends the process as it pleases
                code = RAY_ENDED_CODE
            if code >= 0 and code != RAY_ENDED_CODE:
                return code
            before, reached = reached, max(reached, _step(run))
            deaths = 1 if reached > before else deaths + 1
            if charge.signal is not None or deaths > DEATHS:
                _say(f"{_how(code)} after step {reached}, given up")
                return code if code > 0 else 128 - code
            command = _next_command(run, command)
            _say(f"{_how(code)} after step {reached}; going on")
            charge.wait(min(WAIT_SECONDS[0] * 2 ** (deaths - 1), WAIT_SECONDS[1]))


class Charge:
    """The process that trains; signals to this one are passed on to it while the context lasts.

    One that has reached it already counts once there. After a signal it is not started again.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._child: subprocess.Popen[Any] | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Charge:
        for number in wanted_signals():
            self._previous[number] = signal.signal(number, self._pass_on)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        if self._child is not None:
            self._child.send_signal(number)

    def run(self, command: list[str]) -> int:
        """Run an rtk command to its end; its exit code, or minus the signal that ended it."""
        if self.signal is not None:
            return -self.signal
        self._child = subprocess.Popen([sys.executable, "-m", "rtk.cli", *command])  # nosec B603  # itself
        if self.signal is not None:  # it came before there was a process to pass it on to
            self._child.send_signal(self.signal)
        return self._child.wait()

    def wait(self, seconds: float) -> None:
        """Wait, but not after a signal."""
        until = time.monotonic() + seconds
        while self.signal is None and time.monotonic() < until:
            time.sleep(0.1)


def _new(options: Options, config: RunConfig) -> tuple[RunFolder, list[str]]:
    """Folder of a run that is not there yet, and the command that starts it."""
    name = options.name or unique_name(config.name)
    path = free_folder(name, config.output)
    return RunFolder(path), ["train", options.recipe, *options.overrides, "--name", name]


def _resumed(options: Options) -> tuple[RunFolder, list[str]]:
    run = RunFolder.open(options.resume, options.output or "runs")
    words = [text for text in (options.recipe, *options.overrides) if text]  # the first is no recipe
    return run, ["train", "--resume", run.place, *words]


def _next_command(run: RunFolder, command: list[str]) -> list[str]:
    """The command that goes on with a run; the same one where it was killed before it knew its config.

    That of a resumed run too: what it changes may not have been written down yet.
    """
    if "--resume" in command:
        return command
    if (run.path / "config.yaml").exists():
        return ["train", "--resume", run.place]
    shutil.rmtree(run.path, ignore_errors=True)
    return command


def _ends_of_ray(run: RunFolder) -> int:
    """How often a driver of the run has said that Ray had ended."""
    return run.read_notices().count(RAY_ENDED)


def _step(run: RunFolder) -> int:
    """The last step that the run has told of."""
    progress: dict[str, Any] = run.read_json("progress.json") or {}
    return int(progress.get("step", 0))


def _how(code: int) -> str:
    return "Ray ended" if code == RAY_ENDED_CODE else f"killed by {signal.Signals(-code).name}"


def _say(text: str) -> None:
    print(f"keep-alive: {text}", file=sys.stderr, flush=True)
