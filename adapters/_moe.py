"""The mixture: N experts of one shape, of which a router chooses top_k for every token.

Every expert sees every token and the choice is gathered afterwards: no shape depends on the data, so nothing waits for
the device, and the layer compiles and exports as it is. This costs experts / top_k times the work of the chosen ones.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recognition.gate import Gate

Mixing = Literal["softmax", "logits"]
ZLoss = Literal["paper", "code"]

ROUTER_DEVIATION = 0.02  # of the first router weights, as of the Linear layers of a Swin


@dataclass(frozen=True, slots=True)
class Losses:
    """The auxiliary losses of one mixture; a weight of 0 is none.

    z = mean over tokens of |logits|^2 ("paper"), or of that over all logits, experts times less ("code").
    balance = experts * sum over experts of mean probability * picks per token (the same in both).
    """

    z_loss: ZLoss = "paper"
    z_weight: float = 0.0
    balance_weight: float = 0.0

    def __call__(self, logits: Tensor, index: Tensor) -> Tensor:
        """logits: (..., experts) float32. index: (..., top_k), the experts chosen. Returns their weighted sum, ()."""
        squares = logits.square()
        z = squares.sum(-1).mean() if self.z_loss == "paper" else squares.mean()
        probability = logits.softmax(-1).flatten(0, -2).mean(0)
        balance = logits.shape[-1] * (probability * picks(index, logits.shape[-1])).sum()
        return self.z_weight * z + self.balance_weight * balance


class Router(nn.Linear):
    """One logit per expert and token, without bias: (..., width) -> (..., experts), float32 or wider.

    Not in the precision of autocast: near ties would choose other experts there.
    """

    def __init__(self, width: int, experts: int, like: Tensor) -> None:
        """like: a tensor of the layer's device and dtype. Drawn on the CPU: a seed means the same everywhere."""
        super().__init__(width, experts, bias=False, device="meta")
        self.weight = nn.Parameter((ROUTER_DEVIATION * torch.randn(experts, width)).to(like))

    def forward(self, x: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.to(wide), self.weight.to(wide))


class Mixture(nn.Module):
    """Experts in the place of an MLP: (..., width) -> (..., width), every position on its own.

        y = sum over the chosen of weight * expert(x), weight = softmax of the chosen logits, or the logits themselves

    The first expert adopts the MLP, the others are copies of it. mixing "softmax" gives the MLP's output at the start,
    bit for bit. jitter: in training the router sees x times noise from U(1 - jitter, 1 + jitter).
    quiet: dropout inside the experts stays off, as in the rest of a frozen base.
    losses: handed to the gate in training; None for none.
    """

    def __init__(
        self,
        mlp: nn.Module,
        width: int,
        gate: Gate,
        experts: int = 3,
        top_k: int = 2,
        mixing: Mixing = "softmax",
        losses: Losses | None = None,
        jitter: float = 0.0,
        quiet: bool = False,
    ) -> None:
        super().__init__()
        self.top_k, self.mixing, self.jitter = top_k, mixing, jitter
        self.gate, self.losses, self.quiet = gate, losses, quiet
        self.experts = nn.ModuleList([mlp, *(copy.deepcopy(mlp) for _ in range(experts - 1))])
        self.router = Router(width, experts, next(mlp.parameters()))
        self.train(mlp.training)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.router(self._jittered(x))
        chosen, index = logits.topk(self.top_k, -1)
        if self.losses is not None and self.training:
            self.gate.add_auxiliary(self.losses(logits, index))
        outputs = torch.stack([expert(x) for expert in self.experts], -2)  # (..., experts, width)
        picked = outputs.gather(-2, index.unsqueeze(-1).expand(*index.shape, x.shape[-1]))  # (..., top_k, width)
        weight = (chosen.softmax(-1) if self.mixing == "softmax" else chosen).unsqueeze(-1).to(picked.dtype)
        if self.mixing == "logits" or self.top_k == 1:
            return (weight * picked).sum(-2)
        # Weights that sum to one, written as steps from the first choice: exact where the experts are equal.
        first = picked[..., :1, :]
        return (first + (weight[..., 1:, :] * (picked[..., 1:, :] - first)).sum(-2, keepdim=True)).squeeze(-2)

    def train(self, mode: bool = True) -> Mixture:
        """Training mode, but for the experts of a quiet mixture."""
        super().train(mode)
        if self.quiet:
            self.experts.eval()
        return self

    def extra_repr(self) -> str:
        return f"top_k={self.top_k}, mixing={self.mixing}"

    def _jittered(self, x: Tensor) -> Tensor:
        if not self.training or self.jitter == 0:
            return x
        return x * torch.empty_like(x).uniform_(1 - self.jitter, 1 + self.jitter)


def picks(index: Tensor, experts: int) -> Tensor:
    """How often each expert is chosen per token: index (..., top_k) -> (experts,) float32, top_k in sum."""
    chosen = index.unsqueeze(-1) == torch.arange(experts, device=index.device)
    return chosen.float().sum(-2).flatten(0, -2).mean(0)


def mlp_width(module: nn.Module) -> int | None:
    """The width of an MLP: two Linear layers, to another width and back, hold all its parameters. None for others."""
    linears = [inner for inner in module.modules() if type(inner) is nn.Linear]
    if len(linears) != 2:
        return None
    first, last = linears
    own = {id(parameter) for linear in linears for parameter in linear.parameters()}
    if any(id(parameter) not in own for parameter in module.parameters()):
        return None
    fits = first.out_features == last.in_features and first.in_features == last.out_features
    return first.in_features if fits else None
