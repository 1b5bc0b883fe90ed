"""Files out of the system's page cache, and how much of them is in it."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def evict(files: Sequence[Path]) -> None:
    """Ask the system to forget the pages of files; those that a process has mapped and touched stay."""
    for file in files:
        handle = os.open(file, os.O_RDONLY)
        try:
            os.fsync(handle)  # what is not on the disk yet cannot be forgotten
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)


def resident(files: Sequence[Path]) -> float:
    """The share of the files' bytes that is in the page cache, by mincore; OSError where there is no such call."""
    try:
        mincore = ctypes.CDLL(None, use_errno=True).mincore
    except AttributeError:
        raise OSError("this system has no mincore to tell what the page cache holds") from None
    there = pages = 0
    for file in files:
        if not (size := file.stat().st_size):
            continue
        with open(file, "rb") as opened, mmap.mmap(opened.fileno(), size, access=mmap.ACCESS_COPY) as mapped:
            found = np.zeros(-(-size // mmap.PAGESIZE), np.uint8)
            address = ctypes.c_char.from_buffer(mapped)
            failed = mincore(ctypes.byref(address), ctypes.c_size_t(size), ctypes.c_void_p(found.ctypes.data))
            del address
            if failed:
                raise OSError(ctypes.get_errno(), "mincore failed", str(file))
            there, pages = there + int((found & 1).sum()), pages + len(found)
    return there / max(pages, 1)


def disk_of(path: Path) -> str:
    """The file system and device that a path lies on, as /proc/self/mounts calls them; empty where it does not tell."""
    try:
        lines = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return ""
    mounts = [line.split()[:3] for line in lines]
    above = [mount for mount in mounts if path.resolve().is_relative_to(mount[1])]
    device, _, system = max(above, key=lambda mount: len(mount[1]), default=("", "", ""))
    return f"{system} on {device}"
