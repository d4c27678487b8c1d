"""The heap of glibc as training needs it: memory is kept, in large pages. Other systems stay as is.

By default, large tensors go back to the system after every step and are got again page by page,
which takes two fifths of the time of a step over 384 tokens. Pages of 2 MB instead of 4 kB are for
what goes through much memory once: Adam, and casts and norms of all weights. What the user has set
(MALLOC_..., GLIBC_TUNABLES) is never changed.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # of glibc's malloc.h
LARGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")  # to whom they are granted
OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")  # 2: what is only reserved counts as used


@cache
def glibc() -> Any:
    """Return the C library, if it is glibc; otherwise None."""
    libc: Any = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not hasattr(libc, "mallopt"):
        return None
    libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return libc


def keep() -> None:
    """Keep freed memory for this process, and take more of it in large pages."""
    libc = glibc()
    if libc is None or set_by_user():
        return
    for parameter, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, 1 << 26)):
        libc.mallopt(parameter, value)
    _ask_for_large_pages(libc)


def give_back() -> None:
    """Give what is free back to the system, once."""
    if libc := glibc():
        libc.malloc_trim(0)
        if not set_by_user():
            _ask_for_large_pages(libc)


def set_by_user() -> bool:
    """Tell whether the user has chosen how memory is allocated."""
    return any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)


def _ask_for_large_pages(libc: Any) -> None:
    """Make half as many addresses as there is memory part of the heap, and ask for pages of 2 MB.

    A block that is taken and given back at once remains in the heap. It takes no memory until it is
    used. Where addresses are limited they are left alone.
    """
    import resource

    limits = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    strict = not OVERCOMMIT.is_file() or OVERCOMMIT.read_text(encoding="ascii").strip() == "2"
    if strict or any(limit != resource.RLIM_INFINITY for limit in limits):
        return
    size = os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE // 2
    if block := libc.malloc(size):
        start = -(-block // mmap.PAGESIZE) * mmap.PAGESIZE
        libc.madvise(start, block + size - start, mmap.MADV_HUGEPAGE)
        libc.free(block)
