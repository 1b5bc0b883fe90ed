"""One InsightFace verification .bin."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recognition.data.pairs import read_bin
from recognition.evaluation.compared import Compared, sides
from recognition.evaluation.protocols import PROTOCOLS


@PROTOCOLS.register("bin")
def bin_file(path: str, folds: int = 10, low_res: Sequence[int | Sequence[int]] = (112,)) -> Compared:
    """The pairs of one InsightFace verification .bin, in contiguous folds.

    path: the file. folds: contiguous ones, as the file knows none. low_res: resolutions, N or [gallery, probe] pixels.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    pairs = read_bin(path)
    return Compared(pairs.images, pairs.first, pairs.second, sides(low_res), pairs, folds)
