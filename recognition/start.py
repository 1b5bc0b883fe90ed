"""The first minutes of a run: its folder, its logs, what it continues or starts from."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch.distributed as dist

from recognition import calibration, checkpoint, delivery, plan, scoring
from recognition.checkpoint import Best
from recognition.config import arguments
from recognition.data.bad_records import OPENING
from recognition.distributed import gather_json
from recognition.evaluation import report
from recognition.evaluation.results import load_model, load_results
from recognition.files import write_atomically
from recognition.inputs import build_loader, class_means, some_images
from recognition.keeper import Keeper
from recognition.logs import Logs
from recognition.meter import Meter

if TYPE_CHECKING:
    from recognition.trainer import Trainer


def begin(trainer: Trainer) -> bool:
    """Continue the checkpoint that was chosen, or prepare a new run. False where the run is complete already."""
    folder = trainer.run / "checkpoints"
    continues = trainer.resumed_from is not None and trainer.resumed_from.parent.resolve() == folder.resolve()
    aside = delivery.set_aside(trainer.run) if trainer.world.is_main and not continues else None
    trainer.update = trainer.stored.update if trainer.stored else 0
    trainer.logs = Logs(trainer.run, total=trainer.schedule.total, first=trainer.update, speaks=trainer.world.is_main)
    if aside is not None:
        trainer.logs.say(f"kept the earlier run of this name as {aside}")
    fitted, scores = _fit_gate(trainer), _scores(trainer)
    told = plan.describe(trainer) if trainer.world.is_main or trainer.learner.in_shares else []
    if trainer.world.is_main:
        if not (trainer.run / "config.json").is_file():
            delivery.write_start(
                trainer.run, trainer.config, trainer.records.fingerprint(), fitted, scores, trainer.base
            )
        write_atomically(trainer.run / checkpoint.LAUNCH, checkpoint.launch())
        trainer.logs.say("\n".join(told))
        if later := checkpoint.tidy(folder, trainer.update):
            trainer.logs.say(f"set aside {len(later)} later checkpoint(s) of {folder}")
    trainer.keeper = Keeper(
        trainer.config.train,
        folder,
        trainer.logs,
        best=_best_until_now(trainer),
        saved_update=trainer.update if continues else -1,
    )
    if trainer.bad_records is not None:
        _open_bad_records(trainer, trainer.update * trainer.images_per_update if continues else OPENING)
    if trainer.resumed_from is not None:
        return _resume(trainer)
    if trainer.config.classifier.init not in ("random", "class_means"):
        _take_centres(trainer, checkpoint.named(trainer.config.classifier.init))
    if (
        trainer.config.classifier.init == "class_means" and trainer.config.classifier.weight
    ):  # else nobody looks at them
        with trainer.learner.exact():
            means = class_means(trainer.learner.model, trainer.records, trainer.world, trainer.bad_records)
        trainer.learner.classifier.init_centres(means)
    if trainer.learner.average is not None:
        trainer.learner.average.start()
    if trainer.config.evaluation.at_start:
        trainer.evaluations.run(trainer, "before")
    return True


def show_faces(trainer: Trainer) -> None:
    """Draw some faces at several sides. After the first update, as to import and draw takes a second."""
    trainer.picture("faces", report.face_figure(some_images(trainer.records, 6, trainer.bad_records)))


def _fit_gate(trainer: Trainer) -> dict[str, object]:
    """Midpoint and slope where the recipe wants them fitted; a run that goes on has those of its settings."""
    if trainer.resumed_from is not None:
        return calibration.fitted_by(trainer.resumed_from.absolute().parents[1])
    learner = trainer.learner
    found = calibration.fit_at_start(
        trainer.config, learner.losses.quality, trainer.records, trainer.order, trainer.world, trainer.logs.say
    )
    if found:
        learner.guard.passed()  # what it would put back was kept before
    return found


def _scores(trainer: Trainer) -> dict[str, str]:
    """Have the scores of stored pictures, and hand them to the loader, where they come from a sidecar.

    Returns what provenance tells of it; {} where nothing reads a gate. OSError where the sidecar cannot be written and
    the recipe, or the run that goes on, wants it.
    """
    config, quality = trainer.config, trainer.learner.losses.quality
    begun = None if trainer.resumed_from is None else trainer.resumed_from.absolute().parents[1]
    scorer = quality.scorer if quality.needs_gate else None
    chosen, why = scoring.source(config, scorer, begun)
    if not chosen:
        return {}
    told = ""
    if chosen == "sidecar":
        identity = scoring.identify(config.scorer.name, arguments(config.scorer, "scorer"), scorer)
        limit = config.data.bad_record_limit if config.data.on_bad_record == "skip" else None
        try:
            done = scoring.complete(
                trainer.records,
                scorer,
                identity,
                trainer.world,
                threads=config.data.workers,
                bad_record_limit=limit,
            )
        except OSError as error:
            if config.data.scores != "auto" or begun is not None:
                raise OSError(
                    f"{error}: scores of the pictures cannot be kept beside the records; make room or writable, write "
                    "them by tools/score_quality.py, or set config.data.scores=online in a new run"
                ) from None
            chosen, why = "online", f"the sidecar cannot be written: {error}"
        else:
            told = f", {done}"
            trainer.loader = build_loader(
                config,
                trainer.records,
                trainer.order,
                trainer.world,
                trainer.bad_records,
                {"score": done.scores},
            )
    trainer.logs.say(f"scores  {chosen}{told}: {why}")
    return {"from": chosen, "why": why}


def _take_centres(trainer: Trainer, path: Path) -> None:
    checkpoint.check(path)
    if checkpoint.read_state(path).fingerprint not in ("", trainer.records.fingerprint()):
        raise ValueError(f"config.classifier.init: {path} has the class centres of other records")
    checkpoint.read_centres(path, trainer.learner.classifier)
    trainer.logs.say(f"class centres of {path}")


def _best_until_now(trainer: Trainer) -> Best | None:
    """As the main process finds it, once it has set aside what is not of this run."""
    best = None
    if trainer.world.is_main and trainer.stored is not None:
        best = checkpoint.best_at(trainer.run / "checkpoints", trainer.update, trainer.stored.best)
    found = gather_json(None if best is None else asdict(best))[0]
    return None if found is None else Best(**found)


def _open_bad_records(trainer: Trainer, position: int) -> None:
    """List what was left out at opening, and forget what a run that ended met at `position` or later."""
    if trainer.world.is_main:
        trainer.bad_records.cut(position)
        trainer.bad_records.add(trainer.records.left_out)
        if trainer.records.left_out:
            trainer.logs.say(f"left out {len(trainer.records.left_out)} bad records, see {trainer.bad_records.path}")
    dist.barrier()  # nobody adds before the cut


def _resume(trainer: Trainer) -> bool:
    learner = trainer.learner
    checkpoint.read(trainer.resumed_from, learner.model, learner.classifier, learner.optimizer)
    learner.scaler.load_state_dict(trainer.stored.scaler)
    learner.guard.load_state_dict(trainer.stored.skipped)
    trainer.meter = Meter(trainer.stored.train_seconds, trainer.update)
    trainer.logs.say(f"continuing {trainer.resumed_from} at update {trainer.update}")
    if not trainer.stored.fingerprint:
        trainer.logs.say("WARNING: the checkpoint does not say which records it was trained on")
    if trainer.world.is_main:
        trainer.evaluations.results = _earlier_results(trainer)
    if trainer.stored.evaluation:
        trainer.evaluations.pace.load_state_dict(trainer.stored.evaluation)
    delivered = gather_json((trainer.run / delivery.MODEL).is_file())[0]
    complete = trainer.update >= trainer.schedule.total and delivered
    if complete:
        trainer.logs.say("the run is complete; train.resume=never starts it anew")
    elif trainer.due(trainer.config.evaluation.every) and trainer.update < trainer.schedule.total:
        best = trainer.keeper.best
        ended_in_it = best is None or best.evaluated < trainer.update
        if ended_in_it and trainer.evaluations.come(trainer):
            trainer.evaluations.run(trainer, "during")
    return not complete


def _earlier_results(trainer: Trainer) -> dict[str, dict]:
    """By when, oldest first; those of updates that are trained again are of another model."""
    found: dict[str, dict] = {}
    saved = sorted((trainer.run / "report").glob("*/results.json"), key=lambda path: path.stat().st_mtime)
    for folder in (path.parent for path in saved):
        try:
            if load_model(folder).get("update", 0) <= trainer.update:
                found[folder.name] = load_results(folder)
        except (OSError, ValueError) as error:
            trainer.logs.say(f"WARNING: earlier results are left out: {error}")
    return found
