"""Freed memory stays with a process that asks for the same again at every step, or for every picture."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Tell glibc not to give freed memory back: activations come again at every step.

    By default each large tensor or picture is mapped anew and zeroed page by page, which costs an fp32 step
    of ResNet-18 up to a quarter of its time, and the decoding of 12 megapixels a third. One heap for all
    threads (MALLOC_ARENA_MAX=1) would save more of that, but they wait for each other there: a ViT then
    trains a third slower on two threads. Other C libraries are left as they are.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
