"""Whether an adapter's folder is what a recipe can go on from: the same adapter, backbone, base, scorer and gate."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from easydict import EasyDict
from torch import nn

import adapters
from adapters import ADAPTERS, Saved
from adapters._layers import gated_layers
from iqa import SCORERS, make_gate
from iqa._gate import plain
from recognition.backbones import BACKBONES
from recognition.config import arguments, differences
from recognition.gate import Gate
from recognition.registry import Registry
from recognition.weights import sha256

Section = Mapping[str, object]  # name and arguments of a plugin


def check_start(saved: Saved, config: EasyDict, backbone: nn.Module, weights: str | Path) -> None:
    """Hold the adapter that config.adapter.weights names against the recipe.

    backbone: the base, not adapted yet; weights: its file, "" without one.
    ValueError where adapter, backbone, scorer or shape of the gate are others than the recipe's, for another base than
    the adapter was trained on (naming both hashes), and for tensors that are missing, unexpected or misshapen.
    """
    if "backbone" in saved.card:
        told = {"name": saved.card["backbone"], **saved.card.get("arguments", {})}
        _refuse(saved, "backbone", _differ(BACKBONES, _section(config, "backbone"), told))
    plan = _check_adapter(saved, _section(config, "adapter"), _section(config, "backbone"))
    made, wanted = saved.make(), _make(ADAPTERS, _section(config, "adapter"))
    if made.freezes_base:
        file = "" if "base_tensors_sha256" in saved.card or not weights else sha256(weights)
        remedy = "it cannot be gone on from by config.adapter.weights: convert or train it anew"
        saved.check_base(lambda: adapters.hash_tensors(backbone.state_dict()), file, remedy)
    elif wanted.freezes_base:
        raise ValueError(
            f"config.adapter.weights: {saved.path} holds a whole network, and the adapter of the recipe keeps that of "
            "config.backbone.weights; train all of it, or name the folder as config.backbone.weights where it is plain"
        )
    try:
        adapters.check(plan, saved.tensors)
    except ValueError as error:
        raise ValueError(f"config.adapter.weights: {saved.path}: {error}") from None
    if wanted.needs_gate and saved.gate:
        _check_gate(saved, config, len(gated_layers(plan)))


def _check_adapter(saved: Saved, recipe: Section, backbone: Section) -> nn.Module:
    """The backbone with the saved adapter, without memory. ValueError where the recipe's is another one."""
    theirs = {"name": saved.name, **adapters.whole_arguments(saved.name, saved.arguments)}
    ours = recipe if recipe["name"] != saved.name else adapters.whole_arguments(saved.name, recipe)
    free = getattr(ADAPTERS.get(saved.name), "of_training", ())
    _refuse(saved, "adapter", _differ(ADAPTERS, ours, theirs, (*free, "targets")))
    plan = _plan(theirs, backbone)
    if faults := _differ(ADAPTERS, ours, theirs, free):  # targets: None, and the globs that it stands for, are the same
        layers = [adapters.attached(one).report.adapted for one in (plan, _plan(ours, backbone))]
        _refuse(saved, "adapter", faults if layers[0] != layers[1] else [])
    return plan


def _check_gate(saved: Saved, config: EasyDict, layers: int) -> None:
    if "scorer" in saved.card:
        _refuse(saved, "scorer", _differ(SCORERS, _section(config, "scorer"), saved.card["scorer"]))
    scorer = _make(SCORERS, _section(config, "scorer"))
    gate = make_gate(config.gate, layers, getattr(scorer, "columns", 1))
    ours = {"shape": gate.shape, **gate.arguments}
    told = saved.card.get("gate", {})
    _refuse(saved, "gate", differences(ours, {key: told.get(key, value) for key, value in ours.items()}))
    sizes = [{key: list(tensor.shape) for key, tensor in one.items()} for one in (gate.state_dict(), saved.gate)]
    _refuse(saved, "gate", differences(*sizes))
    if not config.gate.fit:  # which does not fit such a gate anew, and writes its numbers down
        theirs = {key: plain(saved.gate[key]) for key in ("midpoint", "slope")}
        _refuse(saved, "gate", differences({key: config.gate[key] for key in theirs}, theirs))


def _plan(adapter: Section, backbone: Section) -> nn.Module:
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        made = _make(BACKBONES, backbone)
        adapters.attach(made, _make(ADAPTERS, adapter), Gate())
    return made


def _make(registry: Registry, section: Section) -> object:
    return registry.create(section["name"], **{key: value for key, value in section.items() if key != "name"})


def _section(config: EasyDict, kind: str) -> Section:
    return {"name": config[kind].name, **arguments(config[kind], kind)}


def _differ(registry: Registry, ours: Section, theirs: Section, free: tuple[str, ...] = ()) -> list[str]:
    """As "rank: 8, was 4", ours first; of plugins of different names the names alone."""
    if ours["name"] != theirs.get("name"):
        return differences({"name": ours["name"]}, {"name": theirs.get("name")})
    defaults = registry.defaults(ours["name"])
    return differences({**defaults, **ours}, {**defaults, **theirs}, free)


def _refuse(saved: Saved, kind: str, faults: list[str]) -> None:
    if faults:
        raise ValueError(
            f"config.adapter.weights: {saved.path} was made with another {kind} than config.{kind} asks for: "
            f"{'; '.join(faults)}; set what it was, or name another folder"
        )
