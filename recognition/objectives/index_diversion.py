"""Away from the faces that nobody can recognise (after the recognizability index)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recognition.objectives import OBJECTIVES
from recognition.objectives._checks import check_positive, check_range, check_whole, check_width, needed
from recognition.objectives._pairs import unit
from recognition.objectives._rows import at_least_float32
from recognition.types import IMAGE_SIZE, ObjectiveContext


@OBJECTIVES.register("index_diversion")
class IndexDiversion(nn.Module):
    """RI-like, of our own: mean of (1 - RI) * smooth_l1(max(0, reach - d_ui)), away from unrecognisable faces' centre.

    After the recognizability index (Chai et al. 2023, arXiv 2304.10066), of which the abstract alone is known here:
    this formula claims no parity.
    d_ui = 1 - cos(v, u), v an embedding, u the centre of unrecognisable faces: the running mean of the unit embeddings
        of all pictures of at most `side` pixels in the global batch, u <- momentum * u + (1 - momentum) * their mean;
        the first such batch sets it. It moves in training mode only, before it is used, and is kept in checkpoints.
    RI = clip(d_ui * d_n / (d_n + d_p), 0, 1), without gradient: d_p = 1 - cos(v, mean direction of the other pictures
        of the same person in the batch), d_n = 1 - cos(v, nearest picture of another person in it). The paper's are
        distances to class centres, which an objective does not see. Where the batch holds no second picture of the
        person, or no other person, RI = clip(d_ui, 0, 1).
    smooth_l1(e) = e^2 / (2 beta) below beta, e - beta / 2 above. The gradient flows through d_ui alone, and at
    d_ui >= reach there is none. The unrecognisable pictures themselves are pushed away as well.
    side: pixels, of a degraded picture (Batch.level). momentum: 0 .. 1. beta: the paper's 0.75. reach: 0 .. 2; 1 = at
    right angles to the centre. embedding_size: of the network.
    Before the first unrecognisable picture the loss is 0: degradation has to reach down to `side`.
    """

    fields = ("level",)
    centre: Tensor

    def __init__(
        self,
        side: int = 8,
        momentum: float = 0.9,
        beta: float = 0.75,
        reach: float = 1.0,
        embedding_size: int = 512,
    ) -> None:
        super().__init__()
        check_whole("index_diversion", "side", side, 1, IMAGE_SIZE)
        check_range("index_diversion", "momentum", momentum, 0.0, 1.0)
        check_positive("index_diversion", "beta", beta)
        check_positive("index_diversion", "reach", reach)
        check_range("index_diversion", "reach", reach, 0.0, 2.0)
        check_whole("index_diversion", "embedding_size", embedding_size, 1)
        self.side, self.momentum, self.beta, self.reach = side, momentum, beta, reach
        self.embedding_size = embedding_size
        self.register_buffer("centre", torch.zeros(embedding_size))  # 0 = no unrecognisable face seen yet

    def forward(self, embedding: Tensor, label: Tensor, context: ObjectiveContext) -> Tensor:
        """embedding: (N, D). label: (N,). Returns a scalar. ValueError where D is not embedding_size."""
        check_width("index_diversion", embedding, self.embedding_size)
        level = context.gather(needed("index_diversion", context.batch, "level"))
        with torch.autocast(embedding.device.type, enabled=False):
            direction = unit(at_least_float32(embedding))
            if self.training:
                self._move(direction.detach(), level)
            centre = unit(self.centre[None].to(direction.dtype))[0]
            distance = 1 - direction @ centre
            missing = (self.reach - distance).relu()
            smooth = torch.where(missing < self.beta, missing.square() / (2 * self.beta), missing - self.beta / 2)
            index = (distance.detach() * _share(direction.detach(), label)).clamp(0, 1)
            return ((1 - index) * smooth).mean() * centre.any()

    def _move(self, direction: Tensor, level: Tensor) -> None:
        """The centre, by the unrecognisable among the unit embeddings of the global batch; no one waits for a number.

        A row without direction is none of them.
        """
        worst = (level >= 1 - (self.side + 0.5) / IMAGE_SIZE) & direction.any(dim=1)
        mean = (direction * worst[:, None]).sum(dim=0) / worst.sum().clamp_min(1)
        kept = torch.where(self.centre.any(), self.momentum, 0.0)
        moved = kept * self.centre + (1 - kept) * mean.to(self.centre.dtype)
        self.centre.copy_(torch.where(worst.any(), moved, self.centre))


def _share(direction: Tensor, label: Tensor) -> Tensor:
    """d_n / (d_n + d_p) (N,) in 0 .. 1 from unit rows (N, D); 1 where a row has no positive or no negative."""
    same = label[:, None] == label[None]
    mean = unit(same.to(direction.dtype) @ direction - direction)  # of the others of the class
    to_own = 1 - (direction * mean).sum(dim=1)
    nearest = (direction @ direction.T).masked_fill(same, -1.0).amax(dim=1)
    to_other = (1 - nearest).clamp_min(0)
    known = (same.sum(dim=1) > 1) & ~same.all(dim=1)
    return torch.where(known, to_other / (to_other + to_own.clamp_min(0)).clamp_min(1e-6), 1.0)
