"""Checkpoints of arcface_torch, one file for each of its processes, merged into one whole.

Each checkpoint_gpu_<rank>.pt holds the whole backbone, the rank's class centres (PartialFC_V2: of C classes on W ranks
the first C % W have one more) and the rank's optimizer state, numbered: backbone's parameters, then the centres.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from recognition.pickled import shown
from recognition.weights import plain_tensors
from recognition.weights.torch_files import read_torch

FILE = re.compile(r"checkpoint_gpu_(\d{1,6})\.pt")
LARGEST = 2**48  # epochs or batches
State = dict[str, Tensor]  # what an optimizer keeps of one parameter


@dataclass
class RankFile:
    """What one process of arcface_torch saved."""

    path: Path
    epoch: int  # epochs done
    step: int  # batches taken
    backbone: dict[str, Tensor]
    centres: Tensor  # (local classes, D)
    states: dict[int, State]  # by number of the parameter
    groups: list[dict]
    backbone_numbers: list[int] = field(init=False)
    centres_number: int = field(init=False)

    def __post_init__(self) -> None:
        match [group.get("params") for group in self.groups]:
            case [[*numbers], [int() as last]] if all(isinstance(number, int) for number in numbers):
                self.backbone_numbers, self.centres_number = numbers, last
            case _:
                raise ValueError(
                    f"{self.path}: its optimizer has not the two groups of arcface_torch, backbone and class centres"
                )


@dataclass
class ArcfaceSet:
    """A whole set. backbone, states and groups are rank 0's; centres and what is kept of them are all ranks'."""

    files: list[Path]
    epoch: int
    step: int
    backbone: dict[str, Tensor]
    centres: Tensor  # (classes, D), in the order of the classes
    centres_state: State
    states: list[State]  # of the backbone's parameters, in its own order
    groups: list[dict]
    apart: float  # largest difference of a rank's backbone parameter to rank 0's


def read_set(source: Path) -> ArcfaceSet:
    """The set in a folder, or the one that a checkpoint_gpu_<rank>.pt belongs to.

    ValueError names the file that is missing, damaged, of another step, or holds something else than such a set does.
    """
    files = _files(source)
    first = _read_rank(files[0])
    centres, kept, apart = [first.centres], [first.states.get(first.centres_number, {})], 0.0
    for path in files[1:]:
        other = _read_rank(path)
        if (other.epoch, other.step) != (first.epoch, first.step):
            raise ValueError(
                f"{path} is of step {other.step}, epoch {other.epoch}; {first.path} is of step {first.step}, epoch "
                f"{first.epoch}: they are not of one set"
            )
        apart = max(apart, _apart(first, other))
        centres.append(other.centres)
        kept.append(other.states.get(other.centres_number, {}))
    _check_split(centres, files)
    return ArcfaceSet(
        files,
        first.epoch,
        first.step,
        first.backbone,
        torch.cat(centres),
        _merged(kept, files),
        [first.states.get(number, {}) for number in first.backbone_numbers],
        first.groups,
        apart,
    )


def _files(source: Path) -> list[Path]:
    """All files of the set, by rank."""
    folder = source if source.is_dir() else source.parent
    if not folder.is_dir() or (not source.is_dir() and not FILE.fullmatch(source.name)):
        raise ValueError(
            f"{source}: wanted a folder with checkpoint_gpu_0.pt, checkpoint_gpu_1.pt, ..., or one of them"
        )
    by_rank = {int(match[1]): path for path in folder.iterdir() if (match := FILE.fullmatch(path.name))}
    missing = [rank for rank in range(max(by_rank, default=0) + 1) if rank not in by_rank]
    if missing:
        raise ValueError(f"{folder} lacks checkpoint_gpu_{missing[0]}.pt: the classes of that rank would be lost")
    return [by_rank[rank] for rank in sorted(by_rank)]


def _read_rank(path: Path) -> RankFile:
    match read_torch(path):
        case {
            "epoch": int() as epoch,
            "global_step": int() as step,
            "state_dict_backbone": dict() as backbone,
            "state_dict_softmax_fc": dict() as classifier,
            "state_optimizer": {"state": dict() as states, "param_groups": list() as groups},
        } if 0 <= epoch < LARGEST and 0 <= step < LARGEST and all(isinstance(group, dict) for group in groups):
            pass
        case other:
            held = (
                ", ".join(shown(str(key)) for key in [*other][:8]) if isinstance(other, dict) else type(other).__name__
            )
            raise ValueError(
                f"{path} is no checkpoint of arcface_torch with all states (save_all_states); it holds {held}"
            )
    centres = plain_tensors(classifier, path)
    if [*centres] != ["weight"] or centres["weight"].dim() != 2:
        raise ValueError(
            f"{path}: its state_dict_softmax_fc holds {', '.join(centres)[:200]}; wanted PartialFC_V2's 'weight' alone"
        )
    kept = {number: _kept(state, path) for number, state in states.items()}
    return RankFile(path, epoch, step, plain_tensors(backbone, path), centres["weight"], kept, groups)


def _kept(state: object, path: Path) -> State:
    """An optimizer's state of one parameter; a count of steps was a plain number before torch 1.12."""
    if not isinstance(state, dict):
        raise ValueError(f"{path}: its optimizer keeps a {type(state).__name__} of a parameter, wanted tensors by name")
    state = {key: value for key, value in state.items() if value is not None}
    count = state.get("step")
    if isinstance(count, int | float) and 0 <= count < LARGEST:
        state["step"] = torch.tensor(float(count))
    return plain_tensors(state, path) if state else {}


def _check_split(centres: Sequence[Tensor], files: Sequence[Path]) -> None:
    sizes = [len(part) for part in centres]
    classes, ranks = sum(sizes), len(sizes)
    wanted = [classes // ranks + (rank < classes % ranks) for rank in range(ranks)]
    if sizes != wanted:
        raise ValueError(
            f"{files[0].parent}: the ranks hold {sizes} classes; arcface_torch gives {ranks} ranks of {classes} "
            f"classes {wanted}: a file is missing, or is of another set"
        )
    if len({part.shape[1] for part in centres}) != 1:
        raise ValueError(f"{files[0].parent}: the ranks' class centres are of different lengths")


def _apart(first: RankFile, other: RankFile) -> float:
    """Largest difference of a parameter; statistics of batch norms are each rank's own in arcface_torch."""
    if {k: v.shape for k, v in first.backbone.items()} != {k: v.shape for k, v in other.backbone.items()}:
        raise ValueError(f"{other.path} and {first.path} hold different backbones: they are not of one set")
    pairs = [(v, other.backbone[k]) for k, v in first.backbone.items() if "running_" not in k and v.numel()]
    return max((float((a.float() - b.float()).abs().max()) for a, b in pairs), default=0.0)


def _merged(kept: Sequence[State], files: Sequence[Path]) -> State:
    """Rows of all ranks one after another; a count of steps is the same on all."""
    if len({frozenset(state) for state in kept}) != 1:
        raise ValueError(f"{files[0].parent}: the ranks' optimizers keep different things of their class centres")
    merged = {}
    for key, value in kept[0].items():
        values = [state[key] for state in kept]
        if value.dim() and all(other.dim() == 2 and other.shape[1] == value.shape[1] for other in values):
            merged[key] = torch.cat(values)
        elif all(torch.equal(value, other) for other in values):
            merged[key] = value
        else:
            raise ValueError(f"{files[0].parent}: '{key}' of the class centres differs between the ranks")
    return merged
