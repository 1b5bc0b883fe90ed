"""What learns: network, classifier, objectives, optimizer. From a batch to a loss, from losses to a step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager

import torch
import torch.distributed as dist
from easydict import EasyDict
from torch import Tensor
from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from recognition import random_state, sharding
from recognition.average import WeightAverage
from recognition.data.records import Records
from recognition.distributed import World, is_share
from recognition.frozen import FrozenWeights
from recognition.loss_parts import AUTOCAST
from recognition.losses import Losses
from recognition.model import assemble
from recognition.non_finite import NonFiniteGuard
from recognition.optim import build_optimizer
from recognition.types import IMAGE_SIZE, Batch

REPORTED = 16  # images
SETTLED_FROM = 3  # processes; see _settle_buckets


class Learner:
    """Everything of a run that has weights or is fed by their gradients, on one process of several.

    model: FaceModel; network: the same within DDP where anything of it is trained. in_shares: the backbone is in shares
    of the processes instead (train.sharding), and each forward pass is one of all of them. losses: what is minimised,
    and the quality of the last batch.
    """

    def __init__(
        self, config: EasyDict, records: Records, world: World, counts: list[int], *, resumes: bool = False
    ) -> None:
        """counts: images of each process in a micro-step. resumes: a checkpoint is going to be read into it."""
        if config.train.precision not in AUTOCAST:
            raise ValueError(f"config.train.precision is '{config.train.precision}'; it must be one of {[*AUTOCAST]}")
        self.config, self.records, self.world, self.counts = config, records, world, counts
        self.autocast_dtype = AUTOCAST[config.train.precision]
        assembled = assemble(config, resumes=resumes)
        self.attached, self.adapter = assembled.report, assembled.adapter
        self.in_shares = sharding.wanted(config, assembled.model)
        start = sharding.shard if self.in_shares else torch.nn.Module.to
        self.model = start(assembled.model, world.device)
        self.losses = Losses(config, self.model, records, world, counts)
        self.classifier = self.losses.classifier
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        if config.train.compile:
            # else a block whose activations are recomputed may not add its auxiliary loss to the gate's
            torch._dynamo.config.skip_fwd_side_effects_in_bwd_under_checkpoint = True
            self.model.compile()
        self.model.train()
        self._statistics_move = self.model.statistics_move
        self.network = self.model
        if self.trained and not self.in_shares:
            # statistics of a frozen base stand still, so there is nothing to broadcast
            self.network = DistributedDataParallel(self.model, forward_sync_buffers=self._statistics_move)
        self.optimizer = build_optimizer(config, self.model, self.classifier, self.adapter)
        if self.in_shares:
            sharding.settle(self.optimizer)
        self.classifier.bind(self.optimizer)
        self.scaler = ShardedGradScaler(world.device.type, enabled=config.train.precision == "fp16")
        norms = [m for m in self.model.backbone.modules() if isinstance(m, _BatchNorm) and m.training]
        self._that_may_rest = norms if config.schedule.unfreeze else []
        decay = config.optim.average
        self.average = WeightAverage(self.model, decay) if decay else None
        self.guard = NonFiniteGuard(self.model, self.classifier, config.train.non_finite_limit)
        self._image: Tensor | None = None
        self.frozen: FrozenWeights | None = None
        if self.autocast_dtype is not None and self.model.frozen_base and not self.in_shares:
            self.frozen = FrozenWeights(self.model, self.autocast_dtype)
        self._settle_buckets()

    def backward(self, batch: Batch, update: int, micro_step: int) -> Tensor:
        """Gradients of micro-step 0, 1, ... of an update are added to those there are. Returns its share, ()."""
        alone, count = self.network is self.model, self.config.optim.accumulate
        if self.in_shares and self._statistics_move and micro_step == 0:  # as DDP does
            sharding.spread(self.model.buffers())
        with contextlib.nullcontext() if micro_step == count - 1 or alone else self.network.no_sync():
            loss = self.loss(batch, update, micro_step) / count
            self.scaler.scale(loss).backward()
        return loss.detach()

    def loss(self, batch: Batch, update: int, micro_step: int = 0) -> Tensor:
        """Classifier, objectives and the layers' auxiliary losses on one batch of this process, ()."""
        seen = self.losses.seen(batch)
        self._image = batch.image
        with self._autocast():
            embedding, auxiliary = self.network(seen.image, seen.score)
        return self.losses(embedding.float(), seen, batch, update, micro_step) + auxiliary

    def gradient_norm(self) -> Tensor:
        """Norm of the network's gradients, (), before they are clipped to optim.clip. Layers that rest have none."""
        for group in self.optimizer.param_groups:
            if group["rests"]:
                for parameter in group["params"]:
                    parameter.grad = None
        if self.in_shares:
            sharding.average_the_rest(self.trained)
            return sharding.clip_gradients(self.trained, self.config.optim.clip or float("inf"))
        self.scaler.unscale_(self.optimizer)
        return torch.nn.utils.clip_grad_norm_(self.trained, self.config.optim.clip or float("inf"))

    def step(self, update: int) -> None:
        """Move the weights, by update 0, 1, ..."""
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.guard.passed()
        if self.average is not None:
            self.average.follow(update + 1)

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """The model is what is evaluated and delivered: with averaged weights, where they are averaged."""
        with self.exact(), contextlib.nullcontext() if self.average is None else self.average.shown():
            yield

    def exact(self) -> AbstractContextManager[None]:
        """A frozen base has its float32 weights, where training has them rounded."""
        return contextlib.nullcontext() if self.frozen is None else self.frozen.exact()

    def skip(self) -> None:
        """Leave weights and statistics as they were before this update; a loss scale shrinks."""
        self.scaler.update()
        self.optimizer.zero_grad()
        self.guard.skipped()

    def hopeless(self) -> bool:
        """Whether so many updates were skipped in a row that the run should end.

        Overflows of fp16 are ordinary until the loss scale, which they halve, has come down to 1.
        """
        shrinking = self.scaler.is_enabled() and self.scaler.get_scale() > 1
        return self.guard.in_a_row >= self.guard.limit and not shrinking

    def report(self) -> dict[str, float]:
        """What the adapter tells of itself, by log tag, on some images of the last batch; {} where it tells nothing."""
        tell = getattr(self.adapter, "report", None)
        if tell is None:
            return {}
        score = self.losses.score if self.model.needs_gate else None
        score = None if score is None else score[:REPORTED]
        with self._autocast():
            return tell(self.model.backbone, lambda: self.model.forward(self._image[:REPORTED], score))

    def _autocast(self) -> AbstractContextManager[None]:
        # of a backbone in shares the rounded weights would pile up during a forward pass
        on, keeps = self.autocast_dtype is not None, not self.in_shares
        return torch.autocast(self.world.device.type, dtype=self.autocast_dtype, enabled=on, cache_enabled=keeps)

    def share_statistics(self) -> None:
        """Give every process the main one's buffers: DDP does so at the next training forward only."""
        if self._statistics_move:
            for buffer in self.model.buffers():
                dist.broadcast(buffer, 0)
            for mean in [] if self.average is None else self.average.tensors.values():
                if not is_share(mean):
                    dist.broadcast(mean, 0)

    def rest(self) -> None:
        """Norms of layers that rest keep their statistics, too; once the schedule has been applied to an update."""
        still = {id(p) for group in self.optimizer.param_groups if group["rests"] for p in group["params"]}
        for norm in self._that_may_rest:
            norm.train(not any(id(p) in still for p in norm.parameters(recurse=False)))

    def _settle_buckets(self) -> None:
        """Let DDP reorder its buckets now, as it does after its first backward, and not after the first update.

        The order of the sums changes with it: a resumed run of three processes and more would add its first update
        otherwise than the undisturbed one. For two a + b = b + a.
        """
        if self.network is self.model or self.world.world_size < SETTLED_FROM:
            return
        states = random_state.capture()
        image = torch.zeros(self.counts[self.world.global_rank], 3, IMAGE_SIZE, IMAGE_SIZE, device=self.world.device)
        with self._autocast():
            embedding, auxiliary = self.network(image, self.model.middle_scores(len(image)))
        (0.0 * embedding.float().sum() + 0.0 * auxiliary).backward()
        self.optimizer.zero_grad()
        self.guard.put_back()
        random_state.restore(states)
