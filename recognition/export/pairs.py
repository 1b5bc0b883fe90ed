"""What a file's smaller numbers cost: the same pairs by torch and by the file, and the difference with its interval."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from recognition.distributed import World
from recognition.evaluation.gains import compare
from recognition.evaluation.protocol import EvaluationSet
from recognition.evaluation.runner import evaluate
from recognition.evaluation.sets import open_sets
from recognition.export.agreement import runner
from recognition.model import FaceModel

SIDES = (112, 28, 14)
SET = "pairs"


@dataclass(frozen=True, slots=True)
class Loss:
    """Accuracy at one resolution, and the file's minus torch's with its 95 % interval, paired by the pairs."""

    side: str
    torch: float
    file: float
    difference: float
    low: float
    high: float


class OnnxModel:
    """A file of one input as evaluation asks for a model."""

    def __init__(self, path: str | Path) -> None:
        self._run = runner(Path(path))

    def embed(self, image: Tensor, score: Tensor | None = None) -> Tensor:
        """(B, 3, H, W) RGB in [-1, 1] -> (B, D), not normalised. score: not looked at."""
        return torch.from_numpy(self._run(image.cpu().numpy())).to(image.device)

    def eval(self) -> nn.Module:
        """As it is."""
        return self

    def modules(self) -> Iterator[nn.Module]:
        """None: a file has no modes."""
        return iter(())


def open_pairs(path: str | Path, sides: Sequence[int] = SIDES) -> list[EvaluationSet]:
    """Pairs for loss_on_pairs: an InsightFace .bin, or records with PREFIX_pairs.csv or pairs.csv beside them.

    ValueError, or FileNotFoundError, for anything else.
    """
    path = Path(path)
    if path.suffix == ".bin":
        chosen = {"kind": "bin", "path": str(path)}
    else:
        folder = path if path.is_dir() else path.parent
        tables = [folder / f"{path.stem}_pairs.csv", folder / "pairs.csv"]
        table = next((one for one in tables if one.is_file()), None)
        if table is None:
            raise ValueError(
                f"{path}: beside it stands the table of its pairs, and there is no {tables[0]} or {tables[1]}"
            )
        chosen = {"kind": "pairs", "records": str(path), "pairs": str(table)}
    return open_sets({"sets": [{"name": SET, **chosen}], "low_res": [*sides]})


def loss_on_pairs(
    model: FaceModel, file: str | Path, pairs: Sequence[EvaluationSet], resamples: int = 1000
) -> list[Loss]:
    """Accuracy of the model in torch and of the file, by resolution. pairs: of open_pairs."""
    world = World(0, 0, 1, next(model.parameters()).device)
    settings = {"sets": [], "bootstrap": resamples}
    before, after = (evaluate(one, settings, world, pairs) for one in (model, OnnxModel(file)))
    found = compare(before, after, resamples)[SET]
    return [
        Loss(
            side,
            before[SET][side]["accuracy"]["value"],
            after[SET][side]["accuracy"]["value"],
            *(gains["accuracy"][key] for key in ("value", "lo", "hi")),
        )
        for side, gains in found.items()
    ]
