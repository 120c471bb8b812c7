"""A process that asks for the same memory again and again gets it without the kernel."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from rtk.runtime.freed_memory import FROM_THE_START

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are"
)
FAULTS = """
import resource, sys, threading
import torch
from rtk.runtime.freed_memory import keep_freed_memory

def steps():
    for number in range(15):
        if number == 10:  # by then memory for all is there
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        [torch.ones(megabytes * 2**18) for megabytes in (1, 3, 40, 100)]
    print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 5)

torch.set_num_threads(1)
where, kept = sys.argv[1:]
if kept == "True":
    keep_freed_memory()
if where == "thread":
    thread = threading.Thread(target=steps)
    thread.start()
    thread.join()
else:
    steps()
"""


def page_faults(where: str, kept: bool, **environment: str) -> int:
    """Pages that are mapped anew in each step that allocates 150 MB."""
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, where, str(kept)],
        env={name: value for name, value in os.environ.items() if name[:6] != "MALLOC"} | environment,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    return int(done.stdout)


def test_by_default_all_is_mapped_anew():
    assert page_faults("main", kept=False) > 10_000


def test_the_main_thread_keeps_it():
    assert page_faults("main", kept=True) < 100


def test_so_does_a_thread_of_a_process_that_was_started_so():
    """As that in which Ray Train calls the training function."""
    assert page_faults("thread", kept=False, **FROM_THE_START) < 100


def test_workers_are_started_so(ray_session):
    found = ray_session.get(ray_session.remote(lambda: dict(os.environ)).remote())
    assert FROM_THE_START.items() <= found.items()
