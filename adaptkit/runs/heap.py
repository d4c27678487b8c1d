"""The heap of glibc as training needs it: memory is kept, in large pages.

By default, large tensors go back to the system after every step and are fetched again page by page,
which takes two fifths of the time of a step over 384 tokens. Pages of 2 MB instead of 4 kB speed up
what goes through all weights once: Adam, casts and norms. What the user has set (MALLOC_...,
GLIBC_TUNABLES, another allocator) is never changed; other systems are left alone.
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
VIRTIO = Path("/sys/bus/virtio/devices")
BALLOON, REPORTS = 5, 5  # of virtio: a kind of device, and a bit of its features
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
    """Keep freed memory for this process."""
    libc = glibc()
    if libc is None or set_by_user():
        return
    for parameter, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, 1 << 26)):
        libc.mallopt(parameter, value)
    libc.keeps = True


def give_back() -> None:
    """Give what is free back to the system, once; take more in large pages from now on."""
    if libc := glibc():
        libc.malloc_trim(0)
        if getattr(libc, "keeps", False) and not lends_memory():
            _ask_for_large_pages(libc)


def lends_memory(devices: Path = VIRTIO) -> bool:
    """Tell whether this is a virtual machine that lends its free memory to the host.

    It gets every large page back in milliseconds, so that a short run would lose by them more than
    it gains. Such a machine has a balloon (device 5) that reports free pages (bit 5 of its
    features, in the order of the bits).
    """
    try:
        found = devices.iterdir() if devices.is_dir() else ()
        return any(
            int((one / "device").read_text(encoding="ascii"), 16) == BALLOON
            and (one / "features").read_text(encoding="ascii")[REPORTS] == "1"
            for one in found
        )
    except (OSError, ValueError, IndexError):  # not to be read: it may
        return True


def set_by_user() -> bool:
    """Tell whether the user has chosen how memory is allocated."""
    own = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    return own or "malloc" in os.environ.get("LD_PRELOAD", "")


def _ask_for_large_pages(libc: Any) -> None:
    """Extend the heap by half the size of the machine's memory, and ask for pages of 2 MB there.

    A block that is taken and given back at once remains in the heap. It takes no memory until it is
    used. Nothing is done where address space is limited, or counts as memory.
    """
    import resource

    limits = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    try:
        strict = OVERCOMMIT.read_text(encoding="ascii").strip() == "2"
    except OSError:
        strict = True
    if strict or any(limit != resource.RLIM_INFINITY for limit in limits):
        return
    size = os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE // 2
    if block := libc.malloc(size):
        start = -(-block // mmap.PAGESIZE) * mmap.PAGESIZE
        libc.madvise(start, block + size - start, mmap.MADV_HUGEPAGE)
        libc.free(block)
