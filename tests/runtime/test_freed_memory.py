"""A process that asks for the same memory again and again gets it without the kernel."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Sequence

import pytest

FAULTS = """
import resource, sys, threading
import torch
from rtk.runtime.freed_memory import keep_freed_memory

torch.set_num_threads(1)
if sys.argv[1] == "True":
    keep_freed_memory()

def steps():
    for number in range(15):
        if number == 10:  # by then memory for all is there
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        [torch.ones(int(megabytes) * 2**18) for megabytes in sys.argv[3:]]
    print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 5)

if sys.argv[2] == "thread":
    thread = threading.Thread(target=steps)
    thread.start()
    thread.join()
else:
    steps()
"""


def page_faults(kept: bool, where: str, megabytes: Sequence[int]) -> int:
    """Pages that are mapped anew in each step that allocates tensors of so many megabytes."""
    command = [sys.executable, "-c", FAULTS, str(kept), where, *map(str, megabytes)]
    return int(subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
@pytest.mark.parametrize(("where", "megabytes"), [("main", (1, 3, 40, 100)), ("thread", (1, 3, 20, 40))])
def test_no_page_is_mapped_anew(where, megabytes):
    """Ray trains in a thread, whose heaps of 64 MB glibc would give back whole."""
    assert page_faults(True, where, megabytes) < 100
    assert page_faults(False, where, megabytes) > 10_000
