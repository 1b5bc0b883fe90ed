"""Supervised contrastive loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recognition.objectives import OBJECTIVES
from recognition.objectives._checks import check_positive, needed
from recognition.objectives._pairs import masks, mean_of, unit
from recognition.types import Batch, ObjectiveContext


@OBJECTIVES.register("supcon")
class SupCon(nn.Module):
    """Supervised contrastive: mean over positives p of -log(exp(z_i.z_p / t) / sum_a exp(z_i.z_a / t)) (L_out).

    Khosla et al. 2020, arXiv 2004.11362, eq. 2: z: embeddings of norm 1; a: all rows but i; the mean over the anchors i
    that have a positive. The published program multiplies by temperature / 0.07, which is left to the weight.
    temperature: t, as the paper has it on cosines.
    twins: the images before degradation are further rows, as the paper's second views are: 2 N rows, each image's other
        resolution among its positives. One that was not degraded is then compared with itself.
    """

    fields = ("twin",)

    def __init__(self, temperature: float = 0.1, twins: bool = False) -> None:
        super().__init__()
        check_positive("supcon", "temperature", temperature)
        self.temperature, self.twins = temperature, twins
        if not twins:
            self.fields = ()

    def views(self, batch: Batch) -> dict[str, Tensor]:
        """The images before degradation, where they take part."""
        return {"twin": needed("supcon", batch, "twin")} if self.twins else {}

    def forward(self, embedding: Tensor, label: Tensor, context: ObjectiveContext) -> Tensor:
        """embedding: (N, D), label: (N,), of the global batch. Returns ()."""
        with torch.autocast(embedding.device.type, enabled=False):
            rows = unit(embedding)
            if self.twins:
                rows, label = torch.cat([rows, unit(context.views["twin"])]), torch.cat([label, label])
            logits = rows @ rows.T / self.temperature
            positive, negative = masks(label)
            total = logits.masked_fill(~(positive | negative), -torch.inf).logsumexp(1)
            number = positive.sum(1)
            mean = logits.where(positive, 0.0).sum(1) / number.clamp_min(1)
            return mean_of(total - mean, number > 0)
