"""Several adapters on one base: loaded by name, put to work in turn, taken off, merged and unmerged."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from adapters._attach import attach, attached, check, load, merge
from adapters._files import Saved, read_folder
from recognition.gate import Gate
from recognition.hashes import hash_tensors
from recognition.registry import nearest

PROBES = 4  # drawn images that errors are measured on


@dataclass(slots=True)
class Entry:
    """A loaded adapter."""

    saved: Saved
    key: str  # name and arguments: adapters that agree in it share their layers


@dataclass(slots=True)
class Merged:
    """What unmerge() needs to go back, and to say how near it came."""

    gate_value: float | None
    before: Tensor  # embeddings of the drawn images


@dataclass(slots=True, eq=False)
class Adapters:
    """Adapters of one backbone for inference, one of them active or none; the base is never changed.

        bank = Adapters(model.backbone, model.gate, model.quality_gate)
        bank.load("probe", "runs/petal/model")
        bank.activate("probe")        bank.disable()        bank.delete("probe")

    The backbone object stays the same one, so whatever holds it, such as a compiled FaceModel, follows each switch;
    none may happen while a forward runs. Adapters of the same name and arguments share their layers: switching among
    them copies tensors in place, and a compiled model goes on without recompilation. The first switch to other
    arguments (another rank, say), to the plain base or to a merged adapter has torch.compile add a graph for the new
    layers; coming back to layers that it knows adds none. torch._dynamo.config.recompile_limit bounds their number, 8
    unless set.
    A disabled backbone is the base itself: the same layers, tensors and speed, bit for bit.

    backbone: without an adapter, on its device and in its dtype to stay; it is frozen and put into eval mode.
    quality_gate: the model's; a gated adapter's midpoint and slope go into it on activation.
    base_sha256: of the base's file, for folders written before they named the hash of its tensors.
    """

    backbone: nn.Module
    gate: Gate
    quality_gate: nn.Module | None = None
    base_sha256: str = ""
    active: str | None = field(default=None, init=False)  # name of the adapter at work
    _base: nn.Module = field(init=False, repr=False)
    _layers: dict[str, nn.Module] = field(default_factory=dict, init=False, repr=False)  # by Entry.key
    _entries: dict[str, Entry] = field(default_factory=dict, init=False, repr=False)
    _merged: Merged | None = field(default=None, init=False, repr=False)
    _hash: str = field(default="", init=False, repr=False)

    def __post_init__(self) -> None:
        """RuntimeError where the backbone carries an adapter already."""
        if getattr(self.backbone, "_attached", None) is not None:
            raise RuntimeError(
                f"the backbone carries a {type(self.backbone._attached.adapter).__name__} already: give the base alone"
            )
        self.backbone.requires_grad_(False).eval()
        self._base = copy.copy(self.backbone)  # the same modules inside

    def names(self) -> list[str]:
        """Of the loaded adapters, in the order of loading."""
        return list(self._entries)

    @property
    def merged(self) -> bool:
        """True where the active adapter stands merged into plain weights."""
        return self._merged is not None

    def load(self, name: str, folder: str | Path | Saved, *, any_base: bool = False) -> None:
        """Read an adapter and check it against the base; it goes to work by activate(name).

        folder: as of adapters.read_folder. any_base: take it although its card does not tell which base it is of.
        ValueError for a name in use, for the wrong base (with both hashes), for tensors that are missing, unexpected or
        misshapen, and for a quality gate or scorer other than that of the adapters loaded before.
        """
        if name in self._entries:
            raise ValueError(f"an adapter '{name}' is loaded already: delete('{name}') first, or take another name")
        saved = folder if isinstance(folder, Saved) else read_folder(folder)
        if saved.make().freezes_base:  # any other brings every tensor along
            remedy = None if any_base else "with any_base=True it is taken for this one"
            saved.check_base(self._own_hash, self.base_sha256, remedy)
        self._check_gate(name, saved)
        key = json.dumps([saved.name, saved.arguments], sort_keys=True)
        try:
            check(self._layers.get(key) or self._plan(saved), saved.tensors)
        except ValueError as error:
            raise ValueError(f"{saved.path}: {error}") from None
        self._entries[name] = Entry(saved, key)

    def activate(self, name: str) -> None:
        """Put a loaded adapter to work in place of the one before. ValueError for a name that is not loaded."""
        entry = self._entry(name)
        layers = self._layers.get(entry.key)
        if layers is None:
            layers = self._layers[entry.key] = self._attached_to_base(entry.saved)
        self._check_device(layers)
        load(layers, entry.saved.tensors)
        if entry.saved.gate:
            self.quality_gate.load_state_dict(entry.saved.gate)
        elif self.quality_gate is not None and (told := entry.saved.card.get("gate")):  # from before gates were saved
            self.quality_gate.place(told["midpoint"], told["slope"])
        self._wear(layers)
        self.active = name

    def disable(self) -> None:
        """Back to the base, bit for bit; the adapters stay loaded."""
        self._check_device(self._base)
        self._wear(self._base)
        self.active = None

    def delete(self, name: str) -> None:
        """Forget a loaded adapter. RuntimeError for the active one."""
        entry = self._entry(name)
        if name == self.active:
            raise RuntimeError(f"'{name}' is at work: activate another adapter or disable() first")
        del self._entries[name]
        if all(other.key != entry.key for other in self._entries.values()):
            self._layers.pop(entry.key, None)

    def merge(self, gate_value: float | None = None) -> float:
        """Put plain layers with the active adapter's update in their weights to work, as fast as the base.

        gate_value: the one gate of a gated adapter (0 low quality, 1 high); None for all others.
        Returns the largest difference of the embeddings of drawn images to those before, over their largest magnitude.
        ValueError for an adapter that cannot be merged, or not so; RuntimeError where none is active, or it is merged.
        """
        if self.active is None or self.merged:
            state = "no adapter is active" if self.active is None else f"'{self.active}' is merged already"
            raise RuntimeError(f"{state}: activate(name) one first")
        layers = self._layers[self._entries[self.active].key]
        plain = self._shell(layers)
        merge(plain, gate_value)
        before = self._embed(gate_value)
        self._wear(plain.requires_grad_(False))
        self._merged = Merged(gate_value, before)
        return _difference(self._embed(gate_value), before)

    def unmerge(self) -> float:
        """Put the active adapter's own layers back to work; nothing is subtracted, so nothing is lost.

        Returns the largest difference of the embeddings of drawn images to those before merge(): 0.
        RuntimeError where none is merged.
        """
        if self._merged is None:
            raise RuntimeError("no adapter is merged: merge() comes first")
        done = self._merged
        self._wear(self._layers[self._entries[self.active].key])
        return _difference(self._embed(done.gate_value), done.before)

    def _entry(self, name: str) -> Entry:
        if name not in self._entries:
            raise ValueError(f"no adapter '{name}' is loaded{nearest(name, self._entries)}")
        return self._entries[name]

    def _wear(self, layers: nn.Module) -> None:
        """Make the backbone be `layers`, for all who hold it: the same object with other modules inside."""
        self.backbone.__class__ = layers.__class__  # an adapter may have put a class of its own in front
        vars(self.backbone).clear()
        vars(self.backbone).update(vars(layers))
        self._merged = None

    def _shell(self, network: nn.Module) -> nn.Module:
        """A copy of the modules that shares every tensor, and the gate."""
        shared = [*network.parameters(), *network.buffers(), self.gate]
        return copy.deepcopy(network, {id(one): one for one in shared})

    def _plan(self, saved: Saved) -> nn.Module:
        """The adapted network without memory: sizes that a card tells cost nothing before its tensors bear them out."""
        with torch.device("meta"):
            tensors = [*self._base.parameters(), *self._base.buffers()]
            plan = copy.deepcopy(self._base, {id(tensor): _on_meta(tensor) for tensor in tensors})
            return self._attach(plan, saved, Gate())

    def _attached_to_base(self, saved: Saved) -> nn.Module:
        """The base's modules with the adapter in them; tensors of the base that it changes are copies."""
        layers = self._attach(self._shell(self._base), saved, self.gate)
        base = {_memory(tensor) for tensor in [*self._base.parameters(), *self._base.buffers()]}
        for key in attached(layers).keys:
            place, _, last = key.rpartition(".")
            module = layers.get_submodule(place)
            table = module._parameters if last in module._parameters else module._buffers
            if _memory(table[last]) in base:
                own = table[last].detach().clone()
                table[last] = nn.Parameter(own) if table is module._parameters else own
        self._base.requires_grad_(False)  # what trains in the copies does so no more here
        return layers.requires_grad_(False).eval()

    def _attach(self, network: nn.Module, saved: Saved, gate: Gate) -> nn.Module:
        adapter = saved.make()
        if not adapter.freezes_base:
            network.requires_grad_(True)
        with torch.random.fork_rng(devices=[]):  # what it draws is overwritten at once
            attach(network, adapter, gate)
        return network

    def _own_hash(self) -> str:
        self._hash = self._hash or hash_tensors(self._base.state_dict())
        return self._hash

    def _check_gate(self, name: str, saved: Saved) -> None:
        if not saved.make().needs_gate:
            return
        if saved.gate and self.quality_gate is None:
            raise ValueError(
                f"{saved.path} brings a quality gate, and this model has none: give Adapters a quality_gate, "
                "or load it by recognition.runs.load_adapters, which makes one"
            )
        for other, entry in self._entries.items():
            if not entry.saved.make().needs_gate:
                continue
            for what, mine, theirs in _gate_settings(saved, entry.saved):
                if mine != theirs:
                    raise ValueError(
                        f"{saved.path} has the {what} {mine} and '{other}' the {what} {theirs}: one model has one; "
                        f"make another for '{name}'"
                    )

    def _check_device(self, layers: nn.Module) -> None:
        here = next(self.backbone.parameters()).device
        away = {tensor.device for tensor in [*layers.parameters(), *layers.buffers()]} - {here}
        if away:
            raise RuntimeError(
                f"the backbone has moved to {here} and the layers it would take are on {away.pop()}: "
                "make Adapters after moving the model"
            )

    @torch.no_grad()
    def _embed(self, gate_value: float | None) -> Tensor:
        """Embeddings of drawn images, all at one gate."""
        like, side = next(self.backbone.parameters()), self.backbone.input_size
        drawn = torch.rand(PROBES, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
        gate = None if gate_value is None else torch.full((PROBES,), float(gate_value), device=like.device)
        with self.gate.scope(gate):
            return self.backbone(drawn.to(like)).clone()


def _difference(one: Tensor, two: Tensor) -> float:
    return ((one - two).abs().max() / two.abs().max()).item()


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _on_meta(tensor: Tensor) -> Tensor:
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(tensor.detach().to("meta"), requires_grad=tensor.requires_grad)
    return tensor.to("meta")


def _gate_settings(one: Saved, two: Saved) -> list[tuple[str, object, object]]:
    shapes = [saved.card.get("gate", {}).get("shape") for saved in (one, two)]
    return [("scorer", one.card.get("scorer"), two.card.get("scorer")), ("gate's shape", *shapes)]
