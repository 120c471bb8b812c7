"""Freed memory stays with a process that asks for the same again at every step, or for every picture."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # of glibc's malloc.h
HEAP = 2**26  # bytes of a heap of another thread than the main one


def keep_freed_memory() -> None:
    """Tell glibc not to give freed memory back: activations come again at every step.

    By default each large tensor or picture is mapped anew and zeroed page by page, which costs an fp32 step
    of ResNet-18 up to a quarter of its time, and the decoding of 12 megapixels a third. Threads beside the
    main one, as that in which Ray trains, have heaps of their own, which glibc gives back whole unless it is
    to keep a heap's size free. (With one heap for all of them, MALLOC_ARENA_MAX=1, they wait for each other:
    a ViT trains a third slower on two threads.) Other C libraries are left as they are.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(M_TOP_PAD, HEAP)
