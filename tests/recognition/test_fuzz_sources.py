"""Tars, databases and lists on thousands of mutated files: a sentence naming the file, or pictures; nothing else."""

from __future__ import annotations

import pickle
import random
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from recognition.data.progress import Progress
from recognition.data.sources import open_source
from recognition.data.tar_format import tar_end, tar_member
from recognition.data.value_forms import unwrap
from tests.fuzz import fuzz, mutate, pickle_tokens
from tests.tools.sources import datum, packed, write_lmdb

COUNT = 4_000
PICTURE = b"\xff\xd8\xff" + bytes(range(40)) + b"\xff\xd9"
LISTS = (
    "path,label\na.jpg,1\nb/c.jpg,2\n",
    "0\t1.000000\ta.jpg\n1\t2\tb c.jpg\n",
    "1\ta.jpg\t0\n1\tb.jpg\t1\n",
    "a.jpg anna\nb c.jpg bert\n",
)


def small_tar() -> bytes:
    parts = [tar_member(f"{i}{end}", data) for i in range(3) for end, data in ((".jpg", PICTURE), (".cls", b"%d" % i))]
    parts += [tar_member("3.jpg", PICTURE), tar_member("3.json", b'{"label": 2, "identity": "anna", "x": [1, {}]}')]
    whole = b"".join(parts)
    return whole + tar_end(len(whole))


def small_lmdb(folder: Path) -> bytes:
    pairs = [(b"%03d" % i, packed(PICTURE * (1 + 60 * (i % 2)), i % 3)) for i in range(60)]
    write_lmdb(folder / "made.lmdb", [*pairs, (b"anna/1", PICTURE), (b"x", datum(PICTURE, 1))])
    return (folder / "made.lmdb").read_bytes()


def opened(path: Path) -> str:
    try:
        plan = open_source(path)
    except ValueError as error:
        assert str(path) in str(error) and "\0" not in str(error), error
        return "refused"
    count = 0
    for i in range(len(plan)):
        assert str(path) in plan.name(i) or path.suffix == ".txt"
        assert 0 <= plan.labels[i] < len(plan.names) and isinstance(plan.place(i), str)
        try:
            count += len(plan.read(i)) > 0
        except (ValueError, OSError):
            continue
    return "read, some of it bad" if plan.bad else "read"


def with_number(data: bytes, rng: random.Random) -> bytes:
    """A number of a page's head or tree set to an extreme; or a tar's size with its checksum made good."""
    changed = bytearray(data)
    at = rng.randrange(len(data) // 64) * 64 + rng.choice((0, 8, 10, 12, 14, 16, 24, 40, 48))
    number = rng.choice((0, 1, 2, 4096, 2**16, 2**32, 2**63, 2**64 - 1, rng.getrandbits(16)))
    changed[at : at + 8] = struct.pack("<Q", number)
    return bytes(changed[: len(data)])


def with_header(data: bytes, rng: random.Random) -> bytes:
    """A tar's header with other contents and a checksum that fits them."""
    changed = bytearray(data)
    at = rng.randrange(8) * 1024
    head = bytearray(changed[at : at + 512].ljust(512, b"\0"))
    field, size = rng.choice(((0, 100), (124, 12), (124, 12), (156, 1), (345, 155)))
    choices = (b"77777777777", b"\x80" + b"\xff" * 11, b"-1", *(b"%c" % kind for kind in b"LKxgS125"), b"../../x", b"")
    head[field : field + size] = rng.choice(choices).ljust(size, b"\0")[:size]
    head[148:156] = b"%06o\0 " % (sum(head[:148]) + 256 + sum(head[156:]))
    changed[at : at + 512] = head
    return bytes(changed)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tar", "lmdb"])
def test_mutated_tars_and_databases(current_folder: Path, kind: str) -> None:
    sound = small_tar() if kind == "tar" else small_lmdb(current_folder)
    special = with_header if kind == "tar" else with_number
    path = current_folder / f"x.{kind}"
    tokens = [b"ustar\x0000", PICTURE, bytes(512), b"\x92\xc4", b"0000000\0", struct.pack("<I", 0xBEEFC0DE)]
    path.write_bytes(sound)
    assert opened(path) == "read"

    def check(seed: int) -> str:
        rng = random.Random(seed)
        data = sound
        for _ in range(rng.choice((1, 1, 2, 3))):
            data = special(data, rng) if rng.random() < 0.5 and len(data) >= 8192 else mutate(data, rng, tokens)
        path.write_bytes(data)
        return opened(path)

    words = fuzz(check, COUNT, name=kind, folder=None)
    assert words["refused"] > COUNT // 50 and sum(words.values()) - words["refused"] > COUNT // 20


@pytest.mark.slow
def test_mutated_lists(current_folder: Path) -> None:
    path = current_folder / "x.txt"

    def check(seed: int) -> str:
        rng = random.Random(seed)
        path.write_bytes(mutate(rng.choice(LISTS).encode(), rng, [b"\t", b",", b'"', b"\n", b"-1", b"\0", b"\xc3\xa9"]))
        return opened(path)

    words = fuzz(check, COUNT, name="list")
    assert min(words["refused"], words["read"]) > COUNT // 20


@pytest.mark.slow
def test_mutated_values_and_progress(current_folder: Path) -> None:
    values = [packed(PICTURE, 3), datum(PICTURE, 3), *(pickle.dumps((PICTURE, 3), p) for p in range(6))]
    arrays = [np.frombuffer(PICTURE, np.uint8), np.zeros((2, 3), np.float32)]
    values += [pickle.dumps((array, np.int64(3)), p) for array in arrays for p in range(6)]
    tokens = [
        *pickle_tokens(current_folder / "made"),
        b"\xdc\xff\xff",
        b"\xdd\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
    ]
    path = current_folder / "train.progress.json"
    Progress("0" * 64, 3, [(1, 2)], [3], [("a", "b")]).save(path)
    saved = path.read_bytes()

    def check(seed: int) -> str:
        rng = random.Random(seed)
        path.write_bytes(mutate(saved, rng, [b"null", b"[]", b"{}", b"-1"]))
        read: list[Callable[[], object]] = [
            lambda: unwrap(mutate(rng.choice(values), rng, tokens)),
            lambda: Progress.load(path),
        ]
        words = []
        for one in read:
            try:
                one()
                words.append("read")
            except ValueError:
                words.append("refused")
        assert not (current_folder / "made").exists(), "a payload ran"
        return "value " + words[0]

    fuzz(check, COUNT, name="value")
