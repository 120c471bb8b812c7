"""What Ray starts on one machine: no more than rtk needs, out of reach of others and of this group's signals.

Ray has a switch for none of it, so its own settings are replaced while it starts, and put back.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from rtk.runtime.fork_server import client, with_client

SECONDS_BETWEEN_LOOKS = 0.02


@contextmanager
def daemons_of_one_machine(dashboard: bool) -> Iterator[None]:
    """Start Ray as a session of this machine alone, as quickly as that goes.

    Args:
        dashboard: whether Ray's dashboard is wanted.
    """
    from ray._private import node, parameter, ray_constants, services

    few = partial(parameter.RayParams, include_log_monitor=False, no_monitor=True)
    with ExitStack() as replaced:
        replaced.enter_context(_replaced(parameter, "RayParams", few))
        if not dashboard:
            replaced.enter_context(_replaced(node.Node, "start_api_server", _start_nothing))
        # Ray asks for no password and runs what it is sent. By itself it listens everywhere, on Linux alone.
        replaced.enter_context(_replaced(ray_constants, "ENABLE_RAY_CLUSTER", False))
        replaced.enter_context(_replaced(services, "get_node", partial(_node_once_there, services.get_node)))
        yield


@contextmanager
def daemons_in_own_session() -> Iterator[None]:
    """Keep the signals that end this process's group from Ray's daemons, without which nothing can be saved.

    They end with this process all the same, by Linux's parent-death signal; elsewhere Ray ends them by their
    group, so that they have to stay in it. Where there is a fork server, they have their processes from it.
    """
    from ray._private import services

    start = services.ConsolePopen

    def popen(command: Sequence[str], *arguments: Any, **options: Any) -> Any:
        program = client()
        command = command if program is None else with_client(program, command)
        return start(command, *arguments, **options, start_new_session=True)

    with _replaced(services, "ConsolePopen", popen if sys.platform == "linux" else start):
        yield


@contextmanager
def silent_native_stderr() -> Iterator[None]:
    """Keep Ray's native code from writing to standard error while it starts (Python errors still raise)."""
    kept = os.dup(2)
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _start_nothing(*_: Any, **__: Any) -> None:
    """In place of Ray's dashboard, which also without its pages keeps a core busy for a second."""


def _node_once_there(get_node: Callable[[str, str], Any], address: str, node_id: str) -> Any:
    """What Ray knows of a node; Ray itself looks for it once a second while it starts."""
    from ray._private.services import _get_gcs_client_options
    from ray._private.state import GlobalState

    state, until = GlobalState(), time.monotonic() + 1.0
    state._initialize_global_state(_get_gcs_client_options(address))
    while time.monotonic() < until and all(known["NodeID"] != node_id for known in state.node_table()):
        time.sleep(SECONDS_BETWEEN_LOOKS)
    return get_node(address, node_id)
