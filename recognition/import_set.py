"""A checkpoint set of arcface_torch as a run of ours, which training continues on any number of processes."""

from __future__ import annotations

from pathlib import Path

import torch
from easydict import EasyDict
from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler
from torch.optim import Optimizer

from recognition import checkpoint, delivery, distributed
from recognition.checkpoint import State
from recognition.config import arguments
from recognition.inputs import open_records
from recognition.margins import MARGINS
from recognition.model import FaceModel, assemble
from recognition.optim import build_optimizer
from recognition.partial_fc import PartialFC
from recognition.weights import load_strictly
from recognition.weights.arcface_set import ArcfaceSet, read_set

KEPT = {"sgd": {"momentum_buffer"}, "adamw": {"step", "exp_avg", "exp_avg_sq"}}  # of each parameter, by optimizer


def import_set(source: Path, run: Path, config: EasyDict) -> list[str]:
    """Write the set as a run folder that training continues on any number of processes; returns lines to print.

    config: a recipe that says what the set was trained with; its records need not be there. By one process, after
    distributed.start(). ValueError where set and recipe do not belong together, or `run` is a run already.
    """
    if distributed.world_size() > 1:
        raise RuntimeError("a set is imported by one process; any number of them may then train")
    if any((run / name).exists() for name in ("config.json", "checkpoints")):
        raise ValueError(f"{run} holds a run already; name another folder")
    if config.adapter.name != "full":
        raise ValueError(f"config.adapter.name is '{config.adapter.name}'; arcface_torch trains whole backbones: full")
    found = read_set(source)
    classes = len(found.centres)
    fingerprint, notes = _records(config, classes)
    config.run.root, config.run.name = str(run.parent), run.name
    assembled = assemble(config, weights="")
    model, margin = assembled.model, MARGINS.create(config.margin.name, **arguments(config.margin, "margin"))
    load_strictly(model.backbone, found.backbone, found.files[0])
    if broken := [key for key, value in found.backbone.items() if not value.isfinite().all()]:
        raise ValueError(f"{found.files[0]}: {len(broken)} tensors hold NaN or infinity, such as '{broken[0]}'")
    if found.centres.shape[1] != model.backbone.embedding_size:
        raise ValueError(
            f"{found.files[0]}: its centres have {found.centres.shape[1]} numbers each, but config.backbone gives "
            f"embeddings of {model.backbone.embedding_size}"
        )
    sample_rate = config.classifier.sample_rate
    classifier = PartialFC(model.backbone.embedding_size, classes, margin, sample_rate, config.run.seed)
    classifier.init_centres(found.centres)
    optimizer = build_optimizer(config, model, classifier, assembled.adapter)
    _give_states(found, config.optim, optimizer, model, classifier)
    state = _state(found, config, fingerprint)
    delivery.write_start(run, config, fingerprint)
    path = checkpoint.save(run / "checkpoints", state.update, model, classifier, optimizer, state.as_dict())
    return [
        f"{path}: {len(found.files)} file(s), {classes:,} classes, {found.epoch} epochs, {found.step:,} batches: "
        f"update {state.update:,}",
        f"global batch {state.global_batch:,}: data.batch_size={config.data.batch_size} on each of its "
        f"{len(found.files)} process(es); give another data.batch_size if it was another",
        *notes,
        *_differences(found, config),
    ]


def _records(config: EasyDict, classes: int) -> tuple[str, list[str]]:
    """Fingerprint of the recipe's records, "" where they are not here; and what to say of it."""
    names = config.data.records
    names = [names] if isinstance(names, str) else names
    if not names or not all(Path(name).exists() for name in names):
        return "", ["the recipe's records are not here: nothing says that they are those of the set, but the classes"]
    records = open_records(config)
    if records.num_classes != classes:
        raise ValueError(
            f"the set holds {classes:,} classes, config.data.records {records.num_classes:,}: other records, or the "
            "file of the last rank is missing"
        )
    return records.fingerprint(), []


def _give_states(
    found: ArcfaceSet, settings: EasyDict, optimizer: Optimizer, model: FaceModel, classifier: PartialFC
) -> None:
    """Fill the optimizer by the parameters' names. ValueError where the set's optimizer is another, or does not fit."""
    name, momentum = settings.name, settings.momentum
    own = dict(model.backbone.named_parameters())
    names = [key for key in found.backbone if key in own]  # a state dict has the order of the parameters
    place = found.files[0]
    if len(names) != len(found.states):
        raise ValueError(f"{place}: its optimizer has {len(found.states)} parameters, its backbone {len(names)}")
    states = [(key, own[key], state) for key, state in zip(names, found.states, strict=True)]
    states.append(("the class centres", classifier.weight, found.centres_state))
    wanted = KEPT[name] if name != "sgd" or momentum else set()
    for key, parameter, state in states:
        if not parameter.requires_grad:
            continue
        if set(state) != wanted and (state or found.step):
            raise ValueError(
                f"{place}: its optimizer keeps {', '.join(sorted(state)) or 'nothing'} of {key}, but config.optim.name="
                f"{name} keeps {', '.join(sorted(wanted)) or 'nothing'}: set the optimizer that it was trained with"
            )
        for part, value in state.items():
            if value.dim() and value.shape != parameter.shape:
                raise ValueError(f"{place}: '{part}' of {key} is {tuple(value.shape)}, not {tuple(parameter.shape)}")
            if not value.isfinite().all():
                raise ValueError(f"{place}: '{part}' of {key} holds NaN or infinity")
        optimizer.state[parameter] = {part: value.to(torch.float32) for part, value in state.items()}


def _state(found: ArcfaceSet, config: EasyDict, fingerprint: str) -> State:
    """What a checkpoint of ours says beside its tensors. Its loss scale starts anew: arcface_torch keeps none."""
    global_batch = config.data.batch_size * len(found.files)
    update = found.step // config.optim.accumulate
    return State(
        update=update,
        position=update * config.optim.accumulate * global_batch,
        global_batch=global_batch,
        world_size=len(found.files),
        fingerprint=fingerprint,
        base_sha256="",
        scaler=ShardedGradScaler("cpu", enabled=config.train.precision == "fp16").state_dict(),
        skipped={"in_a_row": 0, "total": 0},
        train_seconds=0.0,
        imported={"from": "arcface_torch", "epoch": found.epoch, "global_step": found.step},
    )


def _differences(found: ArcfaceSet, config: EasyDict) -> list[str]:
    """Lines on what the set was trained with and the recipe has otherwise: training goes on by the recipe."""
    lines = []
    for key, ours in (("initial_lr", "lr"), ("momentum", "momentum"), ("weight_decay", "weight_decay")):
        was, now = found.groups[0].get(key), config.optim[ours]
        if isinstance(was, float) and was != now:
            lines.append(f"optim.{ours} is {now:g} from here on; it was {was:g}")
    if found.apart:
        lines.append(f"the ranks' backbones differ by up to {found.apart:.1e}: rank 0's is taken, as in its model.pt")
    return lines
