"""What the tests of TinyFace, SCface and SurvFace share: folders of pictures, .mat files, and plain counting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.io import savemat

from recognition.evaluation.protocol import Looked, Protocol


def write(folder: Path, names: Sequence[str], picture: bytes = b"not decoded") -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture)


def cells(rows: Sequence[str | Sequence[str]]) -> np.ndarray:
    """Names as MATLAB's cells: (n, 1) of one name a row, (n, 2) of two."""
    whole = [[row] if isinstance(row, str) else list(row) for row in rows]
    array = np.empty((len(whole), len(whole[0])), object)
    for i, row in enumerate(whole):
        array[i, :] = row
    return array


def write_mat(path: Path, **arrays: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, arrays)


def looked_at(protocol: Protocol, vectors: Mapping[str, Sequence[float]], view: str) -> dict[str, Looked]:
    """Embeddings by name of the picture; gate and quality are the row."""
    rows = protocol.views[view].rows
    names = [protocol.images.names[row] for row in rows]
    embedding = torch.tensor([list(vectors[name]) for name in names], dtype=torch.float32)
    return {view: Looked(embedding, score=rows.astype(np.float32), gate=rows.astype(np.float32) / 100)}


def random_vectors(names: Sequence[str], people: Sequence[int], spread: float = 0.8, seed: int = 0) -> dict:
    """Vectors that lie about one centre for each person, in 6 dimensions."""
    centre = np.random.default_rng(seed).normal(size=(max(people) + 2, 6))
    noise = np.random.default_rng([seed, 1]).normal(size=(len(names), 6))
    found = centre[np.array(people)] + spread * noise
    return {name: row.tolist() for name, row in zip(names, found, strict=True)}


def ranked(probe: Sequence[float], gallery: Sequence[Sequence[float]]) -> list[int]:
    """Positions in the gallery from the most similar on, in float64."""
    cosine = [np.dot(probe, g) / np.linalg.norm(probe) / np.linalg.norm(g) for g in gallery]
    return sorted(range(len(gallery)), key=lambda i: -cosine[i])


def average_precision(order: Sequence[int], mates: set[int]) -> float:
    """Along the ranking: the area under precision over recall by trapezia, from precision 1 at recall 0."""
    area, recall, precision, found = 0.0, 0.0, 1.0, 0
    for n, i in enumerate(order, 1):
        found += i in mates
        area += (found / len(mates) - recall) * (precision + found / n) / 2
        recall, precision = found / len(mates), found / n
    return area
