"""The metrics of the pyiqa package."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from iqa import SCORERS
from iqa._image import check_images, full_precision
from recognition.registry import nearest
from recognition.types import Needs


@SCORERS.register("pyiqa")
class PyIQA(nn.Module):
    """A metric of IQA-PyTorch by its name (musiq, topiq_nr-face, niqe ...); needs the package pyiqa.

    metric: one that looks at the picture alone (`pyiqa -ls -m NR` lists them). It has no default, as file names have
        none: so a card found somewhere never makes pyiqa download and open a network.
    weights: its file where there is no network to download it from (pyiqa's pretrained_model_path).
    The sign is turned where the metric's lower_better says so. range is what pyiqa tells, with an infinite end where it
    tells none. pyiqa's licence is non-commercial, and it brings torchvision.
    ImportError with the command that installs pyiqa; ValueError for an unknown metric or one that compares pictures.
    """

    needs: Needs = "image"
    version = 1
    exportable = False
    export_obstacle = "pyiqa's metrics are another package's networks, most of which ONNX cannot hold"

    def __init__(self, metric: str | None = None, weights: str | None = None) -> None:
        super().__init__()
        try:
            import pyiqa
        except ImportError as error:
            raise ImportError(
                "scorer 'pyiqa' needs the package pyiqa: `pip install -e '.[iqa]'` (its licence is non-commercial)"
            ) from error
        known = pyiqa.list_models()
        if metric not in known:
            got = "no metric is named" if metric is None else f"unknown metric '{metric}'"
            raise ValueError(f"scorer 'pyiqa': {got}, such as scorer.name=pyiqa:musiq{nearest(str(metric), known)}")
        if metric not in pyiqa.list_models(metric_mode="NR"):
            raise ValueError(
                f"scorer 'pyiqa': metric '{metric}' compares with a reference picture; take one of mode NR"
            )
        options = {} if weights is None else {"pretrained_model_path": weights}
        self.name = metric
        self.metric = pyiqa.create_metric(metric, device=torch.device("cpu"), **options).eval()
        self.metric.requires_grad_(False)
        self.lower_better = bool(self.metric.lower_better)
        low, high = _ends(self.metric.score_range)
        self.range = (-high, -low) if self.lower_better else (low, high)

    def forward(self, image: Tensor) -> Tensor:
        """image: (B, 3, H, W) RGB in [0, 1], of a size that the metric takes. Returns (B,) float32, without gradient.

        RuntimeError in an exported graph.
        """
        check_images(image, "pyiqa")
        if torch.jit.is_tracing() or torch.compiler.is_exporting():
            raise RuntimeError(f"scorer 'pyiqa' cannot be exported: {self.export_obstacle}")
        return self._score(image)

    def extra_repr(self) -> str:
        return f"metric={self.name}"

    @torch.no_grad()
    def _score(self, image: Tensor) -> Tensor:
        with full_precision(image):
            figure = self.metric(image.float().clamp(0.0, 1.0))  # pyiqa allows 1e-6 beyond the range
        if not isinstance(figure, Tensor) or figure.numel() != len(image):
            got = tuple(figure.shape) if isinstance(figure, Tensor) else type(figure).__name__
            raise ValueError(
                f"scorer 'pyiqa': metric '{self.name}' gives {got} for {len(image)} images; wanted (B,) or (B, 1)"
            )
        score = figure.reshape(-1).float()
        return -score if self.lower_better else score


def _ends(told: str | None) -> tuple[float, float]:
    """pyiqa's "~0, ~100" -> (0, 100); "0, ~", an open end, -> (0, inf)."""
    ends = [re.search(r"-?\d+(\.\d+)?", end) for end in (told or "").split(",")]
    low, high = (*ends, None, None)[:2]
    return float(low[0]) if low else -float("inf"), float(high[0]) if high else float("inf")
