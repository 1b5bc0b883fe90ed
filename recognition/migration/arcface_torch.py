"""arcface_torch (deepinsight/insightface, recognition/arcface_torch): what its settings mean, and become.

Read in its train.py (2021), train_v2.py (2022 and after), losses.py, lr_scheduler.py, backbones/, dataset.py and
configs/base.py. Three generations: 2021 with loss and decay_epoch, steps of 0.1 and lr per 512 images; 2022 with
PolyScheduler, (1 - t)^2; after it PolynomialLRWarmup, whose power is 1.
"""

from __future__ import annotations

from recognition.migration.found import Found
from recognition.migration.rules import (
    Made,
    Program,
    Rule,
    at_least_one,
    chosen,
    flag,
    number,
    numbers,
    same,
    text,
    whole,
)

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
MASKED = "its program masks 0.1 of the tokens whatever ratio above 0 it is told (backbones/vit.py)"
NETWORKS: dict[str, tuple[dict[str, object], str]] = {
    **{name: ({"backbone.name": name}, "") for name in ("r18", "r34", "r50", "r100", "r200", "mbf", "mbf_large")},
    **{
        name: (
            {
                "backbone.name": name[:5],
                "backbone.drop_path": drop,
                "backbone.mask_ratio": mask,
                **({"train.checkpoint_activations": True} if recompute else {}),
            },
            remark,
        )
        for name, drop, mask, recompute, remark in (
            ("vit_t", 0.1, 0.1, False, ""),
            ("vit_t_dp005_mask0", 0.05, 0.0, False, ""),
            ("vit_s", 0.1, 0.1, False, ""),
            ("vit_s_dp005_mask_0", 0.05, 0.0, False, ""),
            ("vit_b", 0.1, 0.1, True, ""),
            ("vit_b_dp005_mask_005", 0.05, 0.1, True, MASKED),
            ("vit_l_dp005_mask_005", 0.05, 0.1, True, MASKED),
            ("vit_h", 0.1, 0.0, True, ""),
        )
    },
}
LOSSES = {  # of losses.py before margin_list
    "arcface": {"margin.name": "arcface", "margin.margin": 0.5, "margin.scale": 64.0},
    "cosface": {"margin.name": "cosface", "margin.margin": 0.4, "margin.scale": 64.0},
}
OPTIMIZERS = {"sgd": {"optim.name": "sgd", "optim.momentum": 0.9}, "adamw": {"optim.name": "adamw"}}
SYNTHETIC = (
    "its made-up pictures for measuring speed have no place in a recipe: measure with tools/benchmark.py, or name "
    "records on this command line, data.records=FOLDER"
)


def network(value: object, found: Found) -> Made:
    """Backbone and its arguments, by their name."""
    into, remark = NETWORKS[chosen(value, NETWORKS, "network")]
    return Made(into, remark)


def embedding_size(value: object, found: Found) -> Made:
    """Nothing to write where it is the backbone's own."""
    size = at_least_one(value)
    return Made({} if size == 512 else {"backbone.embedding_size": size}, "that of the backbone" if size == 512 else "")


def margin_list(value: object, found: Found) -> Made:
    """(m1, m2, m3) as CombinedMarginLoss has it: ArcFace, CosFace, or what it cannot do."""
    m1, m2, m3 = numbers(value, 3)
    if m3 > 0 and (m1, m2) == (1.0, 0.0):
        return Made({"margin.name": "cosface", "margin.margin": m3, "margin.scale": 64.0})
    if m3 == 0 and m1 == 1.0:
        return Made({"margin.name": "arcface", "margin.margin": m2, "margin.scale": 64.0})
    all_three = {"margin.name": "combined", "margin.m1": m1, "margin.m2": m2, "margin.m3": m3, "margin.scale": 64.0}
    if m3 > 0:
        remark = "its program ignores m1 and m2 where m3 is above 0; margin.mode=exact takes all three"
        return Made({**all_three, "margin.mode": "arcface_torch"}, remark)
    return Made({**all_three, "margin.mode": "exact"}, "its program refuses this; all three at once, exact gradient")


