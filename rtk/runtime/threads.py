"""How the CPU threads of a process are shared out between those in it that compute at the same time.

Each thread that computes with torch has a pool of threads of its own (OpenMP). Where all pools together are
larger than the machine, libgomp has those that wait fall asleep at once, when they would else look out for
the next operation a moment longer: a step of many small operations then takes a third more time.
"""

from __future__ import annotations

import torch

SHARE_OF_VIEWS = 8  # one in so many threads; views take a small part of a step that a CPU computes


def leave_threads_to_views(device: torch.device) -> int:
    """Take threads from the calling one, which trains, for another one, which makes views beside it.

    Args:
        device: where the network is; beside a GPU the one that trains needs no CPU threads.

    Returns:
        How many.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu":
        return threads
    views = max(1, threads // SHARE_OF_VIEWS)
    torch.set_num_threads(threads + 1 - views)  # each pool counts the thread that it belongs to
    return views
