"""Processes of this Ray session: they may be children of its daemons, or of a fork server."""

from __future__ import annotations


def living_actors() -> dict[int, str]:
    """Class names of the actors that there are, by their processes."""
    from ray._private.state import state

    found = state.actor_table(None).values()
    return {actor["Pid"]: actor["ActorClassName"] for actor in found if actor["State"] == "ALIVE"}


def process_of(name: str) -> int:
    """Process of an actor of a class; the first of several."""
    return next(pid for pid, found in living_actors().items() if found.endswith(name))
