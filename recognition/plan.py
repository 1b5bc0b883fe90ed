"""What a run is going to be, in words and numbers, before it spends hours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from recognition import calibration, scoring, sharding
from recognition.config import arguments
from recognition.data.augmentations.sequence import Augmentations
from recognition.data.balanced import BalancedOrder
from recognition.distributed import share
from recognition.loss_parts import batch_fields
from recognition.memory import network_bytes, process_bytes
from recognition.model import count_parameters
from recognition.partial_fc.memory import estimate
from recognition.types import IMAGE_SIZE

if TYPE_CHECKING:
    from recognition.learner import Learner
    from recognition.trainer import Trainer


def describe(trainer: Trainer) -> list[str]:
    """Lines on data, parameters, steps, learning rates and memory of a run that has been built."""
    config, records, world = trainer.config, trainer.records, trainer.world
    total, trainable = count_parameters(trainer.learner.model)
    attached = trainer.learner.attached
    in_shares = f"; {shares(trainer)}" if trainer.learner.in_shares else ""
    lines = [
        f"records   {records.num_images:,} images, {records.num_classes:,} classes in {len(records.shards)} shard(s)",
        f"network   {config.backbone.name}, {total:,} parameters, adapter {config.adapter.name}: "
        f"{trainable:,} trainable ({100 * trainable / total:.3f} %){in_shares}",
        f"steps     {trainer.schedule.total:,} updates of {trainer.images_per_update:,} images "
        f"({world.world_size} process(es) on {world.device.type}, {config.train.precision}), "
        f"{config.schedule.epochs:g} epochs",
        f"loss      {losses(trainer)}",
        f"lr        {learning_rates(trainer)}",
        f"memory    {memory(trainer)}",
    ]
    if attached.adapted:
        skipped = f"; {len(attached.skipped)} grouped convolution(s) skipped" if attached.skipped else ""
        lines.insert(2, f"adapted   {len(attached.adapted)} layers{skipped}")
    if isinstance(order := trainer.order, BalancedOrder):
        often = f"; {order.often:,} class(es) so large that they stand twice in some" if order.often else ""
        lines.insert(
            1,
            f"batches   {order.classes_per_batch:,} identities with {order.per_class} images each, "
            f"{order.batches_per_epoch:,} of them an epoch, {order.epoch_size:,} images{often}",
        )
    return lines


def shares(trainer: Trainer) -> str:
    """How the backbone is shared out, and what would keep it from being so."""
    text = f"in shares of {trainer.world.world_size} process(es)"
    if trainer.learner.autocast_dtype is not None and not trainer.config.train.checkpoint_activations:
        text += (
            f"; WARNING: backward keeps all weights as {trainer.config.train.precision} rounds them, whole on each "
            "process, unless train.checkpoint_activations recomputes the blocks"
        )
    return text


def first(trainer: Trainer) -> list[str]:
    """Lines on what a run does before its first update, and a dry run does not: the gate's fit, scores of the set."""
    config, quality, resumed = trainer.config, trainer.learner.losses.quality, trainer.resumed_from
    if not quality.needs_gate:
        return []
    lines = []
    if config.gate.fit and resumed is None and not calibration.brings_gate(config):
        lines.append(
            f"gate      fitted when a run begins, by rule '{config.gate.fit}' to {config.gate.sample or 'all'} images; "
            f"here midpoint {config.gate.midpoint} and slope {config.gate.slope}"
        )
    chosen, why = scoring.source(config, quality.scorer, None if resumed is None else resumed.absolute().parents[1])
    if chosen == "sidecar" and trainer.world.is_main:
        identity = scoring.identify(config.scorer.name, arguments(config.scorer, "scorer"), quality.scorer)
        found = scoring.check(trainer.records, identity, bad_allowed=config.data.on_bad_record == "skip")
        stale = [problem for problem in found.values() if problem]
        why += f"; a run scores the set first, since {stale[0]}" if stale else f"; {next(iter(found))} is fresh"
    return [*lines, f"scores    {chosen}: {why}"]


def losses(trainer: Trainer) -> str:
    """What is minimised, and what a step takes for it."""
    config, views = trainer.config, trainer.learner.losses.views
    centres = config.classifier
    parts = [f"{centres.weight:g} x {config.margin.name}"] if centres.weight else []
    parts += [f"{chosen.get('weight', 1.0):g} x {chosen.name}" for chosen in config.objectives]
    text = " + ".join(parts)
    if centres.sample_rate < 1:
        text += f"; a share of {centres.sample_rate:g} of the classes, {centres.sampling}"
    if centres.twins:
        text += "; clean twins are classified, too"
    if views:
        text += f"; {1 + views} images for each of a batch go through the network"
    if config.optim.average:
        text += f"; the weights' running mean ({config.optim.average:g}) is delivered"
    fields = batch_fields(config) & {"twin", "level"}
    augmented = any(one.loses_resolution for one in Augmentations(config.data.augment).members)
    if fields and not config.degradation.share and not augmented:
        text += f"; WARNING: it looks at the {' and the '.join(sorted(fields))}, but nothing is degraded"
    return text


