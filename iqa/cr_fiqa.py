"""A linear head on the recognition model's embedding that tells how well the face can be told from others."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from iqa import SCORERS
from iqa._model import ModelScorer, check_base, read_fitted

BETA = 0.5  # of SmoothL1
ROWS = 4096  # images compared with all classes at once
WHERE_FROM = (
    "fit one on the base: python tools/fit_scorer.py cr_fiqa BASE RECORDS OUT.safetensors; "
    "the scorers 'feature_norm' and 'sharpness' need no file"
)


@SCORERS.register("cr_fiqa")
class CrFIQA(ModelScorer):
    """Linear head that predicts how classifiable the face is (CR-FIQA, arXiv 2112.06592); fitted for the base.

    weights: .safetensors with `weight` (D,) and `bias` (), and the base's hash, as tools/fit_scorer.py writes it; on
        another base it is an error. any_base: take a file that tells no base.
    The target is CCS / (NNCCS + 1 + 1e-9), see target(). Published heads are trained together with their networks;
    ours is fitted to a frozen base. mobilefacenet_y1, with a head of 1,469 training images at five resolutions, over
    60 faces at 112, 56, 28, 14 and 7 pixels: 0.51, 0.51, 0.42, 0.16, 0.05. Costs a forward of the base.
    """

    name = "cr_fiqa"

    def __init__(self, weights: str | None = None, any_base: bool = False) -> None:
        super().__init__()
        self.any_base = any_base
        self.range = (0.0, 0.8)
        tensors, self.fitted_on = read_fitted(weights, "cr_fiqa", WHERE_FROM)
        weight, bias = read_head(tensors, "cr_fiqa", str(weights))
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def _prepare(self, base: nn.Module) -> None:
        check_size(self.weight, base, self.name)
        check_base(base, self.fitted_on, self.name, self.any_base)

    def _rate(self, embedding: Tensor) -> Tensor:
        return embedding @ self.weight + self.bias


def read_head(tensors: dict[str, Tensor], scorer: str, path: str) -> tuple[Tensor, Tensor]:
    """weight (D,) and bias () of a head's file. ValueError for other tensors."""
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    if shapes.keys() != {"weight", "bias"} or tensors["bias"].numel() != 1 or tensors["weight"].squeeze().dim() != 1:
        raise ValueError(
            f"scorer '{scorer}': {path} holds {shapes}; wanted weight (D,) and bias () of a head; {WHERE_FROM}"
        )
    return tensors["weight"].squeeze(), tensors["bias"].reshape(())


def check_size(weight: Tensor, base: nn.Module, scorer: str) -> None:
    """ValueError where the file's vector is not as long as the base's embedding."""
    if weight.numel() != base.embedding_size:
        raise ValueError(
            f"scorer '{scorer}': its file is for embeddings of {weight.numel()} numbers, and {type(base).__name__} "
            f"gives {base.embedding_size}; fit it on this base by tools/fit_scorer.py"
        )


def target(own: Tensor, nearest: Tensor) -> Tensor:
    """CCS / (NNCCS + 1 + 1e-9): cosines to the own class's centre and to the nearest other one, (N,) each."""
    return own / (nearest + 1 + 1e-9)


def similarities(embedding: Tensor, reference: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """CCS and NNCCS of each image, (N,) each, float32.

    embedding: (N, D) of the images as they are to be rated. reference: (N, D) of the same images at their best; the
    unit mean of a class's unit embeddings is its centre, of an image's own class without that image.
    label: (N,) int64, every class with two images or more, two classes at least; else ValueError.
    """
    counts = torch.bincount(label)
    if (counts[counts > 0] < 2).any() or (counts > 0).sum() < 2:
        raise ValueError("a centre is a mean over other images: give two classes or more, each of two images or more")
    unit, best = F.normalize(embedding.float()), F.normalize(reference.float())
    sums = torch.zeros(len(counts), best.shape[1], device=best.device).index_add_(0, label, best)
    own = (unit * F.normalize(sums[label] - best)).sum(1)
    centres, nearest = F.normalize(sums), []
    for some, theirs in zip(unit.split(ROWS), label.split(ROWS), strict=True):
        cosine = some @ centres.T
        cosine[:, counts == 0] = -1.0
        nearest.append(cosine.scatter(1, theirs[:, None], -1.0).amax(1))
    return own, torch.cat(nearest)


def fit(embedding: Tensor, wanted: Tensor, decay: float = 1e-4) -> tuple[Tensor, Tensor]:
    """weight (D,) and bias () of the head that minimises SmoothL1 (beta 0.5) of its figure and `wanted`, (N,).

    embedding: (N, D), not normalised. decay: of the weights on standardised embeddings, half the sum of squares.
    The problem is convex and solved at once (L-BFGS in float64), so the result depends on nothing else.
    """
    rows, wanted = embedding.double(), wanted.double()
    mean, deviation = rows.mean(0), rows.std(0).clamp(min=1e-12)
    rows = (rows - mean) / deviation
    weight = torch.zeros(rows.shape[1], dtype=torch.float64, device=rows.device, requires_grad=True)
    bias = wanted.mean().detach().clone().requires_grad_(True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=500, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        value = F.smooth_l1_loss(rows @ weight + bias, wanted, beta=BETA) + decay / 2 * weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        solver.step(loss)
    weight = weight.detach() / deviation
    return weight.float(), (bias.detach() - weight @ mean).float()
