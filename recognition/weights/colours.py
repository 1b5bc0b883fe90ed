"""Weights published for BGR pictures or another range, as weights of the same network for RGB in [-1, 1].

The network's first convolution takes the change: its input channels are turned round for BGR, and scaled for another
range. Zero padding stays zero, so nothing else of the network notices.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from torch import Tensor

from recognition.types import COLOUR_ORDER, IMAGE_RANGE
from recognition.weights.cards import Card
from recognition.weights.names import looks_like

CENTRED = 1e-6  # of half the range: how far its centre may lie from 0


def as_rgb(
    tensors: Mapping[str, Tensor], card: Card, path: str | Path, adapted: Collection[str] = ()
) -> tuple[dict[str, Tensor], Card]:
    """Tensors for RGB in [-1, 1], and the card of these; both unchanged where the card says nothing else.

    card: with colour_order ("RGB" or "BGR") and image_range, what 0 and 255 are mapped to. adapted: names of an
    adapter's tensors, of which none may be of the first convolution. path: for the messages.
    ValueError for a range whose centre is not 0, and where the first convolution cannot be told.
    """
    order, (low, high) = card.get("colour_order", COLOUR_ORDER), card.get("image_range", IMAGE_RANGE)
    centre, scale = (low + high) / 2, (high - low) / 2
    if abs(centre) > CENTRED * scale:
        raise ValueError(
            f"{path}: its network takes pictures in [{low:g}, {high:g}], whose centre is not 0: a convolution that "
            "pads with zeros cannot take that change, so it does not load; train or find one for a range around 0"
        )
    if order == COLOUR_ORDER and scale == 1:
        return dict(tensors), card
    stems = [key for key, tensor in tensors.items() if tensor.dim() == 4 and tensor.shape[1] == len(COLOUR_ORDER)]
    if len(stems) != 1:
        raise ValueError(
            f"{path}: it was published for {order} pictures in [{low:g}, {high:g}], and which of its tensors is the "
            f"first convolution is not plain: {len(stems)} of them have {len(COLOUR_ORDER)} input channels"
            f"{looks_like(tensors)}"
        )
    layer = stems[0].removesuffix(".weight")
    if touched := [key for key in adapted if key.startswith(f"{layer}.")]:
        raise ValueError(f"{path}: its adapter changes the first convolution ('{touched[0]}'), for {order} pictures")
    stem = tensors[stems[0]]
    stem = stem.flip(1) if order != COLOUR_ORDER else stem
    changed = {**tensors, stems[0]: (stem * scale).to(stem.dtype) if scale != 1 else stem}
    return changed, {**card, "colour_order": COLOUR_ORDER, "image_range": list(IMAGE_RANGE)}
