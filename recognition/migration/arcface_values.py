"""What values of arcface_torch's settings mean, one function for each setting."""

from __future__ import annotations

from recognition.migration.found import Found
from recognition.migration.rules import (
    Made,
    above_zero,
    at_least_one,
    chosen,
    flag,
    from_zero,
    number,
    numbers,
    text,
)

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
    if found.written("loss") and found.above.margin == "loss":
        return Made({}, f"{found.above.name} reads loss and ignores this")
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
    if found.above.margin == "margin_list":
        return Made({}, f"{found.above.name} reads margin_list and ignores this")
    return Made(LOSSES[chosen(value, LOSSES, "loss")])


def filtering(value: object, found: Found) -> Made:
    """Off, or negatives above the threshold at cosine 0."""
    if number(value) <= 0:
        return Made({}, "off")
    if value >= 1:
        raise ValueError("it takes a cosine below 1, 0 = off: none is above it")
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
    """As it is; in 2021 it was for 512 images, and grew with the global batch. SGD: times the micro-steps."""
    peak, remarks = above_zero(value), []
    if of_2021(found):
        if not found.processes:
            raise ValueError("its program multiplies lr by the global batch / 512: say how many --processes there were")
        peak *= at_least_one(found.get("batch_size")) * found.processes / 512
        remarks.append(f"times the global batch / 512, on {found.processes} processes")
    if by_sum(found) > 1:
        peak *= by_sum(found)
        remarks.append(f"times {by_sum(found)}: its gradients are summed over so many batches, ours averaged")
    return Made({"optim.lr": float(f"{peak:.12g}")}, "; ".join(remarks))


def of_2021(found: Found) -> bool:
    """Whether these are settings of 2021, of the program of then: it multiplies lr, and has steps."""
    steps = found.written("decay_epoch") or found.written("lr_func")
    return found.program == "arcface_torch" and steps and found.above.power is None


def steps_down(value: object, found: Found) -> Made:
    """decay_epoch and lr_func: steps of the program of 2021, which none after it looks at."""
    if found.above.schedule:
        return Made({}, f"{found.above.name} makes a {found.above.schedule} and ignores this")
    return Made(
        {"schedule.power": 2.0}, "there are no steps here: (1 - t)^2 takes their place, as its program did in 2022"
    )


def micro_steps(found: Found) -> int:
    """Batches whose gradients make an update."""
    steps = found.get("gradient_acc")
    return steps if isinstance(steps, int) and steps > 1 else 1


def by_sum(found: Found) -> int:
    """By how much SGD's gradients are larger there: its program sums those of micro-steps, ours averages them.

    With the mean m of N, its update is lr (N clip(m, 5 / N) + weight_decay w), momentum alike: N lr times
    (clip(m, 5 / N) + weight_decay / N w). AdamW divides by the gradient's size: nothing but its eps tells N.
    """
    return micro_steps(found) if found.get("optimizer") == "sgd" else 1


def accumulate(value: object, found: Found) -> Made:
    """As many micro-steps."""
    steps = at_least_one(value)
    if steps == 1:
        return Made({}, "one batch an update")
    others = ", lr and weight_decay" if by_sum(found) > 1 else ""
    remark = f"its program sums their gradients, here they are averaged: clip{others} are turned so that updates agree"
    return Made({"optim.accumulate": steps}, remark if others else remark.replace("clip are", "clip is"))


def weight_decay(value: object, found: Found) -> Made:
    """As it is, over the micro-steps for SGD."""
    decay, steps = from_zero(value), by_sum(found)
    remark = "not on norms and biases here"
    return Made(
        {"optim.weight_decay": float(f"{decay / steps:.12g}")},
        f"over {steps}, as lr; {remark}" if steps > 1 else remark,
    )


def sample_rate(value: object, found: Found) -> Made:
    """A share of the centres; 0 is those of the batch alone, for which its own share stands here."""
    if not 0 <= number(value) <= 1:
        raise ValueError("it takes a number from 0 to 1")
    if value:
        return Made({"classifier.sample_rate": float(value)})
    people, batch = found.get("num_classes"), found.get("batch_size")
    if not (found.written("num_classes") and isinstance(people, int) and people > 0 and found.processes):
        raise ValueError(
            "0 is the batch's own centres alone, which here is the global batch / num_classes: say how many "
            "--processes there were, and num_classes; or give classifier.sample_rate"
        )
    share = min(1.0, float(f"{at_least_one(batch) * found.processes / people:.4g}"))
    remark = f"0 is the batch's own centres alone: the global batch on {found.processes} processes / num_classes"
    return Made({"classifier.sample_rate": share}, remark)


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
