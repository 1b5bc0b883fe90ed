"""Which tensors of a published file are an adapter's, and whose file it is, by the names that its publisher gave."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from torch import Tensor

Publisher = Literal["", "petalface", "facemoe", "cvlface"]


class Mark(NamedTuple):
    """What tells a publisher's adapters."""

    sign: re.Pattern[str]  # in a name that nobody else has
    part: re.Pattern[str]  # in the names of the adapter's tensors
    words: str


_LORA = re.compile(r"(^|\.)trainable_lora_")
_PEFT = re.compile(r"\.lora_[AB]\.[^.]+\.weight$")
MARKS: dict[Publisher, Mark] = {
    "petalface": Mark(_LORA, _LORA, "a LoRA adapter,"),
    "cvlface": Mark(_PEFT, _PEFT, "a LoRA adapter, as peft writes it,"),
    "facemoe": Mark(
        re.compile(r"\.router\.gate\.weight$"),
        re.compile(r"\.router\.gate\.weight$|\.experts\.[0-9]+\."),
        "a mixture of experts,",
    ),
}


def split_adapter(
    tensors: Mapping[str, Tensor], path: str | Path
) -> tuple[dict[str, Tensor], dict[str, Tensor], Publisher]:
    """(base, adapter, publisher), names as they are. ValueError where the names are of several publishers."""
    found = [publisher for publisher, mark in MARKS.items() if any(mark.sign.search(key) for key in tensors)]
    if len(found) > 1:
        raise ValueError(f"{path}: holds adapters by the names of several publishers: {', '.join(found)}")
    if not found:
        return dict(tensors), {}, ""
    part = MARKS[found[0]].part
    adapter = {key: tensor for key, tensor in tensors.items() if part.search(key)}
    return {key: tensor for key, tensor in tensors.items() if key not in adapter}, adapter, found[0]
