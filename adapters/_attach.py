"""Attach an adapter to a backbone, take out what a deliverable must hold, put it back, merge it into the weights."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adapters._layers import replace
from recognition.distributed import whole
from recognition.gate import Gate
from recognition.types import Adapter, AttachReport

DERIVED = ("num_batches_tracked", "relative_position_index", "attn_mask")  # buffers that follow from the rest


@dataclass(slots=True)
class Attached:
    """What attach left on a backbone. Copied along by deepcopy, in no state dict."""

    adapter: Adapter
    report: AttachReport
    keys: tuple[str, ...]  # of the state dict: what a deliverable must hold
    trained_before: tuple[str, ...]  # parameters that required a gradient before attaching


def attach(backbone: nn.Module, adapter: Adapter, gate: Gate) -> AttachReport:
    """Adapt the backbone in place; freeze it first where the adapter says so.

    The caller keeps a frozen base in eval mode and puts only `layers(backbone)` in train mode.
    ValueError for targets that do not fit, RuntimeError if the backbone carries an adapter already.
    """
    if getattr(backbone, "_attached", None) is not None:
        raise RuntimeError(
            f"the backbone carries a {type(backbone._attached.adapter).__name__} already: merge(backbone) it first, "
            "or build the backbone anew"
        )
    base_keys = set(backbone.state_dict())
    trained_before = tuple(name for name, parameter in backbone.named_parameters() if parameter.requires_grad)
    if adapter.freezes_base:
        backbone.requires_grad_(False)
    report = adapter.attach(backbone, gate)
    keys = _deliverable(backbone, adapter, report, base_keys)
    backbone._attached = Attached(adapter, report, keys, trained_before)
    return report


def attached(backbone: nn.Module) -> Attached:
    """The backbone's adapter and its report. RuntimeError where it has none."""
    found = getattr(backbone, "_attached", None)
    if found is None:
        raise RuntimeError("the backbone carries no adapter: call attach(backbone, adapter, gate) first")
    return found


def layers(backbone: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(qualified name, layer) of every adapted layer; none where no adapter is attached, or it is merged.

    Full fine-tuning has one, the backbone itself, named ''.
    """
    found = getattr(backbone, "_attached", None)
    for name in found.report.adapted if found is not None else ():
        yield name, backbone.get_submodule(name)


def state(backbone: nn.Module) -> dict[str, Tensor]:
    """Copies on the CPU of all that differs from the base, ready for safetensors.

    With a frozen base the adapter's own tensors, else every parameter and running statistic. Of a backbone that is in
    shares (recognition/sharding.py) by all processes together.
    """
    return {key: whole(tensor).to("cpu", copy=True).contiguous() for key, tensor in live(backbone).items()}


def live(backbone: nn.Module) -> dict[str, Tensor]:
    """What state() copies, as it is."""
    everything = backbone.state_dict()
    return {key: everything[key].detach() for key in attached(backbone).keys}


def load(backbone: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put back what state() took out.

    ValueError lists missing, unexpected and misshapen tensors, and leaves the backbone as it was.
    """
    check(backbone, state)
    own = backbone.state_dict()
    with torch.no_grad():
        for key in attached(backbone).keys:
            own[key].copy_(state[key])


def check(backbone: nn.Module, state: Mapping[str, Tensor]) -> None:
    """ValueError that lists missing, unexpected and misshapen tensors; the backbone may be without memory ("meta")."""
    wanted, own = attached(backbone).keys, backbone.state_dict()
    given = {key: tensor for key, tensor in state.items() if not key.endswith(DERIVED)}
    faults = [f"'{key}' is missing" for key in wanted if key not in given]
    faults += [f"'{key}' is not expected{_meant(key, wanted)}" for key in given if key not in wanted]
    faults += [
        f"'{key}' has shape {tuple(given[key].shape)}, wanted {tuple(own[key].shape)}"
        for key in wanted
        if key in given and given[key].shape != own[key].shape
    ]
    if faults:
        more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise ValueError(
            f"these tensors do not fit the attached {type(attached(backbone).adapter).__name__}: "
            f"{'; '.join(faults[:5])}{more}. Attach with the rank and targets that the tensors were trained with"
        )


def merge(backbone: nn.Module, gate_value: float | None = None) -> None:
    """Put plain layers with the update in their weights in the place of the adapted ones, and detach the adapter.

    gate_value: the one gate at which a gated adapter is merged (0 low quality, 1 high); None for all others.
    ValueError for an adapter that cannot be merged, a gate_value that is missing, not wanted or not finite, and merged
    weights that are not finite; the backbone is left as it was.
    """
    found = attached(backbone)
    name = type(found.adapter).__name__
    if found.adapter.mergeable == "none":
        raise ValueError(f"a {name} adapter cannot be merged into the weights: export it as it is")
    if (found.adapter.mergeable == "at_gate") != (gate_value is not None):
        raise ValueError(
            f"a {name} adapter mixes its branches per image, so it merges at one fixed gate only: give gate_value"
            if gate_value is None
            else f"a {name} adapter has no gate: merge it without gate_value (got {gate_value})"
        )
    if gate_value is not None and not math.isfinite(gate_value):
        raise ValueError(f"gate_value is {gate_value}; it must be a finite number")
    plain = {place: layer.merged(gate_value) for place, layer in layers(backbone) if hasattr(layer, "merged")}
    for place, layer in plain.items():
        if not all(torch.isfinite(tensor).all() for tensor in layer.state_dict().values()):
            raise ValueError(f"merging gives weights that are not finite in '{place}': the training has diverged")
    for place, layer in plain.items():
        replace(backbone, place, layer)
    for place, parameter in backbone.named_parameters():
        parameter.requires_grad_(place in found.trained_before)
    backbone._attached = None


def _deliverable(backbone: nn.Module, adapter: Adapter, report: AttachReport, base_keys: set[str]) -> tuple[str, ...]:
    """Keys of the state dict that may differ from the base after training.

    With a frozen base: new tensors, parameters that train, and the buffers of adapted layers.
    """
    keys = [key for key in backbone.state_dict() if not key.endswith(DERIVED)]
    if not adapter.freezes_base:
        return tuple(keys)
    changing = {key for key in keys if key not in base_keys}
    changing |= {key for key, parameter in backbone.named_parameters() if parameter.requires_grad}
    for name in report.adapted:
        layer = backbone.get_submodule(name)
        changing |= {f"{name}.{key}" if name else key for key, _ in layer.named_buffers()}
    return tuple(key for key in keys if key in changing)


def _meant(key: str, wanted: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(key, wanted, n=1)
    return f" (nearest: '{close[0]}')" if close else ""
