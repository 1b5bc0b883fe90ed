"""What a run is going to be, in words and numbers, before it spends hours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from recognition.model import count_parameters
from recognition.types import IMAGE_SIZE

if TYPE_CHECKING:
    from recognition.trainer import Trainer


def describe(trainer: Trainer) -> list[str]:
    """Lines on data, parameters, steps, learning rates and memory of a run that has been built."""
    config, records, world = trainer.config, trainer.records, trainer.world
    total, trainable = count_parameters(trainer.model)
    attached = trainer.attached
    lines = [
        f"records   {records.num_images:,} images, {records.num_classes:,} classes in {len(records.shards)} shard(s)",
        f"network   {config.backbone.name}, {total:,} parameters, adapter {config.adapter.name}: "
        f"{trainable:,} trainable ({100 * trainable / total:.3f} %)",
        f"steps     {trainer.schedule.total:,} updates of {trainer.images_per_update:,} images "
        f"({world.world_size} process(es) on {world.device.type}, {config.train.precision}), "
        f"{config.schedule.epochs:g} epochs",
        f"lr        {learning_rates(trainer)}",
        f"memory    {memory(trainer)}",
    ]
    if attached.adapted:
        skipped = f"; {len(attached.skipped)} grouped convolution(s) skipped" if attached.skipped else ""
        lines.insert(2, f"adapted   {len(attached.adapted)} layers{skipped}")
    return lines


def learning_rates(trainer: Trainer) -> str:
    """The plan at its first update, the peak, the middle and the last update."""
    schedule, total = trainer.schedule, trainer.schedule.total
    points = sorted({0, schedule.warmup, total // 2, total - 1})
    return ", ".join(f"{trainer.config.optim.lr * schedule.factor(k):.2e} at {k}" for k in points)


def memory(trainer: Trainer) -> str:
    """Estimate for one process: weights, gradients and optimizer state, class centres, logits, kept activations."""
    moments = 1 if trainer.config.optim.name == "sgd" else 2
    total, trainable = count_parameters(trainer.model)
    centres = trainer.classifier.weight
    parts = {
        "network": 4 * (total + (1 + moments) * trainable),
        "class centres": 4 * centres.numel() * (2 + moments),
        "logits": 2 * 4 * trainer.global_batch * max(1, round(len(centres) * trainer.classifier.sample_rate)),
        "activations": kept_bytes(trainer) * trainer.config.data.batch_size,
    }
    shown = ", ".join(f"{name} {size / 2**20:,.0f}" for name, size in parts.items())
    return f"about {sum(parts.values()) / 2**20:,.0f} MiB per process ({shown})"


def kept_bytes(trainer: Trainer) -> int:
    """Bytes that the network keeps for backward, per image: counted in one forward of two images."""
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    model, dtype = trainer.model, trainer.autocast_dtype
    image = torch.zeros(2, 3, IMAGE_SIZE, IMAGE_SIZE, device=trainer.world.device)
    was_training = model.training
    with (
        torch.random.fork_rng(devices=[image.device] if image.is_cuda else []),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast(trainer.world.device.type, dtype=dtype, enabled=dtype is not None),
    ):
        held = model.eval()(image)  # eval: batch statistics must not move
        size = sum(kept.values())
        del held
    model.train(was_training)
    return size // 2
