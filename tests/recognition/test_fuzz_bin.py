"""The .bin reader on 20,000 mutated files: refused in words, or what pickle itself would give; nothing runs."""

from __future__ import annotations

import codecs
import io
import pickle
import random
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from recognition.data.pairs import PairFileError, read_bin
from tests.fuzz import fuzz, mutate, pickle_tokens

COUNT = 20_000
IMAGES = [b"\xff\xd8one\xff\xd9", b"\xff\xd8two\x00\x80'\n\\", b"\xff\xd8three"]
ENTRIES = [IMAGES[i] for i in (0, 1, 2, 1, 0, 0)]
SAME = [True, False, True]


class Kind:
    """numpy.dtype: the real one can be crashed by a state that does not fit."""

    def __init__(self, code: str | bytes, *flags: object) -> None:
        assert code in ("u1", "|u1", "b1", "|b1", b"u1", b"|u1", b"b1", b"|b1")

    def __setstate__(self, state: object) -> None:
        pass


class Array:
    """numpy.ndarray of single bytes."""

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, _, data = state
        assert isinstance(kind, Kind)
        self.bytes = np.frombuffer(data, np.uint8).reshape(shape).tobytes()


def from_buffer(data: bytes, kind: Kind, shape: tuple, order: str) -> Array:
    array = Array()
    array.__setstate__((1, shape, kind, False, data))
    return array


class Reference(pickle._Unpickler):
    """pickle's own machine, in Python, with stand-ins for numpy's names and no other name."""

    names: ClassVar = {
        "_codecs.encode": codecs.encode,
        "numpy.ndarray": Array,
        "numpy.dtype": Kind,
        "numpy._core.multiarray._reconstruct": lambda kind, shape, code: Array(),
        "numpy._core.multiarray.scalar": lambda kind, data: bool(np.frombuffer(data, np.uint8)[0]),
        "numpy._core.numeric._frombuffer": from_buffer,
    }

    def find_class(self, module: str, name: str) -> object:
        full = f"{module}.{name}".replace("numpy.core", "numpy._core")
        if full not in self.names:
            raise pickle.UnpicklingError(full)
        return self.names[full]


def real_shaped() -> list[bytes]:
    """Small sets as numpy and Python of all times write them."""
    files = []
    for protocol in range(6):
        arrays = [np.frombuffer(image, np.uint8).copy() for image in ENTRIES]
        for entries in (ENTRIES, arrays, [array[:, None] for array in arrays]):
            for same in (SAME, np.array(SAME), [np.bool_(s) for s in SAME]):
                files.append(pickle.dumps((entries, same), protocol))
    return files


@pytest.mark.slow
def test_twenty_thousand_mutated_sets(current_folder: Path) -> None:
    folder = current_folder
    files, marker, path = real_shaped(), Path("made"), folder / "set.bin"
    tokens = pickle_tokens(marker)
    for data in files:
        path.write_bytes(data)
        assert len(read_bin(path)) == 3

    def check(seed: int) -> str:
        rng = random.Random(seed)
        data = mutate(files[seed % len(files)], rng, tokens)
        path.write_bytes(data)
        try:
            pairs = read_bin(path)
        except PairFileError as error:
            assert str(path) in str(error) and len(str(error)) < 1000, error
            return "refused"
        finally:
            assert not marker.exists(), "the payload ran"
        assert all(type(image) is bytes and image for image in pairs.images)
        assert pairs.same.dtype == bool and len(pairs.first) == len(pairs.second) == len(pairs.same) > 0
        assert sum(map(len, pairs.images)) <= len(data)
        return compared(data, pairs)

    words = fuzz(check, COUNT, name=".bin", folder=folder)
    assert words["refused"] > COUNT / 4 and words["as pickle reads it"] > COUNT / 20


def compared(data: bytes, pairs) -> str:
    """Against what pickle's own machine makes of the same bytes, where it makes anything of them."""
    try:
        entries, same = Reference(io.BytesIO(data), encoding="bytes").load()
        entries = [entry.bytes if isinstance(entry, Array) else bytes(entry) for entry in entries]
        same = [bool(s) for s in (same.bytes if isinstance(same, Array) else same)]
    except Exception as error:
        return f"read, where pickle raises {type(error).__name__}"
    assert [pairs.images[i] for i in pairs.first] == entries[0::2]
    assert [pairs.images[i] for i in pairs.second] == entries[1::2]
    assert pairs.same.tolist() == same
    return "as pickle reads it"
