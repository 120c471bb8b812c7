"""The folder of a sweep: what it searches and starts from; its trials' run folders lie in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rtk.config.errors import ConfigError
from rtk.config.load import build_config, override_config
from rtk.config.plugin_files import load_plugins
from rtk.config.schema import RunConfig
from rtk.config.search_space import SearchSpace, parse_space
from rtk.config.yaml_files import dump_yaml, read_mapping
from rtk.runs.atomic import write_text
from rtk.runs.folder import RunFolder, as_trained
from rtk.runs.names import find_folder, free_folder
from rtk.runs.plugins import copy_plugins, tree_with_copies, unchanged_copies

SWEEP_FILE = "sweep.yaml"


@dataclass(frozen=True)
class Sweep:
    """A sweep's folder `runs/NAME` with `sweep.yaml`, the study's journal and a run folder a trial."""

    path: Path

    @classmethod
    def create(cls, space: SearchSpace, config: RunConfig, name: str, given: Sequence[str] = ()) -> Sweep:
        """Make the folder; the trials' runs go into it.

        Args:
            space: what is searched.
            config: what all trials start from.
            name: of the folder.
            given: recipe and overrides as they were typed, without what the space fixes.

        Raises:
            ConfigError: where it is there already or cannot be written.
        """
        sweep = cls(free_folder(name, config.output))
        config = override_config(config, {"output": str(sweep.path)})
        try:
            sweep.path.mkdir(parents=True)
            copy_plugins(config.plugins, sweep.path)
            sweep.save(space, config, given)
        except OSError as error:
            raise ConfigError(f"output: cannot write to {config.output!r} ({error.strerror})") from None
        return sweep

    @classmethod
    def open(cls, name: str | Path, output: str = "runs") -> Sweep:
        """The folder of an existing sweep, by path, by name under `output`, or `last`: the one started last.

        Raises:
            ConfigError: where there is no such sweep.
        """
        path = find_folder(name, output, SWEEP_FILE)
        if path is None:
            raise ConfigError(
                f"sweep: got {str(name)!r}, wanted a sweep's folder or its name under {output}/"
            )
        return cls(path)

    @property
    def name(self) -> str:
        """Name of the sweep, its folder and its MLflow run."""
        return self.path.name

    def space(self, changes: Mapping[str, Any] | None = None) -> SearchSpace:
        """The search space, with other values for some of its top-level keys."""
        return parse_space({**self._tree()["space"], **(changes or {})}, str(self.path / SWEEP_FILE))

    def config(self) -> RunConfig:
        """Config that the trials' values are laid over: for trials in this folder, wherever it lies now."""
        load_plugins(unchanged_copies(self.path))
        tree = {**as_trained(self._tree()["config"]), "output": str(self.path)}
        return RunFolder(self.path).located(build_config(tree, folder=self.path))

    def given(self) -> list[str]:
        """Recipe and overrides as they were typed; empty where an older version of rtk has started it."""
        return list(self._tree().get("given", ()))

    def save(self, space: SearchSpace, config: RunConfig, given: Sequence[str] = ()) -> None:
        """Write `sweep.yaml`, whole or not at all."""
        tree = {
            "given": list(given),
            "space": space.model_dump(mode="json"),
            "config": tree_with_copies(config),
        }
        write_text(self.path / SWEEP_FILE, dump_yaml(tree))

    def _tree(self) -> dict[str, Any]:
        return read_mapping(self.path / SWEEP_FILE)


def trial_name(number: int) -> str:
    """Name of a trial's run and folder."""
    return f"trial-{number:04d}"


def sweep_of(run: RunFolder) -> RunFolder | None:
    """The folder of the sweep that a run is a trial of; None for any other run."""
    return RunFolder(run.path.parent) if (run.path.parent / SWEEP_FILE).exists() else None


def read_tree(run: RunFolder) -> dict[str, Any]:
    """Config of a run, or that of a sweep's trials."""
    if (run.path / SWEEP_FILE).exists():
        tree: dict[str, Any] = read_mapping(run.path / SWEEP_FILE)["config"]
        return tree
    return run.config_tree()


def folders_to_sync(output: Path) -> list[RunFolder]:
    """All runs and sweeps under a folder, sweeps before their trials."""
    sweeps = [path.parent for path in sorted(output.glob(f"*/{SWEEP_FILE}"))]
    runs = [path.parent for path in sorted(output.glob("*/config.yaml"))]
    found = [RunFolder(path.absolute()) for path in (*sweeps, *runs)]
    return found + [run for sweep in sweeps for run in runs_of(RunFolder(sweep.absolute()))]


def runs_of(sweep: RunFolder) -> list[RunFolder]:
    """Run folders of a sweep: of its trials, and of their further seeds; none of a run."""
    return [RunFolder(path.parent) for path in sorted(sweep.path.glob("trial-*/config.yaml"))]


def trials_of(sweep: RunFolder) -> list[RunFolder]:
    """Run folders of the trials of a sweep; of a trial with several seeds that of the first."""
    return [run for run in runs_of(sweep) if run.name.removeprefix("trial-").isdecimal()]


def replicates_of(trial: RunFolder) -> list[RunFolder]:
    """Run folders of the further seeds of a trial."""
    return [run for run in runs_of(RunFolder(trial.path.parent)) if run.name.startswith(f"{trial.name}-seed")]
