"""Published weights as what this project starts from: the backbone they are of, and an adapter in a folder beside."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

import adapters
from adapters import ADAPTERS
from adapters._petalface import OPTIONS as PETALFACE
from adapters.moe import find_mlps
from recognition.backbones import BACKBONES
from recognition.gate import Gate
from recognition.model import preprocessing
from recognition.weights import DERIVED, Card, Weights, looks_like, read_weights, sha256, without_memory
from recognition.weights.adapter_part import Publisher

# What published weights need and their tensors cannot tell. PETALface's Swin, which it publishes without an adapter
# too, was trained without the mask of shifted windows; FaceMoE's Swin of the same shapes applies it.
BACKBONES_OF: dict[Publisher, dict[str, dict[str, object]]] = {
    "": {"swin_120": {"shift_mask": False}},
    "petalface": {"swin_120": {"shift_mask": False}},
    "facemoe": {"swin_120": {"shift_mask": True}},
}


@dataclass(slots=True)
class Published:
    """A published file by our names: the base, and an adapter on it where the file holds one."""

    base: dict[str, Tensor]
    publisher: Publisher = ""
    adapter: dict[str, Tensor] = field(default_factory=dict)
    name: str = ""  # of the adapter
    arguments: dict[str, object] = field(default_factory=dict)  # of the adapter, as far as its tensors tell them


def sort_out(read: Weights, source: Path) -> Published:
    """Tell base and adapter by our names. ValueError where the tensors are not those of one adapter."""
    if not read.adapter:
        return Published(read.tensors)
    together = {**read.tensors, **read.adapter}
    try:
        if empty := [key for key, tensor in read.adapter.items() if not tensor.numel()]:
            raise ValueError(f"'{empty[0]}' {tuple(read.adapter[empty[0]].shape)} holds no numbers")
        if read.publisher == "facemoe":
            base, adapter, chosen = adapters.from_facemoe(together)
            return Published(base, read.publisher, adapter, "moe", chosen)
        if read.publisher == "cvlface":
            base, adapter, chosen = adapters.from_cvlface(together)
            return Published(base, read.publisher, adapter, "lora", chosen)
        rank = _rank(read.adapter)
        base, adapter = adapters.from_petalface(together)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    gated = any("trainable_lora_down2" in key for key in read.adapter)
    chosen = {"rank": rank, **PETALFACE}
    return Published(base, read.publisher, adapter, "dual_lora" if gated else "lora", chosen)


def find_backbone(found: Published, source: Path) -> str:
    """Name of the one backbone whose keys and shapes are those of the base.

    ValueError where none fits, with what the file looks like or the nearest backbone.
    """
    nearest, most, tensors = "", 0.0, found.base
    for name in BACKBONES.names():
        own = set(_default(name).shapes)
        share = len(own & set(tensors)) / len(own | set(tensors))
        if share == 1:
            with without_memory():
                shapes = BACKBONES.create(name, **backbone_arguments(name, found)).state_dict()
            if all(tensors[key].shape == shapes[key].shape for key in own):
                return name
        nearest, most = (name, share) if share > most else (nearest, most)
    if seen := looks_like(tensors):
        raise ValueError(f"{source}: fits no backbone{seen}")
    near = f"the nearest is {nearest}, which shares {most:.0%} of the names; --backbone {nearest} says what differs"
    raise ValueError(f"{source}: fits no backbone; {near if nearest else 'it shares no name with any'}")


def backbone_arguments(name: str, found: Published) -> dict[str, object]:
    """Arguments of the backbone that the file, or the fact that it is published, tells."""
    told, default = dict(BACKBONES_OF.get(found.publisher, {}).get(name, {})), _default(name)
    projection = found.base.get(default.projection)
    if projection is not None and projection.dim() and projection.shape[0] != default.embedding_size:
        told["embedding_size"] = projection.shape[0]
    return told


def complete_adapter(found: Published, make: Callable[[], nn.Module], source: Path) -> tuple[dict[str, object], Card]:
    """All arguments of the adapter, once its tensors are known to load strictly, and what its card says of the network.

    make: gives the backbone, which takes the base. It is laid out without memory, so that sizes cost nothing before the
    tensors bear them out. ValueError where the tensors are not those of one adapter on it.
    """
    chosen = dict(found.arguments)
    try:
        with without_memory():
            plan = make()
            if found.publisher == "facemoe":
                places = {key.rpartition(".experts.")[0] for key in found.adapter} - {""}
                mlps = find_mlps(plan)
                if places != mlps.keys():
                    chosen["targets"] = [name for name in mlps if name in places]
            elif found.publisher == "petalface" and _on_head(found.adapter, plan):
                chosen |= {"head": True} if found.name == "dual_lora" else {"head_rank": chosen["rank"]}
            adapters.attach(plan, ADAPTERS.create(found.name, **chosen), Gate())
        adapters.check(plan, found.adapter)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    held = {key for key, _ in plan.named_buffers()}
    about: Card = {"buffers": [key for key in found.adapter if key in held], "preprocessing": preprocessing(plan)}
    return adapters.whole_arguments(found.name, chosen), about


def write_adapter(folder: Path, found: Published, chosen: dict[str, object], card: Card, base: Path) -> Path:
    """Write the adapter as a folder that says which base it is of. Returns the tensor file.

    chosen, card: as complete_adapter gives them, the card with backbone, source and licence. base: the written file.
    """
    of_base = {
        "base_weights": base.name,
        "base_sha256": sha256(base),
        "base_tensors_sha256": adapters.hash_tensors(read_weights(base).tensors),  # as networks hold them: RGB
    }
    whole = {**card, **of_base, "adapter": {"name": found.name, **chosen}}
    return adapters.write_folder(folder, found.adapter, whole)


class Default(NamedTuple):
    """A backbone as its name alone makes it."""

    shapes: dict[str, tuple[int, ...]]
    embedding_size: int
    projection: str  # key of the weight whose rows are the embedding


@functools.cache
def _default(name: str) -> Default:
    with without_memory():
        made = BACKBONES.create(name)
    shapes = {key: tuple(tensor.shape) for key, tensor in made.state_dict().items() if not key.endswith(DERIVED)}
    return Default(shapes, made.embedding_size, f"{made.head_targets[-1]}.weight")


def _on_head(adapter: Mapping[str, Tensor], backbone: nn.Module) -> bool:
    return any(key.startswith(tuple(f"{layer}." for layer in backbone.head_targets)) for key in adapter)


def _rank(published: Mapping[str, Tensor]) -> int:
    """The one rank of all layers. ValueError where they are not pairs of matrices with one rank between them."""
    ranks = set()
    for key, tensor in published.items():
        down = ".trainable_lora_down" in key
        first = published.get(key.replace("down2.weight", "down.weight").replace("up2.weight", "up.weight"), tensor)
        if tensor.dim() != 2 or first.shape != tensor.shape or not (down or ".trainable_lora_up" in key):
            raise ValueError(f"'{key}' {tuple(tensor.shape)} is no half of one of PETALface's LoRA layers")
        ranks.add(tensor.shape[0 if down else 1])
    if len(ranks) != 1:
        raise ValueError(f"its LoRA layers have the ranks {sorted(ranks)[:5]}; wanted one of all")
    return ranks.pop()
