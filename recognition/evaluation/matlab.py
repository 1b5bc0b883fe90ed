"""Lists of names and ids out of the .mat files that come with QMUL's benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import scipy


def read_mat(path: Path, keys: Sequence[str]) -> list[np.ndarray]:
    """The arrays under these keys, nothing else of the file being read.

    FileNotFoundError where it is not; ValueError for a file that scipy does not read, such as MATLAB 7.3's, or one that
    lacks a key: it lists the keys that are there.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        there = [name for name, _, _ in scipy.io.whosmat(path)]
        lacking = [key for key in keys if key not in there]
        if lacking:
            raise ValueError(f"it holds no '{lacking[0]}', but {', '.join(there) or 'nothing'}")
        arrays = scipy.io.loadmat(path, variable_names=list(keys))
    except (ValueError, TypeError, KeyError, NotImplementedError, OSError) as error:
        raise ValueError(f"{path} is not as it is published: {error}") from None
    return [arrays[key] for key in keys]


def names_of(cells: np.ndarray, path: Path) -> list[str]:
    """Names in an array of cells, row by row, or of strings. ValueError for a cell that is no name."""
    found = []
    for cell in cells.ravel():
        while isinstance(cell, np.ndarray) and cell.size == 1:
            cell = cell.ravel()[0]
        if not isinstance(cell, str) or not cell.strip():
            raise ValueError(f"{path}: entry {len(found) + 1} is {cell!r}; a file name is wanted")
        found.append(cell.strip())
    return found


def named_ids(path: Path, names: str, ids: str) -> tuple[list[str], np.ndarray]:
    """Names and their persons (n,) int64, two arrays of one file. ValueError where they are not as many."""
    cells, numbers = read_mat(path, (names, ids))
    found = names_of(cells, path)
    if not np.issubdtype(numbers.dtype, np.number) or numbers.size != len(found):
        raise ValueError(
            f"{path}: '{ids}' holds {numbers.size} of {numbers.dtype} for {len(found)} names in '{names}'; a number "
            "each is wanted"
        )
    return found, numbers.ravel().astype(np.int64)


def number_of(name: str) -> int | None:
    """The person's number, which stands before the first underscore of a file's name; None where there is none."""
    begin = PurePosixPath(name).name.partition("_")[0]
    return int(begin) if "_" in name and begin.isascii() and begin.isdigit() else None
