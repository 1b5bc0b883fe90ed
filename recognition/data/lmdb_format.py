"""LMDB databases, read as files: where each value lies. Format of LMDB 0.9 (version 1), little endian, 64 bit.

    page     number u64, pad u16, flags u16, then lower u16 and upper u16, or the count of pages of an overflow u32
    0 and 1  meta pages: magic 0xbeefc0de u32, version u32, address u64, size u64, two trees, last page u64, number of
             the writing u64; the one with the higher number counts, and of its trees the second
    tree     pad u32 (page size in the first tree), flags u16, depth u16, branch, leaf, overflow pages and entries u64,
             root page u64
    branch, leaf  u16 offsets of nodes, in the order of keys, up to `lower`
    node     low u16, high u16, flags u16, key size u16, key; a leaf's value follows: its size is high << 16 | low;
             with flag 1 it lies on overflow pages instead, whose number follows. A branch's child is
             flags << 32 | high << 16 | low.

The package `lmdb` maps the file and dies of a signal where that is cut short or damaged; here, each number is held
against the file's size first. Nothing is written and no lock is taken: whoever writes the database must be done.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MAGIC, VERSION = 0xBEEFC0DE, 1
BRANCH, LEAF, OVERFLOW, META = 1, 2, 4, 8
BIG, SUB, DUPLICATES = 1, 2, 4  # flags of a node
NO_PAGE = 2**64 - 1
DEEPEST = 32  # levels of a tree; 2**32 values take 7

_PAGE = struct.Struct("<QHHHH")
_META = struct.Struct("<IIQQ")
_TREE = struct.Struct("<IHHQQQQQ")
_LAST = struct.Struct("<QQ")
_NODE = struct.Struct("<HHHH")
_TREES_AT = _PAGE.size + _META.size
_LAST_AT = _TREES_AT + 2 * _TREE.size


class Value(NamedTuple):
    """Where a value lies in the file: offset and size in bytes."""

    key: bytes
    offset: int
    size: int


def lmdb_file(path: Path) -> Path | None:
    """The data file of an LMDB: path itself, or its data.mdb; None where it is none."""
    file = path / "data.mdb" if path.is_dir() else path
    if not file.is_file():
        return None
    with open(file, "rb") as opened:
        head = opened.read(_TREES_AT)
    if len(head) == _TREES_AT and _META.unpack_from(head, _PAGE.size)[0] == MAGIC:
        return file
    return file if path.is_dir() else None


class LmdbFile:
    """The main database of an LMDB file, opened for as long as `with` lasts. ValueError naming the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._size = path.stat().st_size
        if self._size < _LAST_AT + _LAST.size:
            raise self._damaged(f"it has {self._size} bytes, too few for an LMDB")
        with open(path, "rb") as file:
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._page_size, self.entries, self._root, self._depth = self._newest()

    def __enter__(self) -> LmdbFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._data.close()

    def read(self, value: Value) -> bytes:
        return self._data[value.offset : value.offset + value.size]

    def values(self) -> Iterator[Value]:
        """All values in the order of their keys. ValueError naming file and page where the tree is cut or damaged."""
        found = 0
        if self._root != NO_PAGE:
            for value in self._below(self._root, self._depth):
                found += 1
                if found > self.entries:
                    break
                yield value
        if found != self.entries:
            raise self._damaged(f"{self.entries} values are announced, {found} or more were found")

    def _newest(self) -> tuple[int, int, int, int]:
        """Page size, entries, root and depth of the later of the two states."""
        page_size = self._tree(0)[0]
        if page_size not in (2**n for n in range(9, 17)):
            raise self._damaged(f"its pages have {page_size} bytes")
        states = []
        for begin in (0, page_size):
            if begin + _LAST_AT + _LAST.size > self._size:
                continue
            magic, version, _, _ = _META.unpack_from(self._data, begin + _PAGE.size)
            if magic != MAGIC or version != VERSION:
                continue
            _, writing = _LAST.unpack_from(self._data, begin + _LAST_AT)
            states.append((writing, begin))
        if not states:
            raise self._damaged(f"it has no meta page of LMDB, version {VERSION} (LMDB 0.9)")
        _, begin = max(states)
        _, flags, depth, _, _, _, entries, root = self._tree(begin, second=True)
        if flags:
            raise ValueError(
                f"{self.path}: its database has flags {flags:#x}, several values for one key or keys that are numbers, "
                "which is not read here: write it anew with one value for each key"
            )
        if depth > DEEPEST or entries > self._size // 8:
            raise self._damaged(f"{entries} values in {depth} levels cannot be")
        return page_size, entries, root, depth

    def _tree(self, begin: int, second: bool = False) -> tuple[int, ...]:
        return _TREE.unpack_from(self._data, begin + _TREES_AT + second * _TREE.size)

    def _below(self, number: int, depth: int) -> Iterator[Value]:
        begin, nodes = self._nodes(number, LEAF if depth <= 1 else BRANCH)
        end = begin + self._page_size
        for node in nodes:
            low, high, flags, key_size = _NODE.unpack_from(self._data, node)
            body = node + _NODE.size + key_size
            if body > end:
                raise self._damaged(f"page {number} has a key that leaves it")
            if depth > 1:
                yield from self._below(flags << 32 | high << 16 | low, depth - 1)
                continue
            key, size = self._data[node + _NODE.size : body], high << 16 | low
            if flags & (SUB | DUPLICATES):
                raise ValueError(
                    f"{self.path}: {key[:60]!r} is a database within the database, which is not read here: copy its "
                    "values into an LMDB of their own, opened without a name"
                )
            if flags & BIG:
                yield Value(key, self._overflow(number, body, size), size)
            elif body + size > end:
                raise self._damaged(f"page {number} has a value that leaves it")
            else:
                yield Value(key, body, size)

    def _nodes(self, number: int, kind: int) -> tuple[int, list[int]]:
        """Where a page begins, and its nodes."""
        begin = self._page(number, 1)
        _, _, flags, lower, _ = _PAGE.unpack_from(self._data, begin)
        if flags & (BRANCH | LEAF | OVERFLOW | META) != kind or not _PAGE.size <= lower <= self._page_size or lower % 2:
            raise self._damaged(f"page {number} is not what the tree says")
        count = (lower - _PAGE.size) // 2
        nodes = struct.unpack_from(f"<{count}H", self._data, begin + _PAGE.size)
        if any(node < lower or node + _NODE.size > self._page_size for node in nodes):
            raise self._damaged(f"page {number} has a node that leaves it")
        return begin, [begin + node for node in nodes]

    def _overflow(self, number: int, body: int, size: int) -> int:
        """Where a value that lies on pages of its own begins."""
        if body + 8 > self._size:
            raise self._damaged(f"page {number} has a value that leaves it")
        (there,) = struct.unpack_from("<Q", self._data, body)
        begin = self._page(there, -(-(_PAGE.size + size) // self._page_size))
        stated, _, flags, _, _ = _PAGE.unpack_from(self._data, begin)
        if stated != there or not flags & OVERFLOW:
            raise self._damaged(f"page {there} is not the value that page {number} says")
        return begin + _PAGE.size

    def _page(self, number: int, pages: int) -> int:
        if number < 2 or (number + pages) * self._page_size > self._size:
            raise self._damaged(f"page {number} lies beyond its end: it is cut short")
        return number * self._page_size

    def _damaged(self, what: str) -> ValueError:
        return ValueError(f"{self.path} is damaged, or no LMDB that is read here: {what}; copy it again")
