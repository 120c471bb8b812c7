"""A sweep in MLflow: a parent run with the trials as its children, kept up to date by the driver."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from rtk.runs.folder import RunFolder
from rtk.runs.sweep import replicates_of, trial_name
from rtk.tracking.mirror import Mirror
from rtk.tracking.sending import kept_up_to_date, quietly, send_rest
from rtk.tracking.status import note_status

STATUS = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "FINISHED", TrialState.FAIL: "FAILED"}


def note_trial(sweep: Path, trial: FrozenTrial) -> None:
    """Write down how a trial ended, once; MLflow has no status for one stopped early, so it is a tag.

    Of a trial with several seeds the first one's run has `mean/OBJECTIVE` and `std/OBJECTIVE` of all.
    """
    run = RunFolder(sweep / trial_name(trial.number))
    if run.path.is_dir() and not (run.path / "status.json").exists():
        reasons = {key: trial.user_attrs[key] for key in ("reason",) if key in trial.user_attrs}
        if "std" in trial.user_attrs:
            _note_mean(run, trial.values, trial.user_attrs["std"])
        for one in (*replicates_of(run), run):
            note_status(one, STATUS[trial.state], state=trial.state.name.lower(), **reasons)


def _note_mean(run: RunFolder, means: Sequence[float], std: Mapping[str, float]) -> None:
    last = run.read_metrics()[-1]
    values = {f"mean/{key}": mean for key, mean in zip(std, means, strict=True)}
    run.append_metrics(last["step"], last["epoch"], values | {f"std/{key}": v for key, v in std.items()})


class SweepMirror:
    """Sends the sweep's folder and those of its trials, from whichever node they were written."""

    def __init__(self, sweep: Path) -> None:
        self.sweep = RunFolder(sweep)
        self.parent = Mirror(self.sweep)
        self.children: dict[Path, Mirror] = {}
        self.done: set[Path] = set()

    def send(self) -> None:
        """Send what is new; a trial that has ended is sent with its files, and then left alone."""
        self.parent.send()
        for path in sorted(self.sweep.path.glob("trial-*")):
            if path in self.done or not (path / "environment.json").exists():
                continue
            mirror = self.children.setdefault(path, Mirror(RunFolder(path)))
            ended = mirror.run.read_json("status.json") is not None
            mirror.send(files=ended)
            if ended:
                self.done.add(path)


@contextmanager
def mirrored_sweep(sweep: Path) -> Iterator[SweepMirror]:
    """Keep MLflow up to date with a sweep; send the rest on leaving."""
    mirror = SweepMirror(sweep)
    note_status(mirror.sweep, "RUNNING")
    status = "FAILED"
    try:
        with kept_up_to_date(mirror.send):
            yield mirror
            status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        note_status(mirror.sweep, status)
        mirror.done.clear()  # the best trial's checkpoints are to be kept now
        if not quietly(mirror.send, warn=False):
            quietly(mirror.send)
        send_rest(mirror.parent)
