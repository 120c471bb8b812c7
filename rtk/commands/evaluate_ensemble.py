"""`rtk evaluate RUN RUN RUN --ensemble`: which runs are joined, and the run that they become."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rtk.commands.parsers import Options

if TYPE_CHECKING:
    from rtk.config.schema import RunConfig
    from rtk.runs.folder import RunFolder


def split_runs(options: Options) -> tuple[list[str], list[str]]:
    """Config values, and the names of further runs, which stand among them.

    Raises:
        ConfigError: there are further runs, or options of an ensemble, without `--ensemble`.
    """
    from rtk.config.errors import ConfigError

    others = [word for word in options.overrides if "=" not in word]
    given = {name: getattr(options, name) for name in ("average", "snapshots", "name")}
    alone = next((f"--{name}" for name, value in given.items() if value), None)
    if not options.ensemble and (others or alone):
        got = f"{alone}: got no --ensemble" if alone else f"run: got {options.run} and {others[0]}"
        raise ConfigError(f"{got}, wanted --ensemble with it: it measures several runs as one network")
    return [word for word in options.overrides if "=" in word], others


def ensemble_of(
    runs: Sequence[RunFolder], options: Options, configured: Callable[[RunFolder, Options], RunConfig]
) -> RunFolder:
    """The run of an ensemble, once its members are known to be tested on the same images."""
    from rtk.evaluate.ensemble import check_same_sets, chosen_members, open_ensemble

    chosen = chosen_members(runs, options.checkpoint, options.snapshots)
    check_same_sets(chosen, [configured(one.run, options) for one in chosen])
    return open_ensemble(chosen, options.average or "softmax", options.name)