def loss(value: object, found: Found) -> Made:
    """By its name, before there was margin_list."""
    return Made(LOSSES[chosen(value, LOSSES, "loss")])


def filtering(value: object, found: Found) -> Made:
    """Off, or negatives above the threshold at cosine 0."""
    if number(value) <= 0:
        return Made({}, "off")
    return Made({"classifier.filter_threshold": float(value), "classifier.filter_mode": "zero"})


def precision(value: object, found: Found) -> Made:
    """fp16 or fp32."""
    remark = "fp16 with loss scaling; bf16 needs none" if flag(value) else ""
    if not value and str(found.get("network")).startswith("vit"):
        remark = "its ViT computes products in fp16 even so; train.precision=fp16 or bf16 is as fast"
    return Made({"train.precision": "fp16" if value else "fp32"}, remark)


def optimizer(value: object, found: Found) -> Made:
    """sgd with momentum 0.9, which its program does not take from its settings, or adamw."""
    return Made(OPTIMIZERS[chosen(value, OPTIMIZERS, "optimizer")])


def lr(value: object, found: Found) -> Made:
    """As it is; in 2021 it was for 512 images, and grew with the global batch."""
    if not steps_down(found):
        return Made({"optim.lr": float(number(value))})
    if not found.processes:
        raise ValueError("its program multiplies lr by the global batch / 512: say how many --processes there were")
    peak = float(number(value)) * at_least_one(found.get("batch_size")) * found.processes / 512
    return Made({"optim.lr": float(f"{peak:.12g}")}, f"times the global batch / 512, on {found.processes} processes")


def steps_down(found: Found) -> bool:
    """Whether this is a config of 2021."""
    return found.written("decay_epoch") or found.written("lr_func")


def accumulate(value: object, found: Found) -> Made:
    """As many micro-steps; theirs are summed, ours averaged."""
    steps = at_least_one(value)
    remark = "gradients are averaged here; its program sums them, so SGD's lr is as if times this" if steps > 1 else ""
    return Made({"optim.accumulate": steps} if steps > 1 else {}, remark or "one batch an update")


def warmup(value: object, found: Found) -> Made:
    """Epochs; -1 was none."""
    return Made({"schedule.warmup_epochs": max(0.0, float(number(value)))})


def records(value: object, found: Found) -> Made:
    """The folder as it is."""
    if text(value) == "synthetic":
        raise ValueError(SYNTHETIC)
    return Made({"data.records": value})


def val_targets(value: object, found: Found) -> Made:
    """A set of the protocol `bin` for each, from the records' folder."""
    if not isinstance(value, list | tuple):
        raise ValueError("it takes a list of names")
    folder = found.get("rec")
    if value and not isinstance(folder, str):
        raise ValueError("its .bin files lie in rec, which is not known here: set evaluation.sets on this command line")
    sets = [{"name": text(one), "kind": "bin", "path": f"{str(folder).rstrip('/')}/{one}.bin"} for one in value]
    return Made({"evaluation.sets": sets, **({"evaluation.flip": True} if sets else {})})


def verbose(value: object, found: Found) -> Made:
    """Steps between evaluations, as epochs."""
    if not found.get("val_targets"):
        return Made({}, "there is nothing to evaluate")
    images, batch = found.get("num_image"), found.get("batch_size")
    if not isinstance(images, int) or not isinstance(batch, int) or images < 1 or not found.processes:
        return Made({}, "every epoch: how many these are, num_image and --processes would tell")
    epochs = at_least_one(value) * batch * found.processes / images
    return Made({"evaluation.every": max(0.001, float(f"{epochs:.3g}"))}, "epochs, put off beyond evaluation.budget")


