"""Freed memory stays with a process that asks for the same again at every step, or for every picture."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8  # of glibc's malloc.h
MOST = 2**31 - 1  # bytes
# The same for processes that are started with them, where `keep_freed_memory` may come too late.
FROM_THE_START = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(MOST),
}


def keep_freed_memory() -> None:
    """Tell glibc not to give freed memory back: activations come again at every step.

    By default each large tensor or picture is mapped anew and zeroed page by page, which costs an fp32 step
    of EfficientNet-Lite0 or ResNet-18, or the decoding of 12 megapixels, up to a third of its time. A thread
    beside the main one, as that in which Ray Train calls the training function, has heaps of 64 MiB, and what
    does not fit is mapped whatever is set. One heap for all threads has to be asked for before there are any;
    else at least those heaps are kept. Other C libraries are left as they are.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(M_ARENA_MAX, 1)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, MOST)
        libc.mallopt(M_TOP_PAD, 2**27)  # an empty heap of a thread goes where the one before has less room
