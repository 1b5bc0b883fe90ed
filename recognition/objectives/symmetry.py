"""The two halves of a frontal face are one person (after SymFace)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recognition.objectives import OBJECTIVES
from recognition.objectives._checks import check_positive, check_share, needed
from recognition.objectives._pairs import mean_of, unit
from recognition.objectives._rows import at_least_float32
from recognition.types import IMAGE_SIZE, Batch, ObjectiveContext

LEFT_EYE, RIGHT_EYE, NOSE, PAIRED = 0, 1, 2, [0, 1, 3, 4]  # places among the five landmarks


@OBJECTIVES.register("symmetry")
class Symmetry(nn.Module):
    """Halves of a frontal face, each mirrored to a whole one, meet: mean of 1 - cos(left, right), a formula of our own.

    After SymFace (arXiv 2409.11816), whose formula and program are not public: this one claims no parity. What is
    known is the idea: frontal pictures are chosen by the nose's place among five landmarks, the two halves, each
    mirrored to a full face, are embedded, and their distance is added to the loss.
    rho = (nose_x - middle of the eyes_x) / |right eye - left eye|; a picture is frontal where |rho| <= frontal.
    L = mean over frontal pictures of [1 - cos(l, r) + pull * ((1 - cos(l, e)) + (1 - cos(r, e))) / 2], l and r the
    embeddings of the two mirrored halves, e that of the picture itself, without gradient: halves come to the whole.
    frontal: in eye distances, more than 0. pull: 0 or more; 0 = the halves alone, as described by the paper.
    The mirror is the upright line through the mean x of eyes and corners of the mouth: it follows a face that stands
    beside the picture's middle. The nose is left out of it, as it wanders with the pose.
    Between pixels the picture is interpolated linearly; beyond its edge the edge's pixel is repeated.
    Cost: the network sees three pictures instead of one, those of faces that are not frontal as well, which weigh 0.
    The paper wants 20 to 30 % frontal pictures in a batch; one without any gives 0.
    """

    fields = ("landmarks",)

    def __init__(self, frontal: float = 0.1, pull: float = 0.0) -> None:
        super().__init__()
        check_positive("symmetry", "frontal", frontal)
        check_share("symmetry", "pull", pull)
        self.frontal, self.pull = frontal, pull

    def views(self, batch: Batch) -> dict[str, Tensor]:
        """left_half, right_half: (B, 3, H, W) each, the picture's halves mirrored to whole faces."""
        left, right = halves(batch.image, needed("symmetry", batch, "landmarks"))
        return {"left_half": left, "right_half": right}

    def forward(self, embedding: Tensor, label: Tensor, context: ObjectiveContext) -> Tensor:
        """embedding: (N, D). label: (N,), not looked at. Returns a scalar."""
        landmarks = context.gather(needed("symmetry", context.batch, "landmarks"))
        counted = frontality(landmarks).abs() <= self.frontal
        whole = at_least_float32(embedding)
        left, right = (unit(context.views[f"{side}_half"].to(whole.dtype)) for side in ("left", "right"))
        distance = 1 - (left * right).sum(dim=1)
        if self.pull > 0:
            target = unit(whole.detach())
            distance = distance + self.pull * (1 - ((left + right) / 2 * target).sum(dim=1))
        return mean_of(distance, counted) + 0.0 * whole.sum()


def frontality(landmarks: Tensor) -> Tensor:
    """rho (B,): how far the nose stands beside the middle of the eyes, in eye distances; > 0 to the picture's right.

    landmarks: (B, 5, 2) in any unit. Eyes on one spot give inf or NaN, which is not frontal.
    """
    left, right, nose = landmarks[:, LEFT_EYE], landmarks[:, RIGHT_EYE], landmarks[:, NOSE]
    return (nose[:, 0] - (left[:, 0] + right[:, 0]) / 2) / torch.linalg.vector_norm(right - left, dim=1)


def halves(image: Tensor, landmarks: Tensor) -> tuple[Tensor, Tensor]:
    """Left and right half of the pictures (B, 3, H, W), each mirrored to a whole face at the middle of the landmarks.

    landmarks: (B, 5, 2) in pixels of the 112 px picture, whatever W is; pixels are counted at their centres.
    """
    width = image.shape[3]
    middle = landmarks[:, PAIRED, 0].double().mean(dim=1, keepdim=True)  # (B, 1)
    line = ((middle + 0.5) * width / IMAGE_SIZE - 0.5).clamp(0, width - 1)
    column = torch.arange(width, dtype=torch.float64, device=image.device)
    opposite = 2 * line - column
    return _columns(image, torch.minimum(column, opposite)), _columns(image, torch.maximum(column, opposite))


def _columns(image: Tensor, place: Tensor) -> Tensor:
    """The picture's columns at place (B, W) float64, which may lie between two columns or outside."""
    place = place.clamp(0, image.shape[3] - 1)
    first = place.floor()
    share = (place - first).to(image.dtype)[:, None, None]
    before = first.long()[:, None, None].expand_as(image)
    after = (before + 1).clamp_max(image.shape[3] - 1)
    return torch.lerp(image.gather(3, before), image.gather(3, after), share.expand_as(image))
