"""A backbone that does not fit one process: weights, gradients and optimizer state in shares, a share for each.

FSDP2 (torch.distributed.fsdp.fully_shard; Zhao et al. 2023, arXiv 2304.11277): every process holds its rows of each
tensor. The weights of a block are put together where the block runs, forward and backward, and taken apart after it;
its gradients come back as the mean over processes, rows of a process to that process. Frozen weights are in shares,
too. What stands outside the backbone, the quality gate and the scorer, is whole on every process, and so are statistics
of norms. Every forward pass is one of all processes together.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.distributed as dist
from easydict import EasyDict
from torch import Tensor, nn
from torch.optim import Optimizer

from adapters._parts import find_blocks
from recognition.distributed import any_process, gather_json, is_share, share, world_size

KINDS = ("none", "full")


def wanted(config: EasyDict, model: nn.Module) -> bool:
    """Whether the recipe has the backbone in shares. ValueError for what cannot be, or not together with it.

    model: as assembled, before anything wraps it.
    """
    kind = config.train.sharding
    if kind not in KINDS:
        raise ValueError(f"config.train.sharding is '{kind}'; it must be one of {', '.join(map(repr, KINDS))}")
    if kind == "none":
        return False
    if config.train.compile:
        raise ValueError(
            "config.train.compile makes one program of the network, and train.sharding=full puts its blocks together "
            "one after the other: set one of the two"
        )
    if config.train.precision == "fp16":
        raise ValueError(
            "config.train.precision=fp16 scales the loss, and gradients in shares (train.sharding=full) are not "
            "watched for overflows: take bf16, which needs no scaling, or fp32"
        )
    if getattr(model.scorer, "needs", "") == "model":
        raise ValueError(
            f"scorer '{config.scorer.name}' looks through the base, whose weights train.sharding=full takes apart: "
            "take a scorer that needs the image alone"
        )
    return True


def shard(model: nn.Module, device: torch.device) -> nn.Module:
    """Take the backbone apart in place, block by block, and move the rest of the model to the device; returns it.

    The model lies in the CPU's memory and is the same on all processes: only one block after the other is whole on the
    device. Call it before anything takes hold of the model's parameters, which are others afterwards.
    """
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import fully_shard  # half a second, for those who take it

    backbone = model.backbone
    for parameter in backbone.parameters():
        parameter.data = parameter.data.contiguous()  # rows of a tensor in channels_last are no run of memory
    mesh = DeviceMesh.from_group(dist.group.WORLD, device.type)
    scalars = {parameter for parameter in backbone.parameters() if parameter.dim() == 0}  # have no rows
    for name in units(backbone):
        fully_shard(backbone.get_submodule(name), mesh=mesh, ignored_params=scalars)
    fully_shard(backbone, mesh=mesh, ignored_params=scalars)
    # what stands in no block stays together until backward has used it, and an evaluation has no backward pass
    backbone.register_forward_hook(lambda module, *_: None if torch.is_grad_enabled() else module.reshard())
    return model.to(device)


def units(backbone: nn.Module) -> list[str]:
    """Names of the modules whose weights are put together at once: its blocks, or its children where it names none."""
    if getattr(backbone, "checkpoint_blocks", ()):
        return find_blocks(backbone)
    return [name for name in _children(backbone, "") if [*backbone.get_submodule(name).parameters()]]


def _children(module: nn.Module, prefix: str) -> Iterator[str]:
    """Names of the children; of those that only hold others, such as ModuleList, of theirs."""
    for name, child in module.named_children():
        if type(child).forward is nn.Module.forward:
            yield from _children(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def is_sharded(model: nn.Module) -> bool:
    """Whether a forward pass of the model is one of all processes together."""
    return any(hasattr(module, "set_requires_gradient_sync") for module in model.modules())


def settle(optimizer: Optimizer) -> None:
    """Have the optimizer go through all shares of a group at once.

    Of half an r50 on a CPU core a step of AdamW takes 0.13 s so, and 0.22 s share by share.
    """
    for group in optimizer.param_groups:
        if any(map(is_share, group["params"])):
            group["foreach"] = True


def spread(tensors: Iterable[Tensor]) -> None:
    """Give every process the main one's tensors, as DDP does with buffers at a forward pass; one exchange per dtype."""
    if world_size() == 1:
        return
    kinds: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault(tensor.dtype, []).append(tensor.detach())
    for group in kinds.values():
        flat = torch.cat([tensor.reshape(-1) for tensor in group])
        dist.broadcast(flat, 0)
        for tensor, part in zip(group, flat.split([tensor.numel() for tensor in group]), strict=True):
            tensor.copy_(part.view_as(tensor))


