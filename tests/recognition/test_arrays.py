"""Arrays from .npz files of strangers."""

from __future__ import annotations

import io
import re
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from recognition.arrays import HEADER_ROOM, MOST, read_arrays

GIB = 2**30


def _member(shape: tuple[int, ...], kind: str, data: bytes, fortran: bool = False) -> bytes:
    """An .npy whose header claims what it likes."""
    stream = io.BytesIO()
    claimed = {"descr": kind, "fortran_order": fortran, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, claimed)
    return stream.getvalue() + data


def _archive(path: Path, packing: int = zipfile.ZIP_DEFLATED, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", packing) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return path


def test_what_numpy_wrote_is_read_as_it_was(tmp_path: Path) -> None:
    wanted = {
        "one": np.arange(6.0).reshape(2, 3),
        "columns": np.asfortranarray(np.arange(6, dtype=np.int32).reshape(2, 3)),
        "scalar": np.array(7),
        "text": np.array(["a", "bc"]),
        "empty": np.zeros((0, 5), np.float32),
    }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "x.npz", **wanted)
        got = read_arrays(tmp_path / "x.npz")
        assert got.keys() == wanted.keys()
        for name, array in wanted.items():
            np.testing.assert_array_equal(got[name], array)
            assert got[name].dtype == array.dtype and got[name].shape == array.shape
    assert [*read_arrays(tmp_path / "x.npz", ("text",))] == ["text"]


@pytest.mark.parametrize("claims", ["all of it", "little", "much", "too many", "nothing there", "minus one"])
def test_a_bomb_is_refused_before_it_unpacks(tmp_path: Path, claims: str) -> None:
    """Zeros of 30 MiB in 30 kB; an archive that understates them; headers that claim a terabyte."""
    if claims in ("all of it", "little"):
        path = _archive(tmp_path / "x.npz", a=_member((30 * 2**20,), "|u1", bytes(30 * 2**20)))
        assert path.stat().st_size < 2**17
        if claims == "little":
            raw = path.read_bytes()
            size = (30 * 2**20 + 128).to_bytes(4, "little")
            assert raw.count(size) >= 1
            path.write_bytes(raw.replace(size, (1000).to_bytes(4, "little")))
    else:
        shape = {"much": (2**40,), "too many": (2**31, 2**31, 2**31), "nothing there": (5,), "minus one": (-1, -8)}
        path = _archive(
            tmp_path / "x.npz", a=_member(shape[claims], "|u1", b"" if claims == "nothing there" else b"8 bytes.")
        )
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"x\.npz"):
        read_arrays(path, most=2**20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 2**20


def test_the_limit_is_of_all_arrays_together(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.zeros(10_000), b=np.zeros(10_000))
    assert len(read_arrays(tmp_path / "x.npz", most=160_000)) == 2
    assert len(read_arrays(tmp_path / "x.npz", ["a"], most=80_000)) == 1
    with pytest.raises(ValueError, match=r"160,256 bytes, more than the 100,000 that are allowed"):
        read_arrays(tmp_path / "x.npz", most=100_000)
    assert MOST < GIB and HEADER_ROOM < 2**16


def test_damaged_and_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, a=np.arange(100))
    whole = path.read_bytes()
    for content in (b"", b"PK", b"\x80\x04]", whole[:-10], whole[:60], whole[:200] + b"\xff" + whole[201:]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"x\.npz"):
            read_arrays(path)
    for member in (b"", b"text", _member((1,), "|O", b"12345678"), _member((2,), "|V0", b"")):
        with pytest.raises(ValueError, match=r"x\.npz: 'a'"):
            read_arrays(_archive(path, a=member))
    with pytest.raises(ValueError, match=re.escape("holds no array 'b', but a")):
        read_arrays(_archive(path, a=whole), ["b"])
    with pytest.raises(ValueError, match="packed in a way"):
        read_arrays(_archive(path, zipfile.ZIP_LZMA, a=_member((1,), "|u1", b"1")))
    with pytest.raises(OSError):
        read_arrays(tmp_path / "absent.npz")
