"""A process that asks for the same memory again and again gets it without the kernel."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from rtk.runtime.freed_memory import keep_freed_memory

torch.set_num_threads(1)
if sys.argv[1] == "True":
    keep_freed_memory()
for number in range(15):
    if number == 10:  # by then memory for all is there
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    [torch.ones(megabytes * 2**18) for megabytes in (1, 3, 40, 100)]
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 5)
"""


def page_faults(kept: bool) -> int:
    """Pages that are mapped anew in each step that allocates 150 MB."""
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, str(kept)], capture_output=True, encoding="utf-8", check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
def test_no_page_is_mapped_anew():
    assert page_faults(kept=True) < 100
    assert page_faults(kept=False) > 10_000