def frequent(value: object, found: Found) -> Made:
    """Micro-steps between log lines, as updates."""
    steps = found.get("gradient_acc")
    return Made({"train.log_every": max(1, at_least_one(value) // (steps if isinstance(steps, int) and steps else 1))})


def dali(value: object, found: Found) -> Made:
    """Ours by name, or the one that fits the machine."""
    into = {"data.loader": "dali"} if flag(value) else {}
    return Made(into, "the samples are the same with any loader" if value else "auto: the same samples by any loader")


def dali_aug(value: object, found: Found) -> Made:
    """The published list, where its program makes it at all."""
    if not flag(value):
        return Made({}, "no augmentation but flips")
    if not found.get("dali"):
        return Made({}, "its program augments in DALI's loader only, and dali is off")
    return Made({"data.augment": ["arcface_torch"]})


def momentum(value: object, found: Found) -> Made:
    """Nothing: the program has 0.9 written into it."""
    told = "" if value == 0.9 else f"; for {number(value)} set optim.momentum"
    return Made({}, f"its program takes 0.9 whatever this says{told}")


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
    "sample_rate": same("classifier.sample_rate", lambda value: float(number(value))),
    "interclass_filtering_threshold": Rule(
        "`classifier.filter_threshold`", filtering, ("classifier.filter",), "with `filter_mode=zero`, as there"
    ),
    "fp16": Rule("`train.precision`", precision, ("train.precision",), "fp16 or fp32; bf16 needs no loss scaling"),
    "batch_size": same("data.batch_size", at_least_one, "of one process, there as here"),
    "optimizer": Rule("`optim.name`", optimizer, ("optim.name",), "sgd has momentum 0.9 written into its program"),
    "lr": Rule("`optim.lr`", lr, ("optim.lr",), "with decay_epoch, times the global batch / 512, as in 2021"),
    "momentum": Rule("`optim.momentum`", momentum, ("optim.momentum",), "0.9 whatever it says, as in its program"),
    "weight_decay": same("optim.weight_decay", lambda value: float(number(value)), "not on norms and biases here"),
    "gradient_acc": Rule("`optim.accumulate`", accumulate, ("optim.accumulate",), "averaged here, summed there"),
    "num_epoch": same("schedule.epochs", lambda value: float(number(value))),
    "warmup_epoch": Rule("`schedule.warmup_epochs`", warmup, ("schedule.warmup",), "from the first update on; -1 is 0"),
    "rec": Rule("`data.records`", records, ("data.records",), "read as it is; `synthetic` is refused"),
    "val_targets": Rule(
        "`evaluation.sets`", val_targets, ("evaluation.sets",), "protocol `bin` on REC/NAME.bin, with `evaluation.flip`"
    ),
    "verbose": Rule("`evaluation.every`", verbose, ("evaluation.every",), "steps become epochs"),
    "frequent": Rule("`train.log_every`", frequent, ("train.log_every",), "steps become updates"),
    "dali": Rule("`data.loader`", dali, ("data.loader",), "False is `auto`: the samples are the same in either loader"),
    "dali_aug": Rule("`data.augment`", dali_aug, ("data.augment",), "`arcface_torch`, where `dali` is on, as there"),
    "num_workers": same("data.workers", whole, "of one process, there as here"),
    "seed": same("run.seed", whole, "other random numbers come of it"),
}
WANDB = "no account: figures go to metrics.jsonl and TensorBoard in the run's folder"
DROPPED: dict[str, str] = {
    "num_classes": "counted from the records",
    "num_image": "counted from the records",
    "output": "runs go to run.root/run.name, runs/ and the recipe's name",
    "resume": "train.resume=auto goes on from the newest checkpoint of the run; theirs: tools/convert_checkpoint.py",
    "save_all_states": "every checkpoint here holds all states",
    "decay_epoch": "there are no steps here: schedule.power=2 takes their place, as its program did in 2022",
    "lr_func": "there are no steps here: schedule.power=2 takes their place, as its program did in 2022",
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
    old = steps_down(found) or (found.written("loss") and not found.written("margin_list"))
    power = found.get("(scheduler power)") or (2.0 if old else 1.0)
    guessed = found.program == "arcface_torch" and "(scheduler power)" not in found.settings and not old
    return [
        ("gradients of the network are clipped at 5", Made({"optim.clip": 5.0})),
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
