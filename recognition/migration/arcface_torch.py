"""arcface_torch (deepinsight/insightface, recognition/arcface_torch): what its settings mean, and become.

Read in its train.py (2021), train_v2.py (2022 and after), losses.py, lr_scheduler.py, backbones/, dataset.py and
configs/base.py. Three generations: 2021 with loss and decay_epoch, steps of 0.1 and lr per 512 images; 2022 with
PolyScheduler, (1 - t)^2; after it PolynomialLRWarmup, whose power is 1.
"""

from __future__ import annotations

import re

from recognition.migration.arcface_values import (
    NETWORKS,
    accumulate,
    dali,
    dali_aug,
    embedding_size,
    filtering,
    frequent,
    loss,
    lr,
    margin_list,
    micro_steps,
    momentum,
    network,
    of_2021,
    optimizer,
    precision,
    records,
    sample_rate,
    steps_down,
    val_targets,
    verbose,
    warmup,
    weight_decay,
)
from recognition.migration.found import Found
from recognition.migration.rules import Made, Program, Rule, above_zero, at_least_one, count, same

__all__ = ["DEFAULTS", "DROPPED", "NETWORKS", "PROGRAM", "RULES", "WANDB", "own"]
GPUS = re.compile(r"(\d+)gpus?(?![a-z])")  # in a config's name

DEFAULTS: dict[str, object] = {  # of configs/base.py since 2022
    "margin_list": (1.0, 0.5, 0.0),
    "network": "r50",
    "embedding_size": 512,
    "sample_rate": 1,
    "interclass_filtering_threshold": 0,
    "fp16": False,
    "batch_size": 128,
    "optimizer": "sgd",
    "lr": 0.1,
    "weight_decay": 5e-4,
    "verbose": 2000,
    "frequent": 10,
    "dali": False,
    "dali_aug": False,
    "gradient_acc": 1,
    "seed": 2048,
    "num_workers": 2,
    "warmup_epoch": 0,
}
STEPPING = ("decay_epoch", "lr_func")  # of 2021
LR = "in 2021, with decay_epoch or lr_func, times the global batch / 512"
STEPS = "2, as its program did in 2022; nothing where the program above is a newer one, which ignores it"
SUMMED = "summed there, averaged here: `optim.clip` / steps, for SGD `optim.lr` * steps and `weight_decay` / steps, too"
RULES: dict[str, Rule] = {
    "network": Rule("`backbone`", network, ("backbone.name",), "r18 to r200, mbf, mbf_large, vit_*; not r2060"),
    "embedding_size": Rule("`backbone.embedding_size`", embedding_size, ("backbone.embedding_size",)),
    "margin_list": Rule(
        "`margin`",
        margin_list,
        ("margin.name",),
        "(1, m, 0): arcface, (1, 0, m): cosface, else combined; scale 64 as in its program",
    ),
    "loss": Rule(
        "`margin`",
        loss,
        ("margin.name",),
        "before margin_list: arcface 0.5, cosface 0.4",
    ),
    "sample_rate": Rule(
        "`classifier.sample_rate`",
        sample_rate,
        ("classifier.sample_rate",),
        "0, the batch's own centres, is the global batch / num_classes",
    ),
    "interclass_filtering_threshold": Rule(
        "`classifier.filter_threshold`", filtering, ("classifier.filter",), "with `filter_mode=zero`, as there"
    ),
    "fp16": Rule("`train.precision`", precision, ("train.precision",), "fp16 or fp32; bf16 needs no loss scaling"),
    "batch_size": same("data.batch_size", at_least_one, "of one process, there as here"),
    "optimizer": Rule("`optim.name`", optimizer, ("optim.name",), "sgd has momentum 0.9 written into its program"),
    "lr": Rule("`optim.lr`", lr, ("optim.lr",), LR),
    "momentum": Rule("`optim.momentum`", momentum, ("optim.momentum",), "0.9 whatever it says, as in its program"),
    "weight_decay": Rule("`optim.weight_decay`", weight_decay, ("optim.weight_decay",), "not on norms and biases here"),
    "gradient_acc": Rule("`optim.accumulate`", accumulate, ("optim.accumulate",), SUMMED),
    **{name: Rule("`schedule.power`", steps_down, ("schedule.power",), STEPS, unread=True) for name in STEPPING},
    "num_epoch": same("schedule.epochs", above_zero),
    "warmup_epoch": Rule("`schedule.warmup_epochs`", warmup, ("schedule.warmup",), "from the first update on; -1 is 0"),
    "rec": Rule("`data.records`", records, ("data.records",), "read as it is; `synthetic` is refused"),
    "val_targets": Rule(
        "`evaluation.sets`", val_targets, ("evaluation.sets",), "protocol `bin` on REC/NAME.bin, with `evaluation.flip`"
    ),
    "verbose": Rule("`evaluation.every`", verbose, ("evaluation.every",), "steps become epochs"),
    "frequent": Rule("`train.log_every`", frequent, ("train.log_every",), "steps become updates"),
    "dali": Rule("`data.loader`", dali, ("data.loader",), "False is `auto`: the samples are the same in either loader"),
    "dali_aug": Rule("`data.augment`", dali_aug, ("data.augment",), "`arcface_torch`, where `dali` is on, as there"),
    "num_workers": same("data.workers", count, "of one process, there as here"),
    "seed": same("run.seed", count, "other random numbers come of it"),
}
WANDB = "no account: figures go to metrics.jsonl and TensorBoard in the run's folder"
DROPPED: dict[str, str] = {
    "num_classes": "counted from the records",
    "num_image": "counted from the records",
    "output": "runs go to run.root/run.name, runs/ and the recipe's name",
    "resume": "train.resume=auto goes on from the newest checkpoint of the run; theirs: tools/convert_checkpoint.py",
    "save_all_states": "every checkpoint here holds all states",
    "dataset": "a name that nothing is looked up by",
    "score": "used by nothing",
    **dict.fromkeys(
        (
            "using_wandb",
            "wandb_key",
            "wandb_entity",
            "wandb_project",
            "wandb_log_all",
            "wandb_resume",
            "suffix_run_name",
            "save_artifacts",
            "notes",
        ),
        WANDB,
    ),
}


def own(found: Found) -> list[tuple[str, Made]]:
    """What its program does by itself."""
    old = of_2021(found) or (found.written("loss") and not found.written("margin_list"))
    power = found.above.power or (2.0 if old else 1.0)
    guessed = found.program == "arcface_torch" and found.above.power is None and not old
    steps = micro_steps(found)
    return [
        (
            "gradients of the network are clipped at 5",
            Made({"optim.clip": 5.0 / steps}, f"their sum over {steps} batches: the mean at 5 / {steps}" * (steps > 1)),
        ),
        (
            f"lr falls {'as (1 - t)^2' if power == 2 else 'linearly'}",
            Made(
                {"schedule.name": "polynomial", "schedule.power": float(power)},
                "as its newest program; if your train_v2.py has PolyScheduler, add schedule.power=2" if guessed else "",
            ),
        ),
        ("every weight is trained", Made({"adapter.name": "full"})),
    ]


PROGRAM = Program("arcface_torch", RULES, DROPPED, own, DEFAULTS)
