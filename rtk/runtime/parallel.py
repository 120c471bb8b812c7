"""The same function of many arguments: one after the other, or on all cores of the Ray session."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rtk.runtime.console import Progress
from rtk.runtime.ray_session import start_ray


def in_turn(
    function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], progress: Progress | None = None
) -> list[Any]:
    """As `in_parallel`, in this process."""
    results = []
    for given in arguments:
        results.append(function(*given))
        if progress is not None:
            progress(len(results), len(arguments))
    return results


def in_parallel(
    function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], progress: Progress | None = None
) -> list[Any]:
    """Results in the order of the arguments, a Ray task each.

    Args:
        function: of a module, so that workers can import it.
        arguments: of each call.
        progress: called with the number of calls done and their total.
    """
    ray = start_ray()
    task = ray.remote(function)
    references = [task.remote(*given) for given in arguments]
    pending = references
    while pending:
        _, pending = ray.wait(pending)
        if progress is not None:
            progress(len(references) - len(pending), len(references))
    results: list[Any] = ray.get(references)
    return results
