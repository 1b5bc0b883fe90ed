"""The batch's pairs of different people as further negatives of the classifier's softmax."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recognition.objectives import OBJECTIVES
from recognition.objectives._checks import check_positive, check_share
from recognition.objectives._pairs import unit
from recognition.types import ObjectiveContext


@OBJECTIVES.register("unpg")
class UNPG(nn.Module):
    """Unified negative pairs: mean log(1 + exp(LSE(scale * n) - log_total_i)), n: cosines of unlike pairs.

    Jung et al. 2022, arXiv 2203.11593: the cosines n of all pairs of the global batch with unlike labels stand behind
    every row of the classifier's logits as further columns, in one softmax. This is what they add to its cross-entropy.
    Only where its weight equals classifier.weight, classifier.twins is off and the margin does not weigh the losses is
    the sum exactly the cross-entropy with these further columns, times that weight; no row is lengthened for it. LSE is
    the log-sum-exp of the pairs, the same for all rows, log_total_i that of the classifier's logits of row i.
    scale: the margin's own; another one would compare what is not alike.
    whisker: pairs outside [Q1 - whisker * IQR, Q3 + whisker * IQR] are left out as noise, the quartiles being those at
        places int(0.25 l) and int(0.75 l) of l pairs in ascending order; decided without gradient.
    The published program's pairs depend on the number of devices; here they are those of the global batch.
    """

    needs_log_total = True

    def __init__(self, scale: float = 64.0, whisker: float = 1.5) -> None:
        super().__init__()
        check_positive("unpg", "scale", scale)
        check_share("unpg", "whisker", whisker)
        self.scale, self.whisker = scale, whisker

    def forward(self, embedding: Tensor, label: Tensor, context: ObjectiveContext) -> Tensor:
        """embedding: (N, D), label: (N,), of the global batch. Returns (). ValueError without a softmax to add to."""
        log_total = context.log_total
        if log_total is None:
            raise ValueError(
                "objective 'unpg' adds negatives to the classifier's softmax, and there is none: config.classifier."
                "weight is 0, or config.margin has a loss of its own; set a weight and a margin such as arcface"
            )
        with torch.autocast(embedding.device.type, enabled=False):
            rows = unit(embedding)
            cosine = rows @ rows.T
            unlike = (label[:, None] != label).triu(1)
            pairs = cosine.detach()[unlike]
            if not len(pairs):
                return 0.0 * (cosine.sum() + log_total.sum())
            low, high = (pairs.kthvalue(int(share * len(pairs)) + 1).values for share in (0.25, 0.75))
            reach = self.whisker * (high - low)
            kept = unlike & (cosine >= low - reach) & (cosine <= high + reach)
            total = (self.scale * cosine).masked_fill(~kept, -torch.inf).flatten().logsumexp(0)
            excess = total - log_total
            return torch.logaddexp(excess, torch.zeros_like(excess)).mean()
