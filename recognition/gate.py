"""How a per-image value reaches layers at any depth: explicit at the model's edge, in a scope inside.

Layers hold a Gate and read it with `require()`; the model opens `with gate.scope(value)` around its backbone. A Gate is
no module and has no buffer: nothing is saved, broadcast or resized, and a layer outside a scope raises.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor


class Gate:
    """Carries one weight per image to layers at any depth, and their auxiliary losses back out.

    One Gate per model; not for nn.DataParallel, whose threads would share it.
    """

    def __init__(self) -> None:
        self.value: Tensor | None = None
        self._auxiliary: list[Tensor] | None = None

    @contextlib.contextmanager
    def scope(self, value: Tensor | None) -> Iterator[None]:
        """value: (batch,) or (batch, branches), any real number; None for a model without gated layers."""
        outer, self.value = self.value, value
        outer_auxiliary, self._auxiliary = self._auxiliary, []
        try:
            yield
        finally:
            self.value = outer
            self._auxiliary = outer_auxiliary

    def require(self) -> Tensor:
        """The value of the open scope. RuntimeError outside a scope."""
        if self.value is None:
            raise RuntimeError(
                "a quality-gated layer ran without a gate: call the FaceModel, model(image, score), "
                "not the backbone itself"
            )
        return self.value

    def add_auxiliary(self, loss: Tensor) -> None:
        """Hand an auxiliary loss, a scalar, out of a layer. RuntimeError outside a scope."""
        if self._auxiliary is None:
            raise RuntimeError(
                "a layer handed out an auxiliary loss outside a scope: call the FaceModel, model(image, score)"
            )
        self._auxiliary.append(loss)

    def auxiliary(self, like: Tensor) -> Tensor:
        """Sum of the open scope's auxiliary losses, (), float32 on `like`'s device; zero where there are none."""
        total = torch.zeros((), dtype=torch.float32, device=like.device)
        for loss in self._auxiliary or ():
            total = total + loss.float()
        return total


def per_image(z: Tensor, weight: Tensor, channel_axis: int = -1) -> Tensor:
    """Multiply every row of image i by weight[i].

    z: (batch * k, ...), rows grouped by image: tokens, Swin windows (k per image), feature maps.
    weight: (batch, c) or (batch, 1), along `channel_axis` of z (-1 for tokens, 1 for feature maps).
    Returns z's shape and dtype. ValueError if z's rows cannot be shared among the images.
    """
    batch = weight.shape[0]
    if z.shape[0] % batch:
        raise ValueError(
            f"cannot share {batch} gates among {z.shape[0]} rows: a layer's rows must stay grouped by image"
        )
    if z.shape[0] == batch:  # as below with k = 1, and what an exported graph spends on shapes is saved
        shape = [1] * z.dim()
        shape[0], shape[channel_axis] = batch, weight.shape[1]
        return z * weight.to(z.dtype).view(shape)
    grouped = z.unflatten(0, (batch, -1))  # (batch, k, ...)
    shape = [1] * grouped.dim()
    shape[0], shape[channel_axis if channel_axis < 0 else channel_axis + 1] = batch, weight.shape[1]
    return (grouped * weight.to(z.dtype).view(shape)).flatten(0, 1)
