"""The engine: builds everything a recipe names, then fetch, step, log, evaluate, save."""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from easydict import EasyDict
from torch import Tensor
from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler
from torch.nn.parallel import DistributedDataParallel

from recognition import checkpoint, delivery, plan
from recognition.config import arguments
from recognition.data.order import SampleOrder
from recognition.data.pairs import RecordImages
from recognition.distributed import World, gather
from recognition.evaluation import report
from recognition.evaluation.runner import evaluate, load_results, save_results, scalars
from recognition.evaluation.sets import open_sets
from recognition.inputs import build_loader, class_means, open_records
from recognition.logs import Logs
from recognition.margins import MARGINS
from recognition.model import assemble
from recognition.objectives import OBJECTIVES
from recognition.optim import Schedule, build_optimizer
from recognition.partial_fc import LabelError, PartialFC
from recognition.types import Batch, ObjectiveContext

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Trainer:
    """One run of one recipe on all processes.

    Units of time: a micro-step takes one global batch from the sample order; `optim.accumulate` of them make an update;
    learning rate, logs, evaluations and checkpoints count updates.
    """

    def __init__(self, config: EasyDict, world: World) -> None:
        self.config, self.world = config, world
        self.run = Path(config.run.root) / config.run.name
        if config.train.precision not in AUTOCAST:
            raise ValueError(f"config.train.precision is '{config.train.precision}'; it must be one of {[*AUTOCAST]}")
        if config.classifier.init not in ("random", "class_means"):
            raise ValueError(f"config.classifier.init is '{config.classifier.init}'; random or class_means")
        self.autocast_dtype = AUTOCAST[config.train.precision]
        self.records = open_records(config)
        self.sets = open_sets(config.evaluation) if config.evaluation.sets else []
        self.resumed_from, self.stored = checkpoint.to_resume(config, self.run, self.records.fingerprint())
        self.global_batch = self.stored.get("global_batch", config.data.batch_size * world.world_size)
        self.order = SampleOrder(
            self.records.num_images, config.run.seed, self.global_batch, world.global_rank, world.world_size
        )
        self.loader = build_loader(config, self.records, self.order, world)
        self.images_per_update = self.global_batch * config.optim.accumulate
        epoch = self.records.num_images / self.images_per_update
        total, warmup = max(1, round(config.schedule.epochs * epoch)), round(config.schedule.warmup_epochs * epoch)
        self.schedule = Schedule(config.schedule, total, warmup)
        self._build_network()
        self.update, self.train_seconds = 0, 0.0
        self.results: dict[str, dict] = {}
        self.logs: Logs | None = None
        self._waited, self._logged_at = 0.0, (0, 0.0)  # seconds; update and seconds of training at the last log line
        self._scores: deque[Tensor] = deque(maxlen=50)  # of logged updates, for the histogram

    def train(self) -> None:
        """Train to the end of the schedule: continue or start, then evaluate and deliver the model."""
        if not self._start():
            return
        with contextlib.closing(self.loader.batches(self.update * self.config.optim.accumulate)) as batches:
            while self.update < self.schedule.total:
                loss = self.train_update(batches)
                self._log(loss)
                last = self.update == self.schedule.total
                if self._due(self.config.evaluation.every) and not last:
                    self.evaluate("during")
                if self._due(self.config.train.save_every) or last:
                    self.save()
        self.evaluate("after")
        self.deliver()

    def train_update(self, batches: Iterator[Batch]) -> Tensor:
        """One optimizer update from the next micro-steps. Returns the loss, (), without waiting for the device."""
        began = time.perf_counter()
        self.lr = self.schedule.apply(self.optimizer, self.update)
        count = self.config.optim.accumulate
        losses = []
        for micro_step in range(count):
            asked = time.perf_counter()
            batch = next(batches)
            self._waited += time.perf_counter() - asked
            torch.manual_seed(self._seed_of(micro_step))
            accumulates = micro_step < count - 1 and self.network is not self.model
            with self.network.no_sync() if accumulates else contextlib.nullcontext():
                loss = self.loss(batch) / count
                self.scaler.scale(loss).backward()
            losses.append(loss.detach())
        self.scaler.unscale_(self.optimizer)
        self.gradient_norm = torch.nn.utils.clip_grad_norm_(self.trained, self.config.optim.clip or float("inf"))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.update += 1
        self.train_seconds += time.perf_counter() - began
        self.last_loss = torch.stack(losses).sum()
        return self.last_loss

    def _seed_of(self, micro_step: int) -> int:
        """Of dropout, DropPath and masks: another one for each micro-step and process, the same after a resume."""
        place = [self.config.run.seed, self.update, micro_step, self.world.global_rank]
        return int(np.random.SeedSequence(place).generate_state(1)[0])

    def loss(self, batch: Batch) -> Tensor:
        """Classifier, objectives and the layers' auxiliary losses on one batch of this process, ()."""
        self.score = self.model.score(batch.image) if batch.score is None else batch.score
        on = self.autocast_dtype is not None
        with torch.autocast(self.world.device.type, dtype=self.autocast_dtype, enabled=on):
            embedding, auxiliary = self.network(batch.image, self.score)
        embedding, counts = embedding.float(), self.order.counts()
        try:
            loss = self.classifier(embedding, batch.label, score=self.score, counts=counts, step=self.update)
        except LabelError as error:
            indices = [self.records.index_of(*batch.key[row].tolist()) for row in error.rows]
            places = ", ".join(map(self.records.where, indices)) or "the records of another process"
            raise ValueError(f"{error}; in {places}") from None
        if self.objectives:
            loss = loss + self._objectives_loss(embedding, batch, counts)
        return loss + auxiliary

    def evaluate(self, when: str) -> None:
        """Evaluate on every set of the recipe by all processes. when: before, during or after training."""
        if not self.sets:
            return
        self._share_statistics()
        results = evaluate(self.model, self.config.evaluation, self.world, sets=self.sets)
        self.results[when] = results
        if self.world.is_main:
            self.logs.scalars({f"{when}/{tag}": v for tag, v in scalars(results).items()}, self.update, line=False)
            for tag, figure in report.figures(self.results).items():
                self.logs.figure(tag, figure, self.update)
            for name in results:
                first = next(iter(next(iter(results[name].values()))))  # accuracy, or the lowest rank
                self.logs.say(f"{name}, {when} training\n{report.table({when: results}, name, first)}")
            save_results(self.run / "report" / when, results)

    def save(self) -> None:
        """Write a checkpoint by all processes. RuntimeError where the loss is not finite: nothing is overwritten."""
        if not torch.isfinite(self.last_loss):
            raise RuntimeError(f"the loss is {self.last_loss.item()} at update {self.update}; no checkpoint is written")
        self._share_statistics()
        state = {
            "update": self.update,
            "global_batch": self.global_batch,
            "fingerprint": self.records.fingerprint(),
            "scaler": self.scaler.state_dict(),
            "train_seconds": self.train_seconds,
        }
        folder, keep = self.run / "checkpoints", self.config.train.keep
        path = checkpoint.save(folder, self.update, self.model, self.classifier, self.optimizer, state, keep)
        self.logs.say(f"saved {path}")

    def deliver(self) -> None:
        """Write what the training made, adapter or whole backbone, and the report."""
        if not self.world.is_main:
            return
        delivery.write_summary(self.run, self.model, self.update, self.train_seconds)
        if self._scores:
            self._picture("scores", report.score_figure(torch.cat([*self._scores]), self.model.quality_gate))
        model = delivery.write_model(self.run, self.config, self.model, self.records.fingerprint())
        self.logs.say(f"model   {model}")
        if self.results:
            self.logs.say(f"report  {report.write_report(self.run / 'report', self.results)}")
        self.logs.say(f"logs    {self.run / 'logs'}  (tensorboard --logdir {self.config.run.root})")

    def dry_run(self) -> None:
        """Print what the run would be, take one step, write nothing."""
        lines = plan.describe(self)
        with contextlib.closing(self.loader.batches(0)) as batches:
            loss = self.train_update(batches)
        if self.world.is_main:
            print(*lines, f"one update done, loss {loss.item():.4f}; nothing was written", sep="\n")

    def close(self) -> None:
        """Let go of files and of everything that holds the process group."""
        if self.logs is not None:
            self.logs.close()
        self.network = self.model = self.classifier = self.scaler = None

    def _build_network(self) -> None:
        config, device = self.config, self.world.device
        assembled = assemble(config)
        self.model, self.attached = assembled.model.to(device), assembled.report
        self.objectives = torch.nn.ModuleList(
            OBJECTIVES.create(chosen.name, **arguments(chosen, "objectives")) for chosen in config.objectives
        ).to(device)
        if any(p.requires_grad for p in self.objectives.parameters()):
            raise ValueError("config.objectives: an objective has trainable parameters, which no optimizer would reach")
        self.classifier = PartialFC(
            self.model.backbone.embedding_size,
            self.records.num_classes,
            MARGINS.create(config.margin.name, **arguments(config.margin, "margin")),
            sample_rate=config.classifier.sample_rate,
            seed=config.run.seed,
            filter_threshold=config.classifier.filter_threshold,
        ).to(device)
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        if config.train.compile:
            self.model.compile()
        self.model.train()
        self.network = self.model
        if self.trained:  # statistics of a frozen base stand still, so there is nothing to broadcast
            self.network = DistributedDataParallel(self.model, forward_sync_buffers=not self.model.frozen_base)
        self.optimizer = build_optimizer(config, self.model, self.classifier, assembled.adapter)
        self.classifier.bind(self.optimizer)
        self.scaler = ShardedGradScaler(device.type, enabled=config.train.precision == "fp16")

    def _start(self) -> bool:
        """Continue the checkpoint, or prepare a new run. False where the run is complete already."""
        aside = delivery.set_aside(self.run) if self.world.is_main and self.resumed_from is None else None
        self.update = self.stored.get("update", 0)
        self.logs = Logs(self.run, total=self.schedule.total, first=self.update, speaks=self.world.is_main)
        if aside is not None:
            self.logs.say(f"kept the earlier run of this name as {aside}")
        if self.world.is_main:
            if not (self.run / "config.json").is_file():
                delivery.write_start(self.run, self.config, self.records.fingerprint())
            self.logs.say("\n".join(plan.describe(self)))
        if self.resumed_from is not None:
            return self._resume()
        if self.config.classifier.init == "class_means":
            self.classifier.init_centres(class_means(self.model, self.records, self.world))
        if self.world.is_main:
            some = np.linspace(0, len(self.records) - 1, 6).astype(int)
            self._picture("faces", report.face_figure(RecordImages((self.records, some))))
        if self.config.evaluation.at_start:
            self.evaluate("before")
        return True

    def _resume(self) -> bool:
        checkpoint.restore(self.resumed_from, self.model, self.classifier, self.optimizer)
        self.scaler.load_state_dict(self.stored["scaler"])
        self.train_seconds = self.stored["train_seconds"]
        self._logged_at = (self.update, self.train_seconds)
        self.logs.say(f"continuing {self.resumed_from} at update {self.update}")
        saved = sorted((self.run / "report").glob("*/results.json"), key=lambda path: path.stat().st_mtime)
        self.results = {path.parent.name: load_results(path.parent) for path in saved}
        complete = self.update >= self.schedule.total and (self.run / delivery.MODEL).is_file()
        if complete:
            self.logs.say("the run is complete; train.resume=never starts it anew")
        return not complete

    def _share_statistics(self) -> None:
        """Give every process the main one's buffers: DDP does so at the next training forward only."""
        if not self.model.frozen_base:
            for buffer in self.model.buffers():
                dist.broadcast(buffer, 0)

    def _objectives_loss(self, embedding: Tensor, batch: Batch, counts: list[int]) -> Tensor:
        generator = torch.Generator().manual_seed(self.config.run.seed * 1_000_003 + self.update)
        score = None if self.score is None else gather(self.score, counts)
        context = ObjectiveContext(batch, score, generator, self.network)
        everyone, label = gather(embedding, counts), gather(batch.label, counts)
        weights = [chosen.get("weight", 1.0) for chosen in self.config.objectives]
        return sum(w * o(everyone, label, context) for w, o in zip(weights, self.objectives, strict=True))

    def _due(self, every: float) -> bool:
        """True where the last update crossed a multiple of `every` epochs."""
        size = every * self.records.num_images / self.images_per_update
        return bool(size) and int(self.update / size) > int((self.update - 1) / size)

    def _picture(self, name: str, figure: report.Figure) -> None:
        self.logs.figure(f"pictures/{name}", figure, self.update)
        delivery.write_picture(self.run, name, figure)

    def _log(self, loss: Tensor) -> None:
        self.logs.advance()
        if self.update % self.config.train.log_every and self.update != self.schedule.total:
            return
        asked = time.perf_counter()
        value = loss.item()  # waits for the device
        self.train_seconds += time.perf_counter() - asked
        first, before = self._logged_at
        updates, seconds = self.update - first, self.train_seconds - before
        self._logged_at = (self.update, self.train_seconds)
        values = {
            "train/loss": value,
            "train/lr": self.lr,
            "train/gradient_norm": float(self.gradient_norm),
            "train/epoch": self.update * self.images_per_update / self.records.num_images,
            "speed/images_per_second": updates * self.images_per_update / seconds,
            "speed/data_wait_share": self._waited / seconds,
        }
        self._waited = 0.0
        if self.scaler.is_enabled():
            values["train/loss_scale"] = self.scaler.get_scale()
        if self.score is not None:
            gate = self.model.quality_gate(self.score).detach()
            values["quality/gate_mean"] = gate.mean().item()
            self.logs.histogram("quality/gate", gate, self.update)
            self.logs.histogram("quality/score", self.score, self.update)
            self._scores.append(self.score.cpu())
        self.logs.scalars(values, self.update)
        if not math.isfinite(value):
            raise RuntimeError(f"the loss is {value}, since some update of {first + 1} to {self.update}")
