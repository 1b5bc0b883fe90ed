"""Files that are either what they were or complete: written beside, flushed to the disk, renamed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

UNFINISHED = ".tmp"  # ending of a name that stands for a file being written
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
ABANDONED = 24 * 3600  # seconds without a write: what another machine began is left, nobody writes one file so long
CANNOT_FLUSH = (
    errno.EINVAL,
    errno.ENOTSUP,
)  # by file systems without a flush of folders, after the rename


def write_atomically(path: str | Path, data: bytes | str) -> None:
    """Make `path` hold `data`, text as UTF-8, or leave it as it was. Folders above it are made.

    OSError naming the path where it cannot be written, such as on a full disk.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A name beside `path` for a writer to fill: at the end it becomes `path`, after an error nothing of it stays.

    It ends in .tmp, so a writer that goes by endings has to be told its format. The file gets the mode of any new one
    (0666 less the umask), whatever its writer gave it. Files that belong together: fill all before the first `with`
    ends, so that a full disk leaves all of them as they were.
    OSError naming the path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}@{_machine()}{UNFINISHED}")
    try:
        with temporary.open("wb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        yield temporary
        temporary.chmod(mode)  # safetensors, for one, leaves 0600
        flush(temporary)
        os.replace(temporary, path)
        flush(path.parent)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary)):
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from None  # write() names no file
    finally:
        with contextlib.suppress(OSError):  # the error before it is the one to tell
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def alone(path: str | Path, what: str) -> Iterator[None]:
    """Hold a lock file while inside; it is given back however the process ends.

    what: is told where somebody else holds it, such as "runs/demo is being trained". BlockingIOError then.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # flock would live on in forked loader workers
        except (BlockingIOError, PermissionError):
            file.seek(0)
            raise BlockingIOError(f"{what} already, by {file.read().strip() or 'another process'}") from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def flush(path: str | Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in CANNOT_FLUSH or not stat.S_ISDIR(os.fstat(handle).st_mode):
            raise
    finally:
        os.close(handle)


def no_room(error: OSError) -> bool:
    """True where the disk, or the user's share of it, is full."""
    return error.errno in NO_ROOM


def sweep(path: Path) -> None:
    """Remove what killed processes left half-written of this file; what a living one is writing stays.

    A process of another machine that shares the folder is taken for living until it has not written for a day.
    """
    start = f".{path.name}."
    for name in os.listdir(path.parent):
        process, _, machine = name.removeprefix(start).removesuffix(UNFINISHED).partition("@")
        if name != f"{start}{process}@{machine}{UNFINISHED}" or not process.isdecimal():
            continue
        with contextlib.suppress(OSError):  # another process may sweep too
            left = path.parent / name
            here = machine == _machine()
            if not _lives(int(process)) if here else time.time() - left.stat().st_mtime > ABANDONED:
                left.unlink()


def _machine() -> str:
    return socket.gethostname().replace("/", "_").replace(".", "_")


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
