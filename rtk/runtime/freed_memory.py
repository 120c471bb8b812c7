"""Freed memory stays with a process that asks for the same again at every step."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # of glibc's malloc.h
ONE_HEAP = {"MALLOC_ARENA_MAX": "1"}  # read when a process starts


def keep_freed_memory() -> None:
    """Tell glibc not to give freed memory back: activations come again at every step.

    By default each large tensor is mapped anew and zeroed page by page, which costs an fp32 step of
    EfficientNet-Lite0 or ResNet-18 up to a third of its time. A thread beside the main one, as that in which
    Ray Train calls the training function, has heaps of 64 MiB, and what does not fit is mapped whatever is
    set, so processes are started with `ONE_HEAP` for all threads; without, at least those heaps are kept.
    Other C libraries are left as they are.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(M_TOP_PAD, 2**27)  # an empty heap of a thread goes where the one before has less room
