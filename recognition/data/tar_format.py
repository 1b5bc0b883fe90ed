"""Tars: where each member's bytes lie, read without unpacking, and members written by hand.

A hard link stands for the bytes of an earlier member; a symbolic link has none here. Nothing but a cut or a damaged
header ends a tar.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

BLOCK, RECORD = 512, 10240
_MAGIC = slice(257, 262)
_PACKED = (
    (b"\x1f\x8b", "gunzip"),
    (b"BZh", "bunzip2"),
    (b"\xfd7zXZ\0", "unxz"),
    (b"\x28\xb5\x2f\xfd", "unzstd"),
)


class Member(NamedTuple):
    """A file in a tar: its name without a ./ in front, and where its bytes lie; or why it has none."""

    name: str
    offset: int
    size: int
    problem: str = ""


def is_tar(path: Path) -> bool:
    """By its ending, or by what stands in its first block."""
    if path.suffix.lower() == ".tar":
        return True
    with open(path, "rb") as file:
        return file.read(BLOCK)[_MAGIC] == b"ustar"


def members(path: Path) -> Iterator[Member]:
    """Every file and link of a tar, in order. ValueError saying where it is cut short, damaged, or no tar."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(BLOCK)
        tool = next((tool for magic, tool in _PACKED if head.startswith(magic)), "")
        if tool and head[_MAGIC] != b"ustar":
            raise ValueError(
                f"it is compressed as a whole, so no member can be read by itself: unpack it first, "
                f"{tool} < {path.name} > new.tar"
            )
        file.seek(0)
        try:
            yield from _members(file, size)
        except (tarfile.TarError, EOFError, OverflowError, RecursionError, UnicodeError) as error:
            raise ValueError(f"it is no tar, or damaged: {error or type(error).__name__}") from None


class _Bounded:
    """A file of which no more is asked than is there: tarfile would make room for any size that a header states."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        return self._file.read(max(min(size, self._size - self._file.tell()), 0))


def _members(file: BinaryIO, size: int) -> Iterator[Member]:
    there: dict[str, tuple[int, int]] = {}  # what hard links may stand for
    with tarfile.open(fileobj=_Bounded(file, size), mode="r:", errors="backslashreplace") as tar:
        while (entry := tar.next()) is not None:
            tar.members = []  # else all of them are kept
            name = _plain(entry.name)
            if entry.islnk() or entry.issym():
                yield _link(entry, name, there)
                continue
            if entry.issparse():
                yield Member(name, 0, 0, "a file with holes, which is not read here: pack it without --sparse")
                continue
            if entry.size < 0 or entry.offset_data + entry.size > size:
                raise ValueError(f"it is cut short within {name}: {entry.size} bytes are announced")
            if entry.isreg():
                there[name] = entry.offset_data, entry.size
                yield Member(name, *there[name])
        end = tar.offset
    file.seek(end)
    closing = file.read(BLOCK)
    if len(closing) < BLOCK:
        raise ValueError(f"it is cut short at byte {end}, behind a whole member: the end marker is missing")
    if any(closing):
        raise ValueError(f"it is damaged at byte {end}: no header of a member stands there")


def _link(entry: tarfile.TarInfo, name: str, there: dict[str, tuple[int, int]]) -> Member:
    target = _plain(entry.linkname)
    if entry.islnk() and target in there:
        there[name] = there[target]
        return Member(name, *there[name])
    if entry.islnk():
        return Member(name, 0, 0, f"a hard link to {target}, which does not stand before it in this tar")
    return Member(name, 0, 0, f"a symbolic link to {target}, without bytes of its own: pack with --dereference")


def _plain(name: str) -> str:
    """As written by `tar -C faces .`, the name is ./anna/1.jpg."""
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return name


def tar_member(name: str, data: bytes) -> bytes:
    """One member as it is written, in POSIX ustar: no time, no owner, so that the same records give the same bytes.

    name: ASCII, at most 100 characters. By hand: 7 us a member against 32 by tarfile.
    """
    assert name.isascii() and len(name) <= 100
    numbers = b"0000644\0" + b"0000000\0" * 2 + b"%011o\0" % len(data) + b"00000000000\0"  # mode, owner, size, time
    begin = name.encode().ljust(100, b"\0") + numbers
    end = b"0" + bytes(100) + b"ustar\0" + b"00" + bytes(BLOCK - 265)  # a plain file
    checksum = b"%06o\0 " % (sum(begin) + 8 * ord(" ") + sum(end))
    return begin + checksum + end + data + bytes(-len(data) % BLOCK)


def tar_end(size: int) -> bytes:
    """What closes a tar of `size` bytes: two empty blocks, and more up to a multiple of 10,240 as tar does."""
    return bytes(2 * BLOCK + -(size + 2 * BLOCK) % RECORD)