@torch.no_grad()
def average_the_rest(parameters: Iterable[nn.Parameter]) -> None:
    """Gradients of what is whole on every process, the quality gate's, become their mean over processes."""
    gradients = [p.grad for p in parameters if p.grad is not None and not is_share(p)]
    if not gradients or world_size() == 1:
        return
    flat = torch.cat([gradient.reshape(-1).float() for gradient in gradients])
    dist.all_reduce(flat)
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient) / world_size())


@torch.no_grad()
def clip_gradients(parameters: Sequence[nn.Parameter], most: float) -> Tensor:
    """torch's clip_grad_norm_ for parameters of which some are in shares: the norm () of all gradients, float32."""
    held = [parameter for parameter in parameters if parameter.grad is not None]
    if not held:
        return torch.zeros(())
    gradients = [share(parameter.grad) for parameter in held]
    squares = torch.stack([torch.linalg.vector_norm(one, dtype=torch.float64) for one in gradients]).square()
    in_shares = [is_share(parameter) for parameter in held]
    total = squares[in_shares].sum()
    if world_size() > 1:
        dist.all_reduce(total)
    norm = (total + squares[[not one for one in in_shares]].sum()).sqrt().float()
    torch._foreach_mul_(gradients, (most / (norm + 1e-6)).clamp(max=1.0))
    return norm


def in_step(batches: Iterator[Tensor]) -> Iterator[Tensor]:
    """As many batches on every process, all of which raise ValueError where one has no next one to give."""
    while True:
        batch, problem = None, ""
        try:
            batch = next(batches, None)
        except (OSError, ValueError) as error:
            problem = str(error) or repr(error)
        failed, ended = any_process(bool(problem), batch is None)
        if failed:
            raise ValueError(next(filter(None, gather_json(problem))))
        if ended:
            return
        yield batch


@contextlib.contextmanager
def whole_weights(model: nn.Module) -> Iterator[set[int]]:
    """The addresses at which weights of the backbone lie while they are put together: they come and go in a forward.

    For a forward without a backward pass: what FSDP remembers of it is forgotten at the end.
    """
    lie: set[int] = set()
    handles = []
    for module in [module for module in model.modules() if hasattr(module, "set_requires_gradient_sync")]:

        def begins(module: nn.Module, _: object) -> None:
            lie.update(p.untyped_storage().data_ptr() for p in module.parameters() if not is_share(p))

        def ends(module: nn.Module, *_: object) -> None:
            lie.difference_update(p.untyped_storage().data_ptr() for p in module.parameters() if not is_share(p))

        # after FSDP's own hook in front of the forward pass, before its own behind it
        handles.append(module.register_forward_pre_hook(begins))
        handles.append(module.register_forward_hook(ends, prepend=True))
    try:
        yield lie
    finally:
        for handle in handles:
            handle.remove()
        if handles:
            model.backbone.reset_iter_state()


def bytes_of_network(model: nn.Module, moments: int) -> int:
    """Estimated bytes of one process for weights, gradients and optimizer state; moments: numbers kept of a weight.

    A share of everything, and what is whole: weights in no block and those of two blocks, since the next one is fetched
    while one runs; and the gradients of one, twice while they are handed round.
    """
    everything = [p for p in model.parameters() if is_share(p)]
    beside = [p for p in model.parameters() if not is_share(p)]
    in_shares = sum(share(p).nbytes * ((2 + moments) if p.requires_grad else 1) for p in everything)
    whole = sum(p.nbytes * ((2 + moments) if p.requires_grad else 1) for p in beside)
    own = [[*model.backbone.get_submodule(name).parameters()] for name in units(model.backbone)]
    met = {id(p) for unit in own for p in unit}
    root = [p for p in model.backbone.parameters() if id(p) not in met]
    blocks = sorted(sum(p.nbytes for p in unit) for unit in own)
    gradients = max(sum(p.nbytes for p in unit if p.requires_grad) for unit in [*own, root])
    return in_shares + whole + sum(p.nbytes for p in root) + sum(blocks[-2:]) + 2 * gradients
