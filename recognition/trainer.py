"""The engine: builds everything a recipe names, then fetch, step, log, save, evaluate."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from easydict import EasyDict
from torch import Tensor

import adapters
from iqa import GateRange
from iqa._gate import FEWEST
from recognition import checkpoint, delivery, doctor, plan
from recognition.checkpoint import SaveError, State
from recognition.distributed import World, any_process, gather
from recognition.evaluation import report
from recognition.evaluations import Evaluations
from recognition.files import alone
from recognition.inputs import build_loader, build_order, open_bad_records, open_records
from recognition.keeper import Keeper
from recognition.learner import Learner
from recognition.logs import Logs
from recognition.meter import Meter
from recognition.optim import Schedule
from recognition.random_state import seed_all
from recognition.signals import StopSignals
from recognition.start import begin, show_faces
from recognition.types import Batch
from recognition.weights import sha256

NOT_SAVED = (
    "a checkpoint could not be written, and train.on_save_error=stop; free space and give the same command again"
)


class Trainer:
    """One run of one recipe on all processes.

    Units of time: a micro-step takes one global batch from the sample order; `optim.accumulate` of them make an update;
    learning rate, logs, evaluations and checkpoints count updates.
    """

    def __init__(self, config: EasyDict, world: World) -> None:
        self.config, self.world = config, world
        self.run = Path(config.run.root) / config.run.name
        if config.classifier.init not in ("random", "class_means"):
            checkpoint.named(config.classifier.init)
        if config.train.on_save_error not in ("continue", "stop"):
            raise ValueError(f"config.train.on_save_error is '{config.train.on_save_error}'; continue or stop")
        self.records = open_records(config)
        self.evaluations = Evaluations(config.evaluation, world)
        delivery.pin_base(config, self.run)
        self.base = delivery.read_base(config.backbone.weights, whole=world.is_main)
        start = config.adapter.get("weights")
        self.adapter_start = sha256(adapters.tensor_file(start)) if start else ""
        self.resumed_from, self.stored = checkpoint.to_resume(
            config, self.run, self.records.fingerprint(), self.base.sha256, self.adapter_start
        )
        self.global_batch = self.stored.global_batch if self.stored else config.data.batch_size * world.world_size
        self.order = build_order(config, self.records, self.global_batch, world)
        self.bad_records = open_bad_records(config, self.records, self.run / "bad_records.jsonl")
        self.loader = build_loader(config, self.records, self.order, world, self.bad_records)
        self.images_per_update = self.global_batch * config.optim.accumulate
        epoch = self.order.epoch_size / self.images_per_update
        total, warmup = max(1, round(config.schedule.epochs * epoch)), round(config.schedule.warmup_epochs * epoch)
        self.schedule = Schedule(config.schedule, total, warmup)
        resumes = self.stored is not None
        self.learner = Learner(config, self.records, world, self.order.counts(), resumes=resumes)
        self.update, self.meter, self.signals = 0, Meter(), StopSignals()
        self.stopped_by = ""  # name of the signal that ended training early
        self.logs: Logs | None = None
        self.keeper: Keeper | None = None
        self._late = False  # a checkpoint is due by time
        self._gates: GateRange | None = GateRange()  # of the first log lines

    def train(self) -> None:
        """Train to the end of the schedule: continue or start, then evaluate and deliver the model.

        A signal ends it earlier, with a checkpoint: `stopped_by` then names it.
        """
        lock = self.run.with_name(f".{self.run.name}.lock")
        with alone(lock, f"{self.run} is being trained") if self.world.is_main else contextlib.nullcontext():
            if begin(self):
                self._train()

    def _train(self) -> None:
        first_step = self.update * self.config.optim.accumulate
        self.signals.start()
        with contextlib.closing(self.loader.batches(first_step)) as batches:
            while self.update < self.schedule.total and not self.stopped_by:
                loss = self.train_update(batches)
                self._log(loss)
                if self.update == 1 and self.world.is_main:
                    show_faces(self)
                last = self.update == self.schedule.total
                if self._save_due() or last or self.stopped_by:
                    self.save()
                if not last and not self.stopped_by and self.evaluations.come(self):
                    self.evaluations.run(self, "during")
        self.keeper.wait()
        if self.stopped_by:  # signals are watched until this process ends: nobody is to kill it while it does
            self.logs.say(f"stopped by {self.stopped_by} at update {self.update}; the same command continues")
            return
        self.signals.stop()
        if self.keeper.failed:
            raise SaveError(NOT_SAVED)
        self.evaluations.run(self, "after")
        self.deliver()

    def train_update(self, batches: Iterator[Batch]) -> Tensor:
        """One optimizer update from the next micro-steps, or none where it is not finite. Returns the loss, ()."""
        began, learner = time.perf_counter(), self.learner
        self.lr = self.schedule.apply(learner.optimizer, self.update)
        learner.rest()
        count = self.config.optim.accumulate
        losses, keys = [], []
        for micro_step in range(count):
            batch = self.meter.next(batches)
            # dropout, DropPath, masks: another draw for each micro-step and process, the same after a resume
            seed_all(self.config.run.seed, self.update, micro_step, self.world.global_rank)
            losses.append(learner.backward(batch, self.update, micro_step))
            keys.append(batch.key)
        loss, self.gradient_norm = torch.stack(losses).sum(), learner.gradient_norm()
        finite = self._all_agree(learner.guard.finite(loss, self.gradient_norm))
        if finite:
            learner.step(self.update)
        else:
            learner.skip()
        self.update += 1
        self.meter.seconds += time.perf_counter() - began
        if not finite:
            self._skipped(loss, keys)
        return loss

    def save(self) -> None:
        """Begin a checkpoint by all processes."""
        state = State(
            update=self.update,
            position=self.update * self.images_per_update,
            global_batch=self.global_batch,
            world_size=self.world.world_size,
            fingerprint=self.records.fingerprint(),
            base_sha256=self.base.sha256,
            scaler=self.learner.scaler.state_dict(),
            skipped=self.learner.guard.state_dict(),
            train_seconds=self.meter.seconds,
            best=None if self.keeper.best is None else asdict(self.keeper.best),
            adapter_sha256=self.adapter_start,
            evaluation=self.evaluations.pace.state_dict(),
        )
        texts: dict[str, str] = {}
        if self.world.is_main:
            model = self.learner.model
            try:  # a page for people: no reason to lose a checkpoint
                texts = delivery.card_texts(self.run, self.config, model, self.origin(), self.update)
            except (OSError, ValueError) as error:
                self.logs.say(f"WARNING: the checkpoint of update {self.update} has no model card: {error}")
        last = bool(self.stopped_by) or self.update == self.schedule.total
        self.keeper.save(self.learner, state, texts, last=last)

    def origin(self) -> delivery.Origin:
        """What the model card tells of data and base."""
        return delivery.Origin(self.records.fingerprint(), self.base, len(self.records), self.records.num_classes)

    def deliver(self) -> None:
        """Write what the training made, adapter or whole backbone, and the report."""
        model, state = self.learner.model, None
        if self.learner.in_shares:
            with self.learner.shown():
                state = adapters.state(model.backbone)  # by all processes together
        if not self.world.is_main:
            return
        with self.logs.going_on("the summary is not kept"):
            delivery.write_summary(self.run, model, self.update, self.meter.seconds)
        with self.learner.shown():
            path = delivery.write_model(self.run, self.config, model, self.origin(), state)
        self.logs.say(f"model   {path}")
        if (scores := self.meter.scores()) is not None:
            self.picture("scores", report.score_figure(scores, self.learner.losses.quality.quality_gate))
        self.evaluations.report(self)
        self.logs.say(f"logs    {self.run / 'logs'}  (tensorboard --logdir {self.config.run.root})")

    def dry_run(self) -> bool:
        """Print what the run would be and whether this machine is fit for it, take one step, write nothing."""
        lines, findings = [*plan.describe(self), *plan.first(self)], doctor.check(self)
        if self.bad_records is not None:
            self.bad_records.path = None  # counts, writes nothing
        if self.world.is_main:
            print(*lines, *findings, sep="\n", flush=True)
        with contextlib.closing(self.loader.batches(0)) as batches:
            loss = self.train_update(batches)
        if self.world.is_main:
            print(f"one update done, loss {loss.item():.4f}; nothing was written")
        return not any(finding.level == "FAIL" for finding in findings)

    def close(self) -> None:
        """Let go of files and of everything that holds the process group."""
        if self.keeper is not None:
            self.keeper.close()
        if self.logs is not None:
            self.logs.close()
        self.learner = None

    def _all_agree(self, finite: bool) -> bool:
        """The one exchange of an update: may all step; is anybody told to stop; is it time to save, or to evaluate."""
        late = failed = False
        if self.keeper is not None:
            self.keeper.look()
            late, failed = self.world.is_main and self.keeper.late(), self.keeper.failed
        here, time_left = self.signals.name, self.world.is_main and self.evaluations.may_come(self.meter.seconds)
        bad, term, interrupt, failed, self._late, self.evaluations.granted = any_process(
            not finite, here == "SIGTERM", here == "SIGINT", failed, late, time_left
        )
        self.stopped_by = "SIGTERM" if term else "SIGINT" if interrupt else ""
        if failed:
            raise SaveError(NOT_SAVED)
        return not bad

    def _skipped(self, loss: Tensor, keys: list[Tensor]) -> None:
        """Tell of an update that was not made, with the records it was made of."""
        guard = self.learner.guard
        everyone = torch.cat([gather(key, self.order.counts()) for key in keys]).tolist()
        values = {"loss": str(loss.item()), "gradient_norm": str(float(self.gradient_norm)), "keys": everyone}
        if self.logs is not None:
            self.logs.record({"skipped": guard.total, **values}, self.update)
            self.logs.say(
                f"update {self.update} is skipped on all processes: loss {values['loss']}, gradient norm "
                f"{values['gradient_norm']}; {guard.in_a_row} in a row; its records are in metrics.jsonl"
            )
        if self.learner.hopeless():
            if self.keeper is not None:
                self.keeper.wait()  # all raise together: one under way can be completed
            raise RuntimeError(
                f"{guard.in_a_row} updates in a row had a loss or gradient that is not finite, the last one is "
                f"{self.update} (records [shard, key], the first ones: {everyone[:4]}); lower optim.lr, set optim.clip "
                f"or raise train.non_finite_limit; the newest checkpoint is "
                f"{checkpoint.newest(self.run / 'checkpoints')}"
            )

    def _save_due(self) -> bool:
        settings = self.config.train
        by_count = settings.save_every_updates and self.update % settings.save_every_updates == 0
        return bool(self._late or by_count or self.due(settings.save_every))

    def due(self, every: float) -> bool:
        """True where the last update crossed a multiple of `every` epochs."""
        size = every * self.order.epoch_size / self.images_per_update
        return bool(size) and int(self.update / size) > int((self.update - 1) / size)

    def _look_at(self, gate: Tensor) -> None:
        """Warn once of a gate that is the same for every image: of the first log line, or of some where it has few."""
        if self._gates is None:
            return
        self._gates.see(gate)
        if self._gates.images >= FEWEST:
            if warning := self._gates.warning():
                self.logs.say(warning)
            self._gates = None

    def picture(self, name: str, figure: report.Figure) -> None:
        """Show a figure on the board and keep it in the report."""
        self.logs.figure(f"pictures/{name}", figure, self.update)
        with self.logs.going_on(f"the picture {name} is not kept"):
            delivery.write_picture(self.run, name, figure)

    def _log(self, loss: Tensor) -> None:
        self.logs.advance()
        if self.update % self.config.train.log_every and self.update != self.schedule.total:
            return
        learner = self.learner
        values = {
            "train/loss": loss.item(),
            "train/lr": self.lr,
            "train/gradient_norm": float(self.gradient_norm),
            "train/epoch": self.update * self.images_per_update / self.order.epoch_size,
            **self.meter.rates(self.update, self.images_per_update),
            **{f"loss/{name}": term.item() for name, term in learner.losses.terms.items()},
        }
        if learner.scaler.is_enabled():
            values["train/loss_scale"] = learner.scaler.get_scale()
        if learner.guard.total:
            values["train/skipped_updates"] = learner.guard.total
        if learner.losses.score is not None:
            gate = learner.losses.quality.quality_gate(learner.losses.score).detach()
            values["quality/gate_mean"] = gate.mean().item()
            values |= learner.losses.quality.quality_gate.report()
            self._look_at(gate)
            self.logs.histogram("quality/gate", gate, self.update)
            self.logs.histogram("quality/score", learner.losses.score, self.update)
            self.meter.keep(learner.losses.score)
        self.logs.scalars({tag: value for tag, value in values.items() if math.isfinite(value)}, self.update)
        if (self.world.is_main or learner.in_shares) and (told := learner.report()):
            self.logs.scalars(told, self.update, line=False)
