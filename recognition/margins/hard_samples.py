"""Images that disturb the embedding space weigh more: TopoFR's structure damage score."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from recognition import distributed
from recognition.margins import MARGINS
from recognition.margins._checks import check_number
from recognition.margins._wrapped import stand_on
from recognition.types import MarginContext

FIRST_SHARE = 0.1  # of the Gaussian, before the first batch; this and the next two are those of TopoFR's program
FIRST_REACH = 2.5  # width of the uniform part in root mean squares of the entropy
LARGEST_SHARE = 0.5  # the Gaussian is at most as likely as the uniform part
SMALLEST_SPREAD = 1e-3  # of either part's mean square, in those of all entropies
TINY = 1e-12


@MARGINS.register("hard_samples")
class HardSamples(nn.Module):
    """Another margin's losses times (2 - gamma) * (1 - p_y), both without gradient: hard and unsure images weigh more.

    Structure damage estimation (TopoFR, Dan et al. 2024, arXiv 2410.10587). p_y: the softmax's share of the target.
    gamma: how likely the softmax's entropy H belongs to the sure images, where H comes from a mixture of a Gaussian
    around 0 and a uniform part: pi 2 N(H; 0, sigma^2) / (pi 2 N(H; 0, sigma^2) + (1 - pi) / delta).
    of: the other margin, by name. arguments: its arguments. One that owns its reduction has no softmax: ValueError.
    rate: how fast the mixture follows, 0 .. 1: share of the newest batch in its running moments. The first batches
        count alike, so that starting values are gone at once.
    The mixture is fitted our own way, by stepwise EM: running means of gamma, gamma H^2 and (1 - gamma) H^2 over global
    batches give pi (0.5 at most), sigma^2 = mean(gamma H^2) / mean(gamma) and delta^2 = 3 mean((1 - gamma) H^2) /
    mean(1 - gamma), as a uniform H on 0 .. delta has mean square delta^2 / 3. So it holds for a batch of one image.
    The published program differs: it fits each process's batch alone, until it converges; flips the sign of every
    other entropy to make the half of a Gaussian whole; divides delta's moment by the Gaussian's number, not the uniform
    part's; and stores p_y as a whole number, so that 1 - p_y is 1 for nearly all images.
    """

    def __init__(self, of: str = "arcface", arguments: Mapping[str, object] | None = None, rate: float = 0.01) -> None:
        super().__init__()
        check_number("rate", rate, lambda number: 0 < number <= 1, "lie in (0, 1]")
        refused = {"reduce": "owns its reduction, so it has no softmax", "weigh": "weighs the losses"}
        self.margin = stand_on(self, "hard_samples", of, arguments, refused)
        self.rate = rate
        self.register_buffer("moments", torch.zeros(3))  # running means of gamma, gamma H^2, (1 - gamma) H^2
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        self._entropy: Tensor | None = None  # from forward() to weigh()

    def forward(self, cosine: Tensor, label: Tensor, context: MarginContext) -> Tensor:
        """The other margin's logits."""
        logits = self.margin(cosine, label, context)
        self._entropy = _entropy(logits.detach())
        return logits

    def weigh(self, losses: Tensor, context: MarginContext) -> Tensor:
        """losses: (N,) of the softmax over the global batch. Returns (N,) times their weights, 0 .. 2.

        RuntimeError unless it follows forward() of the same batch.
        """
        entropy, self._entropy = self._entropy, None
        if entropy is None or len(entropy) != len(losses):
            raise RuntimeError("weigh() takes the entropies that forward() found: call forward() on the batch first")
        with torch.no_grad():
            unsure = 2 - _posterior(entropy, self._follow(entropy))
            wrong = -torch.expm1(-losses.clamp_min(0.0))  # 1 - p_y, as the loss is -log(p_y)
        return losses * (unsure * wrong)

    def _follow(self, entropy: Tensor) -> Tensor:
        """The mixture's moments, after this batch in training, as they are otherwise; a first batch starts them."""
        power = entropy.square()
        first = entropy.new_tensor([FIRST_SHARE, FIRST_SHARE, (1 - FIRST_SHARE) * FIRST_REACH**2 / 3])
        first[1:] *= power.mean()
        moments = torch.where(self.batches == 0, first, self.moments.to(first))
        if self.training:
            gamma = _posterior(entropy, moments)
            found = torch.stack([gamma.mean(), (gamma * power).mean(), ((1 - gamma) * power).mean()])
            self.batches += 1
            moments = moments.lerp(found, (1 / self.batches.to(found)).clamp_min(self.rate))
            self.moments.copy_(moments)
        return moments


def _entropy(logits: Tensor) -> Tensor:
    """(N,) entropy in nats of the softmax over the classes of all processes."""
    highest = logits.amax(1) if logits.shape[1] else logits.new_full((len(logits),), -torch.inf)
    many = distributed.world_size() > 1
    if many:
        dist.all_reduce(highest, dist.ReduceOp.MAX)
    share = (logits - highest[:, None]).exp_()
    both = torch.stack([share.sum(1), torch.special.entr(share, out=share).sum(1)])  # entr(x) = -x log x
    if many:
        dist.all_reduce(both)
    return (both[0].log() + both[1] / both[0]).clamp_min_(0.0)


def _posterior(entropy: Tensor, moments: Tensor) -> Tensor:
    """(N,) gamma. moments: (3,) means of gamma, gamma H^2, (1 - gamma) H^2."""
    share, gaussian, uniform = moments.unbind()
    least = SMALLEST_SPREAD * (gaussian + uniform) + TINY
    variance = gaussian / share.clamp_min(TINY) + least
    reach = 3 * uniform / (1 - share).clamp_min(TINY) + least
    share = share.clamp(TINY, LARGEST_SHARE)
    log_gaussian = math.log(2) - 0.5 * (2 * math.pi * variance).log() - entropy.square() / (2 * variance)
    return torch.sigmoid((share / (1 - share)).log() + log_gaussian + 0.5 * reach.log())
