"""A regression forest from a file: read without pickle, evaluated in torch, fitted by scikit-learn."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from recognition.arrays import read_arrays
from recognition.files import write_atomically

if TYPE_CHECKING:
    from sklearn.ensemble import RandomForestRegressor

TABLES = ("feature", "threshold", "left", "right", "value")


class Forest(nn.Module):
    """The mean of T regression trees of at most N nodes, all walked at once: (B, F) float32 -> (B,) float32.

    Node 0 is a tree's root; an inner node sends a row left where its feature is at most the threshold; a leaf is a node
    whose two children are itself. A file is an .npz of five arrays (T, N): feature, left and right (int), threshold and
    value (float32), and of `names`, the features in their order.
    """

    def __init__(self, tables: dict[str, np.ndarray], steps: int) -> None:
        """tables: as in a file, without names. steps: the most inner nodes on a way from a root to a leaf."""
        super().__init__()
        self.steps = steps
        for name in TABLES:
            kind = torch.float32 if name in ("threshold", "value") else torch.int64
            self.register_buffer(name, torch.from_numpy(tables[name]).to(kind))

    def forward(self, rows: Tensor) -> Tensor:
        """rows: (B, F) float32."""
        tree = torch.arange(len(self.feature), device=rows.device)
        node = torch.zeros(len(rows), len(self.feature), dtype=torch.int64, device=rows.device)  # (B, T)
        for _ in range(self.steps):
            left = rows.gather(1, self.feature[tree, node]) <= self.threshold[tree, node]
            node = torch.where(left, self.left[tree, node], self.right[tree, node])
        return self.value[tree, node].mean(dim=1)


def read_forest(path: Path, features: Sequence[str], scorer: str) -> Forest:
    """ValueError where the file holds no such forest, or one of other features."""
    try:
        tables = read_arrays(path, (*TABLES, "names"))
    except (ValueError, OSError) as error:
        raise ValueError(f"scorer '{scorer}': {path} holds no forest ({error}); fit one") from None
    names = [str(name) for name in tables.pop("names").ravel()]
    if names != list(features):
        raise ValueError(
            f"scorer '{scorer}': {path} was fitted on {names}, this version takes {list(features)}; fit it anew"
        )
    steps = _steps(tables, len(features))
    if steps < 0:
        raise ValueError(
            f"scorer '{scorer}': the trees of {path} are broken: wanted {', '.join(TABLES)} of one shape (trees, "
            "nodes), finite, whose children lie behind their parents; fit it anew"
        )
    return Forest(tables, steps)


def write_forest(path: str | Path, forest: RandomForestRegressor, features: Sequence[str]) -> None:
    """Write a fitted forest of scikit-learn as an .npz that read_forest takes."""
    trees = [tree.tree_ for tree in forest.estimators_]
    nodes = max(tree.node_count for tree in trees)
    itself = np.broadcast_to(np.arange(nodes, dtype=np.int32), (len(trees), nodes))
    tables = {"feature": np.zeros((len(trees), nodes), np.int32), "left": itself.copy(), "right": itself.copy()}
    tables |= {name: np.zeros((len(trees), nodes), np.float32) for name in ("threshold", "value")}
    for row, tree in enumerate(trees):
        inner = np.flatnonzero(tree.children_left >= 0)
        tables["feature"][row, inner] = tree.feature[inner]
        tables["left"][row, inner] = tree.children_left[inner]
        tables["right"][row, inner] = tree.children_right[inner]
        tables["threshold"][row, inner] = _round_down(tree.threshold[inner])
        tables["value"][row, : tree.node_count] = np.ravel(tree.value)
    content = io.BytesIO()
    np.savez_compressed(content, names=np.array(list(features)), **tables)
    write_atomically(path, content.getvalue())


def fit_forest(
    rows: np.ndarray,
    quality: np.ndarray,
    path: str | Path,
    features: Sequence[str],
    trees: int = 50,
    depth: int = 8,
    smallest_leaf: int = 5,
    seed: int = 0,
) -> None:
    """Fit scikit-learn's RandomForestRegressor to rows (N, F) float32 and quality (N,), higher = better; write it.

    ImportError with the command that installs scikit-learn.
    """
    try:
        from sklearn.ensemble import RandomForestRegressor
    except ImportError as error:
        raise ImportError("fitting a forest needs scikit-learn: `pip install -e '.[forest]'`") from error
    forest = RandomForestRegressor(trees, max_depth=depth, min_samples_leaf=smallest_leaf, random_state=seed)
    write_forest(path, forest.fit(rows, quality), features)


def _round_down(threshold: np.ndarray) -> np.ndarray:
    """The largest float32 that is not above: the same side for every float32 value as the float64 threshold."""
    near = threshold.astype(np.float32)
    return np.where(near > threshold, np.nextafter(near, np.float32(-np.inf)), near)


def _steps(tables: dict[str, np.ndarray], features: int) -> int:
    """The most inner nodes on a way from root to leaf; -1 for tables that are no trees."""
    shape = tables["feature"].shape
    numbers = [tables[name] for name in ("feature", "left", "right")]
    if len(shape) != 2 or 0 in shape or any(table.shape != shape for table in tables.values()):
        return -1
    if any(table.dtype.kind not in "iu" for table in numbers):
        return -1
    if any(tables[name].dtype.kind != "f" or not np.isfinite(tables[name]).all() for name in ("threshold", "value")):
        return -1
    feature, left, right = (table.astype(np.int64) for table in numbers)
    itself = np.broadcast_to(np.arange(shape[1]), shape)
    leaf = (left == itself) & (right == itself)
    behind = (np.minimum(left, right) > itself) & (np.maximum(left, right) < shape[1])
    if not (leaf | behind).all() or feature.min() < 0 or feature.max() >= features:
        return -1
    depth = np.zeros(shape, np.int64)
    for node in range(shape[1] - 2, -1, -1):  # children are done before their parents
        below = [depth[np.arange(shape[0]), side[:, node]] for side in (left, right)]
        depth[:, node] = np.where(leaf[:, node], 0, 1 + np.maximum(*below))
    return int(depth[:, 0].max())
