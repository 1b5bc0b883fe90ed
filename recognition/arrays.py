"""Arrays out of .npz files of strangers: no pickle, and no more memory than the caller allows."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

MOST = 2**28  # bytes unpacked, where the caller knows no better
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
HEADER_ROOM = 2**14  # bytes of a member that are no numbers
PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # what numpy writes


def read_arrays(path: Path, names: Sequence[str] | None = None, most: int = MOST) -> dict[str, np.ndarray]:
    """Arrays of an .npz by name.

    names: those wanted, others are not unpacked; None = all. most: bytes that they may have together; what the file
    claims, for the archive and within each array, is compared with it before anything is allocated.
    ValueError for a file that is no sound .npz, lacks a name, holds object arrays or more than `most`; OSError where it
    cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            if missing := [name for name in names or () if name not in members]:
                raise ValueError(f"{path} holds no array '{missing[0]}', but {', '.join(members) or 'none'}")
            chosen = {name: members[name] for name in (names if names is not None else members)}
            claimed = sum(info.file_size for info in chosen.values())
            if claimed > most + HEADER_ROOM * len(chosen):
                raise ValueError(f"{path} would unpack to {claimed:,} bytes, more than the {most:,} that are allowed")
            for name, info in chosen.items():
                if info.compress_type not in PACKINGS:
                    raise ValueError(f"{path}: '{name}' is packed in a way that numpy does not write")
            return {name: _array(_read(archive, info), f"{path}: '{name}'") for name, info in chosen.items()}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{path} is no sound .npz file ({error})") from None


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """As many bytes as are claimed: read() without a number unpacks all that is there, and cuts it afterwards."""
    with archive.open(info) as member:
        return member.read(info.file_size)


def _array(data: bytes, what: str) -> np.ndarray:
    """An .npy in memory. np.load would allocate what its header claims."""
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        if version not in HEADERS:
            raise ValueError(f"version {version} of the format")
        shape, fortran, kind = HEADERS[version](stream)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError, UnicodeDecodeError) as error:
        raise ValueError(f"{what} is no array ({error})") from None
    if kind.hasobject:
        raise ValueError(f"{what}: object arrays are pickles and are not read")
    begin, count = stream.tell(), math.prod(shape)
    if min((*shape, 0)) < 0 or kind.itemsize == 0 or count * kind.itemsize != len(data) - begin:
        raise ValueError(f"{what} claims {shape} of {kind}, and holds {len(data) - begin:,} bytes")
    return np.frombuffer(data, kind, count, begin).reshape(shape, order="F" if fortran else "C").copy("K")
