"""Topological alignment of embeddings with pictures (TopoFR)."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from recognition.objectives import OBJECTIVES
from recognition.objectives._checks import check_choice, check_whole, needed
from recognition.objectives._pairs import unit
from recognition.objectives._rows import at_least_float32, lengths, reduced
from recognition.types import ObjectiveContext


@OBJECTIVES.register("topology")
class Topology(nn.Module):
    """Embeddings lie among one another as their pictures do: sum (l_embedding - l_picture)^2 / N over tree edges.

    l: lengths of the edges of a minimum spanning tree of the global batch, which are its 0-dimensional persistence:
    of the pictures, x in [-1, 1], distance |x - x'| / sqrt(4 C H W), which is 0 .. 1; of the embeddings |z - z'|.
    match: "sorted": both trees' lengths, each in rising order, place by place; what TopoFR's program trains with (Dan
        et al. 2024, arXiv 2410.10587). "edges": edge by edge and both ways, (l_embedding - l_picture)^2 over the edges
        of the pictures' tree plus the same over those of the embeddings' tree; the topological autoencoder's form
        (Moor et al. 2020, arXiv 1906.00722, without its factor 1/2), which TopoFR's program offers and leaves unused.
    of: "image": the picture as the network saw it, as published; "twin": the same before it was degraded.
    side: pixels; a larger picture is reduced to side x side by area before processes exchange it. 0: as it is, which
        is the published form. At 28 a picture takes 9 KB instead of 150; of 256 faces, distances were 3 % shorter
        then, and correlated 0.999 with those at 112.
    normalise: embeddings are scaled to length 1 first. Published: False, with weight 0.1; their distances are then many
        times the pictures', so that the loss above all shrinks embeddings: mobilefacenet_y1 starts at 58 on 64 faces,
        and at 0.6 with normalise=True.
    The trees are found anew in every batch, without gradient, on one CPU core, each in 13 ms at N = 512 and 155 ms at
    2048; the gradient flows through the lengths of their edges. TopoFR's weights for hard samples are a margin:
    hard_samples.
    """

    def __init__(
        self,
        match: Literal["sorted", "edges"] = "sorted",
        of: Literal["image", "twin"] = "image",
        side: int = 28,
        normalise: bool = False,
    ) -> None:
        super().__init__()
        check_choice("topology", "match", match, ("sorted", "edges"))
        check_choice("topology", "of", of, ("image", "twin"))
        check_whole("topology", "side", side, 0)
        self.match, self.of, self.side, self.normalise = match, of, side, normalise
        self.fields: tuple[str, ...] = ("twin",) if of == "twin" else ()

    def forward(self, embedding: Tensor, label: Tensor, context: ObjectiveContext) -> Tensor:
        """embedding: (N, D). label: (N,), not looked at. Returns a scalar."""
        picture = context.batch.image if self.of == "image" else needed("topology", context.batch, "twin")
        if 0 < self.side < max(picture.shape[2:]):
            picture = reduced(picture, self.side)
        picture = context.gather(picture.detach())
        point = at_least_float32(embedding)
        pixel = picture.flatten(1).to(point.dtype) / math.sqrt(4 * picture[0].numel())
        if self.normalise:
            point = unit(point)
        of_pictures, of_points = spanning_tree(pixel), spanning_tree(point)
        if self.match == "sorted":
            short, long = _rising(_edges(point, of_points)), _rising(_edges(pixel, of_pictures))
            return (short - long).square().sum() / len(point)
        return (
            sum((_edges(point, tree) - _edges(pixel, tree)).square().sum() for tree in (of_pictures, of_points))
        ) / len(point)


def spanning_tree(rows: Tensor) -> Tensor:
    """Edges (N - 1, 2) int64 of a minimum spanning tree of the rows (N, D) by Euclidean distance, without gradient.

    Distances are float64, so that edges differ from the true ones only where two lengths agree to 1e-7. Prim's way, and
    not a sparse graph's, to which a distance of 0, that of two equal pictures, would be no edge at all.
    """
    exact = rows.detach().double()
    exact = exact - exact.mean(dim=0)
    product = exact @ exact.T
    own = product.diagonal()
    squared = (own[:, None] + own[None] - 2 * product).clamp_min_(0).cpu().numpy()
    edges = np.empty((len(squared) - 1, 2), np.int64)
    outside = np.arange(len(squared)) > 0
    shortest, towards = np.where(outside, squared[0], np.inf), np.zeros(len(squared), np.int64)
    for number in range(len(edges)):
        new = int(shortest.argmin())
        edges[number] = towards[new], new
        outside[new], shortest[new] = False, np.inf
        closer = outside & (squared[new] < shortest)
        shortest[closer], towards[closer] = squared[new][closer], new
    return torch.from_numpy(edges).to(rows.device)


def _edges(rows: Tensor, tree: Tensor) -> Tensor:
    """Lengths (N - 1,) of the edges; differences, not products, so that short ones are exact in float32."""
    return lengths(rows[tree[:, 0]] - rows[tree[:, 1]])


def _rising(edges: Tensor) -> Tensor:
    return edges[edges.detach().argsort(stable=True)]
