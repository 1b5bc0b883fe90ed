"""Several qualities of one image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from iqa import SCORERS
from recognition.types import Needs


def sections_of(scorers: Sequence[str | Mapping[str, object]]) -> list[dict[str, object]]:
    """Name and arguments of each, short forms spelled out."""
    return [dict(SCORERS.spell_out(one) if isinstance(one, str) else one) for one in scorers]


@SCORERS.register("several")
class Several(nn.Module):
    """The scores of several scorers side by side, for a gate that weighs them (gate.shape=learned).

    scorers: two or more, each a name, a short form such as onnx:FILE, or a dict of name and arguments. They look at the
        image or through the model; midpoint and slope of the gate are then lists, or are fitted to each score alone.
    `sections` tells name and arguments of each, short forms spelled out.
    range holds the lowest and the highest of all; columns is the number of scores. ValueError for one scorer alone, and
    for those that look at landmarks or at the level.
    Cost: the sum of theirs.
    """

    needs: Needs = "image"
    version = 1

    def __init__(self, scorers: Sequence[str | Mapping[str, object]] = ("sharpness", "spectral_slope")) -> None:
        super().__init__()
        if isinstance(scorers, str) or len(scorers) < 2:
            raise ValueError(f"scorer 'several' takes a list of two scorers or more, got {scorers!r}")
        self.sections = sections_of(scorers)
        self.names = [str(section["name"]) for section in self.sections]
        if "several" in self.names:
            raise ValueError("scorer 'several' stands in its own list: name the scorers side by side")
        made = [
            SCORERS.create(name, **{key: value for key, value in section.items() if key != "name"})
            for name, section in zip(self.names, self.sections, strict=True)
        ]
        if wrong := [name for name, one in zip(self.names, made, strict=True) if one.needs not in ("image", "model")]:
            raise ValueError(f"scorer 'several' looks at images, and '{wrong[0]}' at something else: take it alone")
        self.scorers = nn.ModuleList(made)
        self.columns = len(made)
        self.version = sum(one.version for one in made)
        self.needs = "model" if "model" in [one.needs for one in made] else "image"
        self.range = (min(one.range[0] for one in made), max(one.range[1] for one in made))
        obstacles = [one.export_obstacle for one in made if not one.exportable]
        self.exportable, self.export_obstacle = not obstacles, "; ".join(obstacles)

    def bind(self, base: nn.Module) -> None:
        """As those that look through the model are bound."""
        for one in self.scorers:
            if one.needs == "model":
                one.bind(base)

    def forward(self, image: Tensor) -> Tensor:
        """image: (B, 3, H, W) RGB in [0, 1]. Returns (B, columns) float32, in the order of `scorers`."""
        return torch.stack([one(image) for one in self.scorers], dim=1)

    def extra_repr(self) -> str:
        return f"scorers={self.names}"
