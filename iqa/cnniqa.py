"""A small learned quality network."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from iqa import SCORERS
from iqa._image import check_images, full_precision, luma, read_tensors
from recognition.types import Needs

PATCH = 32  # pixels
FILTERS, NODES, KERNEL = 50, 800, 7
WHERE_FROM = (
    "take a .safetensors or .npz file with the keys conv1, fc1, fc2, fc3 (.weight, .bias): for form='koniq' the "
    "KonIQ-10k weights that IQA-PyTorch publishes as cnniqa_koniq10k, for form='live' those of "
    "github.com/lidq92/CNNIQA, saved again as safetensors; the scorers 'sharpness' and 'constant' need no file"
)


@SCORERS.register("cnniqa")
class CNNIQA(nn.Module):
    """CNNIQA (Kang et al., CVPR 2014): one convolution, max and min pooling, three linear layers; needs weights.

    form="koniq": RGB, the whole picture at once, about 0 to 1, higher = better (IQA-PyTorch's form).
    form="live": luma in patches of 32x32 normalised locally by a 3x3 window with C = 1 (Kang et al., section 3.1; whole
        patches from the top left, as the published program cuts them), mean over patches; the figure falls with quality
        (a DMOS of 0 to 100), so the score is its negative.
    """

    needs: Needs = "image"
    version = 1
    exportable = True

    def __init__(self, weights: str | None = None, form: Literal["koniq", "live"] = "koniq") -> None:
        super().__init__()
        if form not in ("koniq", "live"):
            raise ValueError(f"scorer 'cnniqa': unknown form '{form}'; take 'koniq' or 'live'")
        self.form = form
        self.range = (0.0, 1.0) if form == "koniq" else (-100.0, 0.0)
        self.conv1 = nn.Conv2d(3 if form == "koniq" else 1, FILTERS, KERNEL)
        self.fc1 = nn.Linear(2 * FILTERS, NODES)
        self.fc2 = nn.Linear(NODES, NODES)
        self.fc3 = nn.Linear(NODES, 1)
        self._load(read_tensors(weights, "cnniqa", WHERE_FROM), str(weights))
        self.requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        """image: (B, 3, H, W) RGB in [0, 1], at least 7x7 (koniq) or 32x32 (live). Returns (B,) float32."""
        check_images(image, "cnniqa")
        smallest = KERNEL if self.form == "koniq" else PATCH
        if image.shape[2] < smallest or image.shape[3] < smallest:
            raise ValueError(
                f"scorer 'cnniqa' in form '{self.form}' takes pictures of {smallest} pixels or more, "
                f"got {image.shape[2]}x{image.shape[3]}"
            )
        with full_precision(image):
            return self._network(image.float()) if self.form == "koniq" else -self._by_patches(luma(image) / 255.0)

    def _by_patches(self, grey: Tensor) -> Tensor:
        """(B, 1, H, W) in [0, 1] -> (B,): the network's mean over whole patches from the top left."""
        rows, columns = grey.shape[2] // PATCH, grey.shape[3] // PATCH
        patches = grey[:, :, : rows * PATCH, : columns * PATCH]
        patches = patches.reshape(-1, rows, PATCH, columns, PATCH).transpose(2, 3).reshape(-1, 1, PATCH, PATCH)
        return self._network(_normalise(patches)).reshape(-1, rows * columns).mean(dim=1)

    def extra_repr(self) -> str:
        return f"form={self.form}"

    def _network(self, picture: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N,)."""
        response = self.conv1(picture)
        pooled = torch.cat((response.amax(dim=(2, 3)), response.amin(dim=(2, 3))), dim=1)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(pooled))))).squeeze(1)

    def _load(self, tensors: dict[str, Tensor], path: str) -> None:
        wanted = {key: tuple(value.shape) for key, value in self.state_dict().items()}
        got = {key: tuple(value.shape) for key, value in tensors.items()}
        if wanted != got:
            wrong = sorted({key for key in {*wanted, *got} if wanted.get(key) != got.get(key)})
            listed = "; ".join(f"{key}: wanted {wanted.get(key, 'none')}, got {got.get(key, 'none')}" for key in wrong)
            raise ValueError(f"scorer 'cnniqa': {path} holds no weights of form '{self.form}' ({listed}); {WHERE_FROM}")
        self.load_state_dict(tensors)


def _normalise(patches: Tensor) -> Tensor:
    """(pixel - local mean) / (local deviation + 1) over 3x3 windows, the edge row repeated. (N, 1, H, W) in [0, 1]."""
    framed = F.pad(patches, (1, 1, 1, 1), mode="replicate")
    mean = F.avg_pool2d(framed, 3, stride=1)
    variance = F.avg_pool2d(framed * framed, 3, stride=1) - mean * mean
    return (patches - mean) / (variance.clamp(min=0.0).sqrt() + 1.0)
