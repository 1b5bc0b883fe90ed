"""Pictures through an engine, batch by batch, one by one where they cannot be read."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from tqdm import tqdm

from recognition.answers.engines import FLIPS, Engine, Seen
from recognition.answers.pictures import SQUARE, Picture, read
from recognition.answers.results import Answers

BATCH = 64


def look(
    engine: Engine,
    pictures: Sequence[Picture],
    *,
    points: ArrayLike | None = None,
    scores: ArrayLike | None = None,
    flip: str = "none",
    normalise: bool = True,
    batch_size: int = BATCH,
    progress: bool = False,
) -> Answers:
    """What the engine makes of each picture. Arguments and errors as LRFace.look."""
    if flip not in FLIPS:
        raise ValueError(f"flip is '{flip}'; it must be one of {', '.join(FLIPS)}")
    count = len(pictures)
    given = None if scores is None else np.asarray(scores, np.float32)
    if given is not None and (given.ndim not in (1, 2) or len(given) != count):
        raise ValueError(f"scores must be one row for each of {count} pictures, got {given.shape}")
    embedding, norm = np.full((count, engine.size), np.nan, np.float32), np.full(count, np.nan, np.float32)
    answers = Answers([picture.name for picture in pictures], embedding, norm, None, None)
    oblong, quiet = 0, not (progress and sys.stderr.isatty())
    with tqdm(total=count, unit="img", disable=quiet, leave=False) as bar:
        for batch in read(pictures, batch_size, points):
            answers.errors |= batch.problems
            oblong += batch.oblong
            if len(batch.rows):
                own = None if given is None else given[batch.rows]
                _keep(engine.look(batch.pixels, flip, own, batch.landmarks), batch.rows, answers)
            bar.update(len(batch.rows) + len(batch.problems))
    if normalise:
        embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    if oblong:
        answers.notes.append(_squeezed(oblong))
    return answers


def _keep(seen: Seen, rows: np.ndarray, answers: Answers) -> None:
    """Put one batch in its places."""
    good = np.isfinite(seen.embedding).all(axis=1) & (np.linalg.norm(seen.embedding, axis=1) > 0)
    for row in rows[~good].tolist():
        answers.errors[row] = "its embedding is NaN, infinite or zero: the model has diverged"
    answers.embedding[rows[good]], answers.norm[rows[good]] = seen.embedding[good], seen.norm[good]
    if seen.quality is not None:
        answers.quality = _placed(answers.quality, seen.quality, rows, len(answers))
    if seen.gate is not None:
        answers.gate = _placed(answers.gate, seen.gate, rows, len(answers))


def _placed(whole: np.ndarray | None, values: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    if whole is None:
        whole = np.full((count, *values.shape[1:]), np.nan, np.float32)
    whole[rows] = values
    return whole


def _squeezed(count: int) -> str:
    are, were = ("picture is", "was") if count == 1 else ("pictures are", "were")
    return (
        f"{count} {are} far from square (beyond 1 : {SQUARE:g}) and {were} squeezed to 112 x 112: an aligned face is "
        "square; align by points, or by tools/align.py"
    )
