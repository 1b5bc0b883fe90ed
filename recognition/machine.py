"""What this machine has to offer a run: memory that is left, a folder that can be written."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import torch

from recognition.distributed import World, gather_json
from recognition.files import write_atomically

NO_LIMIT = 1 << 60  # cgroups without a limit give a huge number


def memory_left(root: Path = Path("/")) -> int:
    """Bytes of main memory that this machine, or the cgroup that this process lives in, can still give.

    root: of /proc and /sys.
    """
    lines = (root / "proc/meminfo").read_text().splitlines()
    available = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    return min([available, *_cgroups_left(root)])


def device_free() -> int:
    """Bytes of the CUDA device that nobody else holds."""
    return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()


def try_writing(place: Path, world: World) -> dict[str, object]:
    """Write, flush, rename and delete a small file in the run's folder, which need not exist; measure its disk."""
    made: list[Path] = []
    name = f".doctor.{socket.gethostname()}.{os.getpid()}"
    problem, free = "", 0
    try:
        for turn in (world.is_main, not world.is_main):  # where the disk is shared, the main process makes the folders
            if turn:
                try:
                    _make_folders(place, made)
                    write_atomically(place / name, bytes(4096))
                except OSError as error:
                    problem = str(error)
                free = shutil.disk_usage(next(path for path in (place, *place.parents) if os.path.isdir(path))).free
            names = gather_json(name)
        sees_main = (place / names[0]).exists()
        gather_json(None)  # all have looked
        problem = problem or _delete(place / name)
        gather_json(None)  # all have deleted: the folders are empty
    finally:
        _delete(place / name)
        for folder in reversed(made):
            with contextlib.suppress(OSError):
                folder.rmdir()
    return {"write_problem": problem, "sees_main": sees_main, "free": free}


def _make_folders(place: Path, made: list[Path]) -> None:
    """Make a folder with those above it, and add the new ones to `made`."""
    for path in (*reversed(place.parents), place):
        if not os.path.isdir(path):
            path.mkdir()
            made.append(path)


def _delete(path: Path) -> str:
    """Delete a file where there is one. Returns what went wrong."""
    try:
        path.unlink()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        return str(error)
    return ""


def readable_size(number: float) -> str:
    """Bytes for a reader, such as 8.4 MiB."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if abs(number) < 1024 or unit == "GiB":
            break
        number /= 1024
    return f"{number:,.0f} {unit}" if unit == "bytes" else f"{number:,.1f} {unit}"


def _cgroups_left(root: Path) -> Iterator[int]:
    """What each cgroup above this process (version 2 or 1) may still take; file caches give way and do not count."""
    listed = root / "proc/self/cgroup"
    for line in listed.read_text().splitlines() if listed.is_file() else []:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            mount, limit, used = root / "sys/fs/cgroup", "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            mount, limit, used = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        folder = mount / path.lstrip("/")
        for place in (folder, *folder.parents):
            if (place / limit).is_file() and (most := (place / limit).read_text().strip()) != "max":
                cache = _inactive_file(place / "memory.stat")
                if int(most) < NO_LIMIT:
                    yield int(most) - int((place / used).read_text()) + cache
            if place == mount:
                break


def _inactive_file(path: Path) -> int:
    lines = dict(line.split() for line in path.read_text().splitlines()) if path.is_file() else {}
    return int(lines.get("total_inactive_file", lines.get("inactive_file", 0)))


def peak_memory() -> int:
    """Most bytes of memory that this process has held, since its start or since its marks were cleared.

    Not of getrusage, which hands a child the peak of the process that started it.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def most_held(device: torch.device, *, reset: bool = False) -> int:
    """Most bytes held on the device, by this process on a CPU, since the last reset; reset: begin anew, those now."""
    if device.type == "cuda":
        if reset:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.max_memory_allocated(device)
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    return peak_memory()
