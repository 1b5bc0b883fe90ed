"""The engine: builds everything a recipe names, then fetch, step, log, evaluate, save."""

from __future__ import annotations

import contextlib
import json
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from easydict import EasyDict
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler
from torch.nn.parallel import DistributedDataParallel

import adapters
from recognition import checkpoint, plan
from recognition.config import arguments, to_json
from recognition.data.order import SampleOrder
from recognition.data.pairs import RecordImages
from recognition.data.records import Records
from recognition.distributed import World, gather
from recognition.evaluation import report
from recognition.evaluation.embed import embed
from recognition.evaluation.runner import evaluate, load_results, save_results, scalars
from recognition.inputs import build_loader, open_records
from recognition.logs import Logs, provenance
from recognition.margins import MARGINS
from recognition.model import FaceModel, assemble, count_parameters
from recognition.objectives import OBJECTIVES
from recognition.optim import build_optimizer, build_schedule
from recognition.partial_fc import LabelError, PartialFC
from recognition.types import Batch, ObjectiveContext
from recognition.weights import write_weights

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
        self.autocast_dtype = AUTOCAST[config.train.precision]
        self.records = open_records(config)
        self.resumed_from, stored = self._find_checkpoint()
        self.global_batch = stored.get("global_batch", config.data.batch_size * world.world_size)
        self.order = SampleOrder(
            self.records.num_images, config.run.seed, self.global_batch, world.global_rank, world.world_size
        )
        self.loader = build_loader(config, self.records, self.order, world)
        self._build_network()
        self.images_per_update = self.global_batch * config.optim.accumulate
        epoch = self.records.num_images / self.images_per_update
        self.total = max(1, round(config.schedule.epochs * epoch))
        self.warmup = round(config.schedule.warmup_epochs * epoch)
        self.schedule = build_schedule(config, self.optimizer, self.total, self.warmup)
        self.update = 0
        self.logs: Logs | None = None
        self._waited = self._counted = self.train_seconds = 0.0
        self._scores: deque[Tensor] = deque(maxlen=50)  # of logged updates, for the histogram

    def train(self) -> None:
        """Train to the end of the schedule: continue or start, then evaluate and deliver the model."""
        if not self._start():
            return
        batches = self.loader.batches(self.update * self.config.optim.accumulate)
        try:
            while self.update < self.total:
                loss = self.train_update(batches)
                self._log(loss)
                if self._due(self.config.evaluation.every) and self.update < self.total:
                    self.evaluate("during")
                if self._due(self.config.train.save_every) or self.update == self.total:
                    self.save()
        finally:
            batches.close()
        self.evaluate("after")
        self.deliver()

    def train_update(self, batches: Iterator[Batch]) -> Tensor:
        """One optimizer update from the next micro-steps. Returns the loss, (), without waiting for the device."""
        began_update = time.perf_counter()
        count = self.config.optim.accumulate
        losses = []
        for micro_step in range(count):
            began = time.perf_counter()
            self.batch = next(batches)
            self._waited += time.perf_counter() - began
            last = micro_step == count - 1
            with contextlib.nullcontext() if last or self.network is self.model else self.network.no_sync():
                loss = self.loss(self.batch) / count
                self.scaler.scale(loss).backward()
            losses.append(loss.detach())
        self.scaler.unscale_(self.optimizer)
        clip = self.config.optim.clip or float("inf")
        self.gradient_norm = torch.nn.utils.clip_grad_norm_(self.trained, clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.lr = self.schedule.get_last_lr()[0]
        self.schedule.step()
        self.optimizer.zero_grad()
        self.update += 1
        self.train_seconds += time.perf_counter() - began_update
        return torch.stack(losses).sum()

    def loss(self, batch: Batch) -> Tensor:
        """Classifier, objectives and the layers' auxiliary losses on one batch of this process, ()."""
        self.score = batch.score if batch.score is not None else self.model.score(batch.image)
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
        if not self.config.evaluation.sets:
            return
        results = evaluate(self.model, self.config.evaluation, self.world)
        self.results = {**self.results, when: results}
        if self.world.is_main:
            self.logs.scalars({f"{when}/{name}": value for name, value in scalars(results).items()}, self.update)
            self._picture("roc", report.roc_figure(self.results))
            save_results(self.run / "report" / when, results)

    def save(self) -> None:
        """Write a checkpoint by all processes."""
        state = {
            "update": self.update,
            "global_batch": self.global_batch,
            "fingerprint": self.records.fingerprint(),
            "schedule": {"last_epoch": self.schedule.last_epoch},
            "scaler": self.scaler.state_dict(),
            "train_seconds": self.train_seconds,
        }
        folder, keep = self.run / "checkpoints", self.config.train.keep
        path = checkpoint.save(folder, self.update, self.model, self.classifier, self.optimizer, state, keep)
        self.logs.say(f"saved {path}")

    def deliver(self) -> None:
        """Write what the training made, adapter or whole backbone, and the report."""
        if self.world.is_main:
            backbone = arguments(self.config.backbone, "backbone")
            card = {
                "backbone": self.config.backbone.name,
                "arguments": backbone,
                "base_weights": self.config.backbone.weights,
                "adapter": dict(self.config.adapter),
                "gate": dict(self.config.gate),
                "scorer": dict(self.config.scorer),
                "records": self.records.fingerprint(),
                **provenance(),
            }
            total, trainable = count_parameters(self.model)
            summary = {"updates": self.update, "train_seconds": self.train_seconds}
            summary |= {"parameters": total, "trainable_parameters": trainable}
            (self.run / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
            if self._scores:
                self._picture("scores", report.score_figure(torch.cat([*self._scores]), self.model.quality_gate))
            path = self.run / "model" / "adapter.safetensors"
            write_weights(path, adapters.state(self.model.backbone), card)
            self.logs.say(f"model   {path}")
            if self.results:
                self.logs.say(f"report  {report.write_report(self.run / 'report', self.results)}")
            self.logs.say(f"logs    {self.run / 'logs'}  (tensorboard --logdir {self.config.run.root})")

    def dry_run(self) -> None:
        """Print what the run would be, take one step, write nothing."""
        for line in plan.describe(self):
            if self.world.is_main:
                print(line)
        batches = self.loader.batches(0)
        loss = self.train_update(batches)
        batches.close()
        if self.world.is_main:
            print(f"one update done, loss {loss.item():.4f}; nothing was written")

    def close(self) -> None:
        """Let go of files, loader processes and everything that holds the process group."""
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
        self.network = self.model
        if self.trained:  # an adapter may train the class centres alone
            self.network = DistributedDataParallel(self.model)
        self.network.train()
        self.optimizer = build_optimizer(config, self.model, self.classifier, assembled.adapter)
        self.classifier.bind(self.optimizer)
        self.scaler = ShardedGradScaler(device.type, enabled=config.train.precision == "fp16")

    def _find_checkpoint(self) -> tuple[Path | None, dict]:
        wanted = self.config.train.resume
        if wanted == "never":
            return None, {}
        path = checkpoint.newest(self.run / "checkpoints") if wanted == "auto" else Path(wanted)
        if path is None:
            return None, {}
        if not (path / checkpoint.STATE).is_file():
            raise ValueError(f"train.resume={wanted} is no complete checkpoint; name a folder such as step_000000100")
        state = json.loads((path / checkpoint.STATE).read_text())
        if state["fingerprint"] != self.records.fingerprint():
            raise ValueError(
                f"{path} was trained on other records than config.data.records names; "
                "give the same ones, or start anew with train.resume=never"
            )
        return path, state

    def _start(self) -> bool:
        """Continue the checkpoint, or prepare a new run. False where the run is complete already."""
        self.results: dict[str, dict] = {}
        if self.resumed_from is not None:
            state = checkpoint.restore(self.resumed_from, self.model, self.classifier, self.optimizer)
            self.update, self.train_seconds = state["update"], state["train_seconds"]
            self.schedule.last_epoch = state["schedule"]["last_epoch"] - 1
            self.schedule.step()
            self.scaler.load_state_dict(state["scaler"])
        elif self.world.is_main:
            plan.set_aside(self.run)
        self.logs = Logs(self.run, total=self.total, first=self.update, speaks=self.world.is_main)
        if self.world.is_main:
            (self.run / "config.json").write_text(to_json(self.config))
            (self.run / "provenance.json").write_text(json.dumps(provenance(), indent=2) + "\n")
            for line in plan.describe(self):
                self.logs.say(line)
        if self.resumed_from is not None:
            self.logs.say(f"continuing {self.resumed_from} at update {self.update}")
            saved = sorted((self.run / "report").glob("*/results.json"))
            self.results = {path.parent.name: load_results(path.parent) for path in saved}
            if self.update >= self.total and (self.run / "model" / "adapter.safetensors").is_file():
                self.logs.say("the run is complete; train.resume=never starts it anew")
                return False
            return True
        if self.config.classifier.init == "class_means":
            self.classifier.init_centres(class_means(self.model, self.records, self.world))
        elif self.config.classifier.init != "random":
            raise ValueError(f"config.classifier.init is '{self.config.classifier.init}'; random or class_means")
        if self.world.is_main:
            self._picture_start()
        if self.config.evaluation.at_start:
            self.evaluate("before")
        return True

    def _objectives_loss(self, embedding: Tensor, batch: Batch, counts: list[int]) -> Tensor:
        generator = torch.Generator().manual_seed(self.config.run.seed * 1_000_003 + self.update)
        score = None if self.score is None else gather(self.score, counts)
        context = ObjectiveContext(batch, score, generator, self.network)
        everyone, label = gather(embedding, counts), gather(batch.label, counts)
        weights = [chosen.get("weight", 1.0) for chosen in self.config.objectives]
        return sum(w * o(everyone, label, context) for w, o in zip(weights, self.objectives, strict=True))

    def _picture(self, name: str, figure: Figure) -> None:
        """To the board, and as a PNG into the report's folder."""
        self.logs.figure(f"pictures/{name}", figure, self.update)
        folder = self.run / "report"
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / f"{name}.png", dpi=110)

    def _picture_start(self) -> None:
        """Faces of the records at their resolutions."""
        some = np.linspace(0, len(self.records) - 1, 6).astype(int)
        self._picture("faces", report.face_figure([self.records.read(int(i)) for i in some]))

    def _due(self, every: float) -> bool:
        """True where the last update crossed a multiple of `every` epochs."""
        if not every:
            return False
        size = every * self.records.num_images / self.images_per_update
        return int(self.update / size) > int((self.update - 1) / size)

    def _log(self, loss: Tensor) -> None:
        self.logs.advance()
        now = time.perf_counter()
        every = self.config.train.log_every
        if self.update % every and self.update != self.total:
            return
        value = loss.item()
        if value != value:
            raise RuntimeError(f"the loss is not a number, within updates {self.update - every + 1} to {self.update}")
        seconds, updates = now - (self._counted or now), every
        self._counted = now
        values = {"train/loss": value, "train/lr": self.lr}
        values["train/gradient_norm"] = float(self.gradient_norm)
        values["train/epoch"] = self.update * self.images_per_update / self.records.num_images
        if seconds:
            values["speed/images_per_second"] = updates * self.images_per_update / seconds
            values["speed/data_wait_share"] = min(1.0, self._waited / seconds)
        self._waited = 0.0
        if self.scaler.is_enabled():
            values["train/loss_scale"] = self.scaler.get_scale()
        if self.score is not None:
            self._scores.append(self.score.cpu())
            gate = self.model.quality_gate(self.score).detach()
            values["quality/gate_mean"] = gate.mean().item()
            self.logs.histogram("quality/gate", gate, self.update)
            self.logs.histogram("quality/score", self.score, self.update)
        self.logs.scalars(values, self.update)


def class_means(model: FaceModel, records: Records, world: World) -> Tensor:
    """Unit mean of each class's unit embeddings, (C, D) float32, of the records as they are stored."""
    images = RecordImages((records, np.arange(len(records))))
    embeddings = F.normalize(embed(model, images, world=world))
    label = torch.from_numpy(records.labels).to(embeddings.device)
    sums = embeddings.new_zeros(records.num_classes, embeddings.shape[1]).index_add_(0, label, embeddings)
    return F.normalize(sums)
