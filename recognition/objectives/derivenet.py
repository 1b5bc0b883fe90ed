"""DeriveNet's derived margin and reconstruction, as far as they are published."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from recognition.objectives import OBJECTIVES
from recognition.objectives._checks import check_share, check_whole, check_width, needed
from recognition.objectives._pairs import mean_of, unit
from recognition.objectives._rows import at_least_float32, reduced
from recognition.types import IMAGE_SIZE, ObjectiveContext


@OBJECTIVES.register("derivenet")
class DeriveNet(nn.Module):
    """softmax * D-margin softmax + recent * (|HR - g(x)|^2 + |g(x) - class mean of g|^2), as far as it is published.

    After DeriveNet (Singh et al., TPAMI 44(10), 2022), whose program is not public: the formulas are those that a later
    report gives, the rest is our own, and parity is not claimed.
    D-margin softmax: cross-entropy over the classes of the global batch, logits x . c_j + margin * D(C_y, C_j), x the
        embedding, not normalised, D = 1 - cos(C_y, C_j), 0 for the own class and 0 .. 2 for others: the farther a class
        is, the farther it has to stay. Class means of the batch, of length 1, stand in place of the classifier's
        weights, which an objective does not see; that of the own class is of its other pictures. A picture that is its
        person's only one in the batch, or has no other person beside it, does not count: balanced batches are needed.
        The report's program has the cosine for D and adds it to the target alone, where it is always 1.
    Reconstruction ("ReCent"): g, a decoder that trains along, makes of x the picture before it was degraded, reduced to
        side x side by area. Squared differences in [-1, 1] are summed over its 3 side^2 values and averaged over the
        global batch; the class mean of g(x) is the batch's. The report's program has side 112, three Linears without
        anything between, class means of the whole training set, and moves neither network nor classifier.
    softmax, margin, recent: 0 or more; 0 leaves the term out, and with recent=0 there is no decoder. recent is the
        report's lambda, on (side / 112)^2 times the summands. detach: class means are constants, as running ones are.
    side: pixels of the reconstruction. hidden: widths of the decoder's hidden layers, ReLU behind each; () = linear.
    embedding_size: of the network.
    """

    def __init__(
        self,
        softmax: float = 1.0,
        recent: float = 1e-3,
        margin: float = 1.0,
        detach: bool = True,
        side: int = 28,
        hidden: Sequence[int] = (512,),
        embedding_size: int = 512,
    ) -> None:
        super().__init__()
        for name, value in (("softmax", softmax), ("recent", recent), ("margin", margin)):
            check_share("derivenet", name, value)
        if softmax == 0 and recent == 0:
            raise ValueError("objective 'derivenet': softmax and recent are both 0, so there is nothing to learn")
        check_whole("derivenet", "side", side, 1, IMAGE_SIZE)
        check_whole("derivenet", "embedding_size", embedding_size, 1)
        if isinstance(hidden, str) or not isinstance(hidden, Sequence):
            raise ValueError(f"objective 'derivenet': hidden is {hidden!r}; it is a list of widths, such as [512]")
        for width in hidden:
            check_whole("derivenet", "a width in hidden", width, 1)
        self.softmax, self.recent, self.margin, self.detach = softmax, recent, margin, detach
        self.side, self.embedding_size = side, embedding_size
        self.fields: tuple[str, ...] = ("twin",) if recent > 0 else ()
        widths = [embedding_size, *hidden, 3 * side * side] if recent > 0 else []
        self.decoder = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))

    def forward(self, embedding: Tensor, label: Tensor, context: ObjectiveContext) -> Tensor:
        """embedding: (N, D). label: (N,). Returns a scalar. ValueError where D is not embedding_size."""
        check_width("derivenet", embedding, self.embedding_size)
        with torch.autocast(embedding.device.type, enabled=False):
            embedding = at_least_float32(embedding)
            same = label[:, None] == label[None]
            loss = 0.0 * embedding.sum()
            if self.softmax > 0:
                loss = loss + self.softmax * self._margin_softmax(embedding, same)
            if self.recent > 0:
                twin = reduced(needed("derivenet", context.batch, "twin"), self.side)
                picture = context.gather(twin).flatten(1).to(embedding.dtype)
                loss = loss + self.recent * self._reconstruction(embedding, same, picture)
            return loss

    def decode(self, embedding: Tensor) -> Tensor:
        """(N, D) -> (N, 3 * side * side): the picture in [-1, 1], colours first, not clipped; in the input's dtype."""
        for number, layer in enumerate(self.decoder):
            rows = embedding.relu() if number else embedding
            embedding = linear(rows, layer.weight.to(rows.dtype), layer.bias.to(rows.dtype))
        return embedding

    def _margin_softmax(self, embedding: Tensor, same: Tensor) -> Tensor:
        """One column for each picture's class mean; all but the first of a class, and the own class's, are left out."""
        rows = embedding.detach() if self.detach else embedding
        total = same.to(rows.dtype) @ rows  # products, not scattered sums: the same on every process
        mean, others = unit(total), unit(total - rows)
        logit = embedding @ mean.T + self.margin * (1 - mean @ mean.T)
        repeated = same.tril(-1).any(dim=1)
        logit = logit.masked_fill(same | repeated, -torch.inf)
        target = (embedding * others).sum(dim=1, keepdim=True)
        loss = torch.cat((target, logit), dim=1).logsumexp(dim=1) - target[:, 0]
        counted = (same.sum(dim=1) > 1) & ~same.all(dim=1)
        return mean_of(loss, counted)

    def _reconstruction(self, embedding: Tensor, same: Tensor, picture: Tensor) -> Tensor:
        made = self.decode(embedding)
        alike = same.to(made.dtype)
        mean = alike @ made / alike.sum(dim=1, keepdim=True)
        return ((picture - made).square() + (made - mean).square()).sum(dim=1).mean()
