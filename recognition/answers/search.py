"""Who of a gallery is most alike: exact search in blocks, or faiss for galleries of many faces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from recognition.evaluation.identification import BLOCK

if TYPE_CHECKING:
    import faiss

FUSIONS = ("max", "mean")
WAYS = ("auto", "exact", "flat", "hnsw")
MANY = 100_000  # faces from which on "auto" takes faiss
NEIGHBOURS = 32  # of each vector in an HNSW graph
INSTALL = "pip install faiss-cpu"


@dataclass(frozen=True, slots=True)
class Nearest:
    """The k most alike people of Q probes, the most alike first; of equals the first by name."""

    similarity: np.ndarray  # (Q, k) float32 cosines
    person: np.ndarray  # (Q, k) int64, positions in the sorted names of the people
    row: np.ndarray  # (Q, k) int64, of that person's most alike face; -1 for the mean of several


def nearest(
    probe: np.ndarray, gallery: np.ndarray, person: np.ndarray, k: int = 5, fuse: str = "max", way: str = "auto"
) -> Nearest:
    """The k people (or all, where there are fewer) most alike to each probe.

    probe: (Q, D), gallery: (G, D) float32 rows of length one. person: (G,) int64, 0 .. people - 1, each at least once.
    fuse: a person's similarity is that of the most alike face ("max"), or of the mean of the faces, brought to length
        one ("mean").
    way: "exact" multiplies in blocks; "flat" is as exact, by faiss; "hnsw" finds most of them in a graph; "auto" takes
        exact up to MANY vectors and flat beyond.
    ValueError for another fuse, way or k, and where faiss is wanted and not installed.
    """
    if fuse not in FUSIONS or way not in WAYS:
        raise ValueError(f"fuse is '{fuse}' and search '{way}'; wanted one of {FUSIONS} and one of {WAYS}")
    if k < 1:
        raise ValueError(f"k is {k}; ask for one candidate at least")
    order = np.argsort(person, kind="stable")
    starts = np.flatnonzero(np.diff(person[order], prepend=-1))
    k = min(k, len(starts))
    if fuse == "mean":
        sums = np.add.reduceat(gallery[order], starts, axis=0, dtype=np.float64)
        gallery = (sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)).astype(np.float32)
        order = starts = np.arange(len(starts))
        person = order
    if way == "auto":
        way = "exact" if len(gallery) <= MANY else "flat"
    found = _exact(probe, gallery, order, starts, k) if way == "exact" else _faiss(probe, gallery, person, k, way)
    return found if fuse == "max" else Nearest(found.similarity, found.person, np.full_like(found.row, -1))


def _exact(probe: np.ndarray, gallery: np.ndarray, order: np.ndarray, starts: np.ndarray, k: int) -> Nearest:
    sorted_gallery = gallery[order]
    ends = np.append(starts[1:], len(order))
    similarity, person, row = (np.empty((len(probe), k), kind) for kind in (np.float32, np.int64, np.int64))
    step = max(1, BLOCK // len(gallery))
    for begin in range(0, len(probe), step):
        here = slice(begin, begin + step)
        every = probe[here] @ sorted_gallery.T
        best = np.maximum.reduceat(every, starts, axis=1)
        person[here] = _first(best, k)
        similarity[here] = np.take_along_axis(best, person[here], axis=1)
        for i, people in enumerate(person[here]):
            row[begin + i] = [order[starts[p] + every[i, starts[p] : ends[p]].argmax()] for p in people]
    return Nearest(similarity, person, row)


def _first(values: np.ndarray, k: int) -> np.ndarray:
    """Columns of the k largest of each row, the largest first, of equals the first column."""
    if k < values.shape[1]:
        chosen = np.sort(np.argpartition(-values, k - 1, axis=1)[:, :k], axis=1)
    else:
        chosen = np.broadcast_to(np.arange(k), (len(values), k))
    order = np.argsort(-np.take_along_axis(values, chosen, axis=1), axis=1, kind="stable")
    return np.take_along_axis(chosen, order, axis=1)


def _faiss(probe: np.ndarray, gallery: np.ndarray, person: np.ndarray, k: int, way: str) -> Nearest:
    """Faces are asked for until k different people are among them."""
    index = _index(gallery, way)
    similarity = np.full((len(probe), k), -np.inf, np.float32)
    people, rows = np.full((len(probe), k), -1, np.int64), np.full((len(probe), k), -1, np.int64)
    open_rows, count = np.arange(len(probe)), min(4 * k, len(gallery))
    while len(open_rows):
        if way == "hnsw":
            index.hnsw.efSearch = max(64, 2 * count)
        found, faces = index.search(np.ascontiguousarray(probe[open_rows]), count)
        short = []
        for i, row in enumerate(open_rows):
            there = faces[i] >= 0  # a graph may give fewer than were asked for
            own, first = np.unique(person[faces[i][there]], return_index=True)
            best = np.lexsort((own, -found[i][there][first]))[:k]
            enough = len(best)
            people[row, :enough], similarity[row, :enough] = own[best], found[i][there][first[best]]
            rows[row, :enough] = faces[i][there][first[best]]
            if enough < k:
                short.append(row)
        if count == len(gallery):
            break
        open_rows, count = np.array(short, np.int64), min(4 * count, len(gallery))
    return Nearest(similarity, people, rows)


def _index(gallery: np.ndarray, way: str) -> faiss.Index:
    try:
        import faiss
    except ImportError:
        raise ValueError(
            f"a gallery of {len(gallery):,} vectors is searched by faiss, which is not installed: {INSTALL}; or search "
            "exactly without it (search='exact', --search exact)"
        ) from None
    side = gallery.shape[1]
    if way == "flat":
        index = faiss.IndexFlatIP(side)
    else:
        index = faiss.IndexHNSWFlat(side, NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = 200
    index.add(np.ascontiguousarray(gallery))
    return index