def learning_rates(trainer: Trainer) -> str:
    """The plan at its first update, the peak, the middle and the last update."""
    schedule, total = trainer.schedule, trainer.schedule.total
    points = sorted({0, schedule.warmup, total // 2, total - 1})
    return ", ".join(f"{trainer.config.optim.lr * schedule.factor(k):.2e} at {k}" for k in points)


def memory(trainer: Trainer) -> str:
    """What one process needs, in words."""
    parts = memory_parts(trainer)
    shown = ", ".join(f"{name} {size / 2**20:,.0f}" for name, size in parts.items())
    return f"about {sum(parts.values()) / 2**20:,.0f} MiB per process ({shown})"


def memory_parts(trainer: Trainer) -> dict[str, int]:
    """Estimated bytes of one process by purpose: recognition.memory's arithmetic on what this run has.

    On a CPU a process takes up to CPU_ALLOCATOR times as much.
    """
    moments = 1 if trainer.config.optim.name == "sgd" else 2
    learner = trainer.learner
    classifier, section = learner.classifier, trainer.config.classifier
    of_classifier = estimate(
        classifier.num_classes,
        classifier.weight.shape[1],
        trainer.global_batch * (2 if section.twins else 1),
        sample_rate=classifier.sample_rate,
        state=classifier.state,
        moments=moments,
        accumulate=trainer.config.optim.accumulate,
        world_size=trainer.world.world_size,
        in_place=classifier.in_place(),
    )
    images = trainer.config.data.batch_size * (1 + learner.losses.views)
    return process_bytes(
        network(learner, moments), of_classifier, activations(learner, images), beside(learner, moments)
    )


def network(learner: Learner, moments: int) -> int:
    """Bytes of the network's weights, their gradients and what the optimizer keeps.

    Weights that training keeps rounded count as they are; on a CPU the float32 ones wait in the same memory.
    """
    if learner.in_shares:
        return sharding.bytes_of_network(learner.model, moments)
    weights = sum(parameter.nbytes for parameter in learner.model.parameters())
    if learner.frozen is not None and learner.world.device.type == "cpu":
        weights += learner.frozen.waiting()
    return network_bytes(weights, count_parameters(learner.model)[1], moments)


def beside(learner: Learner, moments: int) -> int:
    """Bytes of what objectives learn, of frozen networks that losses look through, and of averaged weights."""
    losses = learner.losses
    learned = sum(p.numel() for p in losses.objectives.parameters() if p.requires_grad)
    frozen = losses.base_parameters
    averaged = 0 if learner.average is None else sum(share(t).numel() for t in learner.average.tensors.values())
    return 4 * (learned * (2 + moments) + frozen + 2 * averaged)  # an evaluation keeps the weights beside their mean


def activations(learner: Learner, batch_size: int) -> int:
    """Bytes that the network keeps for backward of a batch: counted at two sizes, drawn out to this one.

    Two, since some of it is there once whatever the batch, such as the weights that autocast rounds.
    """
    two, four = kept_bytes(learner, 2), kept_bytes(learner, 4)
    return max(two, two + (batch_size - 2) * (four - two) // 2)


def kept_bytes(learner: Learner, images: int) -> int:
    """Bytes that the network keeps for backward of some images, besides its weights: counted in one forward.

    In training mode, since layers with dropout keep more there; norms do not look at the batch, and no buffer moves.
    """
    kept: dict[int, int] = {}
    model, dtype, device = learner.model, learner.autocast_dtype, learner.world.device
    held = [share(value) for value in [*model.parameters(), *model.buffers()]]
    own = {value.untyped_storage().data_ptr() for value in held}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        place = storage.data_ptr()
        if place not in own and place not in together:  # a layer may keep its weight's transpose, which is no parameter
            kept[place] = storage.nbytes()
        return tensor.detach()  # an output that held its own graph would never go

    batch = torch.zeros(images, 3, IMAGE_SIZE, IMAGE_SIZE, device=device)
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    for module in model.train().modules():
        if isinstance(module, _BatchNorm):
            module.eval()
    with (
        torch.random.fork_rng(devices=[batch.device] if batch.is_cuda else []),
        sharding.whole_weights(model) as together,
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast(device.type, dtype=dtype, enabled=dtype is not None),
    ):
        seen = model(batch, model.middle_scores(len(batch)))
        size = sum(kept.values())
        del seen
    for module, training in modes:
        module.training = training
    with torch.no_grad():
        for buffer, before in buffers:
            buffer.copy_(before)
    return size
