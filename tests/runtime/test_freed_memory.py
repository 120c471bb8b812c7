"""A process that asks for the same memory again and again gets it without the kernel."""

from __future__ import annotations

import platform
from concurrent.futures import ThreadPoolExecutor

import pytest

STEPS, WARM_UP = 5, 10


def page_faults(kept: bool) -> float:
    """Pages that are mapped anew in each step that allocates 150 MB, in a thread as Ray Train's."""
    import resource

    import torch

    from rtk.runtime.freed_memory import keep_freed_memory

    torch.set_num_threads(1)
    if kept:
        keep_freed_memory()
    for step in range(WARM_UP + STEPS):
        if step == WARM_UP:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        [torch.ones(megabytes * 2**18) for megabytes in (1, 3, 40, 100)]
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / STEPS


def in_thread(kept: bool) -> float:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(page_faults, kept).result()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
def test_no_page_is_mapped_anew_in_a_worker(ray_session):
    run = ray_session.remote(max_calls=1)(in_thread)  # a process each
    given_back, kept = ray_session.get([run.remote(False), run.remote(True)])
    assert kept < 100
    assert given_back > 10_000
