"""Some classes are unlearned while the others are kept: the objective of continual forgetting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from recognition.margins import MARGINS
from recognition.margins._checks import check_positive
from recognition.margins._wrapped import stand_on
from recognition.types import MarginContext


@MARGINS.register("forgetting")
class Forgetting(nn.Module):
    """Forget some classes and keep the rest: CE_remain + weight * ReLU(bound - CE_forget) (GS-LoRA, arXiv 2403.11530).

    CE: mean loss, of another margin, of the images to remain and of those to forget in the global batch, each over its
    own number; a batch without one kind has 0 for its term. Once CE_forget has reached the bound, forgetting rests.
    forget: class numbers, as training sees them: after data.hold_out and the shift of several sets. Empty =
        forget nobody, the other margin alone.
    of: the other margin, by name. arguments: its arguments.
    weight: of the forgetting term. A face that is well known has next to no gradient, so a small weight, or a small
        margin of the other, begins late.
    bound: loss up to which classes are forgotten. A face that is nobody's has about scale * margin + log(classes), 35
        at 64, 0.4 and 10,000; less leaves a person nearest to its own class centre.
    The defaults are those of the published scripts; the published code's own are weight 0.03 and bound 10.
    What is unlearned is the tie to the class centre, and with it to what was enrolled before; pictures of one forgotten
    person still resemble one another. Class centres that stand still (classifier.lr_scale=0) make sure that it is the
    embeddings that change.
    """

    def __init__(
        self,
        forget: Sequence[int] = (),
        of: str = "cosface",
        arguments: Mapping[str, object] | None = None,
        weight: float = 0.2,
        bound: float = 105.0,
    ) -> None:
        super().__init__()
        if isinstance(forget, str) or not isinstance(forget, Sequence):
            raise ValueError(f"margin.forget is {forget!r}; it is a list of class numbers, such as [3, 17]")
        for number in forget:
            if isinstance(number, bool) or not isinstance(number, int) or number < 0:
                raise ValueError(f"margin.forget holds {number!r}; it is a list of class numbers, 0 and up")
        if len({*forget}) < len(forget):
            twice = next(number for number in forget if list(forget).count(number) > 1)
            raise ValueError(f"margin.forget names class {twice} twice")
        for name, value in (("weight", weight), ("bound", bound)):
            check_positive(name, value)
        self.margin = stand_on(self, "forgetting", of, arguments, {"weigh": "weighs the losses itself"})
        self.weight, self.bound = weight, bound
        self.register_buffer("forget", torch.tensor([*forget], dtype=torch.int64), persistent=False)
        self._highest, self._count = max(forget, default=-1), len(forget)

    def check(self, num_classes: int) -> None:
        """ValueError for a class that the records do not have, and where none would remain."""
        if self._highest >= num_classes:
            raise ValueError(
                f"margin.forget names class {self._highest}, but config.data.records holds classes 0 .. "
                f"{num_classes - 1}; tools/inspect_records.py shows a record's label"
            )
        if self._count == num_classes:
            raise ValueError(f"margin.forget names all {self._count} classes of config.data.records: none would remain")
        if hasattr(self.margin, "check"):
            self.margin.check(num_classes)

    def forward(self, cosine: Tensor, label: Tensor, context: MarginContext) -> Tensor:
        """The other margin's logits."""
        return self.margin(cosine, label, context)

    def weigh(self, losses: Tensor, context: MarginContext) -> Tensor:
        """losses: (N,) of the global batch. Returns (N,) whose mean is the objective. ValueError as check()'s."""
        self.check(context.num_classes)
        out = torch.isin(context.label, self.forget)
        forgotten = out.sum().clamp_min(1)  # where there are none, nothing is divided by it
        remaining = (~out).sum().clamp_min(1)
        mean = losses.where(out, 0.0).sum() / forgotten
        hinge = self.weight * (self.bound - mean).relu()
        return len(losses) * torch.where(out, hinge / forgotten, losses / remaining)
