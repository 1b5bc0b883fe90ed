"""PETALface (Kartik-3004/PETALface): what the options of its programs mean, and become.

Read in its config.py, train_iqa.py, backbones/, dataset/dataset.py, heads/ and scripts/.
"""

from __future__ import annotations

from collections.abc import Mapping

from recognition.migration import arcface_torch, arcface_values
from recognition.migration.found import Found, Setting
from recognition.migration.rules import Made, Program, Rule, at_least_one, chosen, flag, number, text, whole

SWITCHES = ("fp16", "dali_aug", "use_lora")  # options without a value
DEFAULTS: dict[str, object] = {  # of config.py; a value's type is its default's
    "sample_rate": 1,
    "interclass_filtering_threshold": 0,
    "fp16": False,
    "verbose": 2000,
    "frequent": 10,
    "seed": 2048,
    "dali": False,
    "num_workers": 8,
    "wandb_key": "",
    "suffix_run_name": "None",
    "using_wandb": False,
    "wandb_entity": "",
    "wandb_project": "",
    "wandb_log_all": False,
    "save_artifacts": False,
    "wandb_resume": False,
    "notes": "",
    "dir": "",
    "val_targets": ["lfw", "cfp_fp", "agedb_30"],
    "train_data": "webface4m",
    "image_size": 112,
    "network": "r50",
    "embedding_size": 512,
    "batch_size": 128,
    "num_epoch": 20,
    "warmup_epoch": 0,
    "dali_aug": False,
    "head": "partial_fc",
    "use_lora": False,
    "lora_rank": 4,
    "lora_scale": 1,
    "load_pretrained": "",
    "rec": "/data/knaraya4/data/WebFace4M",
    "num_classes": 205990,
    "num_image": 4235242,
    "margin_list": [1.0, 0.5, 0.0],
    "resume": False,
    "save_all_states": True,
    "output": "",
    "optimizer": "sgd",
    "lr": 0.1,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "gradient_acc": 1,
    "iqa": "",
    "threshold": 0.5,
}
SWIN = {"backbone.name": "swin_120", "backbone.shift_mask": False}
NETWORKS: dict[str, dict[str, object]] = {
    **{name: into for name, (into, _) in arcface_torch.NETWORKS.items()},
    "vit_b_iqa": arcface_torch.NETWORKS["vit_b"][0],
    "swin_256new": SWIN,
    "swin_256new_iqa": SWIN,
}
GATED = "train_iqa.py"
METRICS = {"brisque": -1.0, "cnniqa": 1.0}  # sign of ours over its score: ours are higher for better pictures


def gated(found: Found) -> bool:
    """Whether its program weighs two branches by quality."""
    return found.script == GATED


def read_options(words: Mapping[str, str], place: str) -> dict[str, Setting]:
    """Its options, by name without dashes, as values of their defaults' types; texts where they are no such value."""
    return {name: Setting(_typed(value, DEFAULTS.get(name)), place) for name, value in words.items()}


def _typed(value: str, default: object) -> object:
    if isinstance(default, bool):
        return value.lower() not in ("false", "0", "no", "off", "none", "")
    if isinstance(default, list):
        parts = [part.strip() for part in value.split(",") if part.strip()]
        return [_typed(part, default[0]) for part in parts]
    if isinstance(default, int | float):
        try:
            return int(value) if isinstance(default, int) and value.lstrip("+-").isdigit() else float(value)
        except ValueError:
            return value
    return value


def network(value: object, found: Found) -> Made:
    """Backbone; its Swin never applies the shift mask."""
    into = NETWORKS[chosen(value, NETWORKS, "network")]
    remark = "its Swin computes the shift mask and never applies it" if into is SWIN else ""
    return Made(into, remark)


def use_lora(value: object, found: Found) -> Made:
    """Everything is trained, or low-rank updates, in pairs by quality or alone."""
    if not flag(value):
        return Made({"adapter.name": "full"}, "without --use_lora its program trains everything, from scratch")
    name = str(found.get("network"))
    if name.startswith("r") and not gated(found):
        remark = "on every convolution and fc, without dropout; its fc has 0.1"
        return Made({"adapter.name": "lora"}, remark)
    qkv = {"adapter.dropout": 0.1, "adapter.dropout_at": "output"}
    if name.startswith(("swin", "vit")):
        qkv["adapter.targets"] = ["**.attn.qkv"]
    if gated(found):
        remark = "two branches on qkv, one on the head" if "adapter.targets" in qkv else "a gate is ours"
        return Made({"adapter.name": "dual_lora", **qkv, "adapter.head": True}, remark)
    remark = "train.py calls this network without a gate, and fails; as train_lora.sh means it: one update on qkv"
    return Made({"adapter.name": "lora", **qkv}, remark if name.endswith("_iqa") else "one update on qkv")


def of_lora(name: str, whole_number: bool) -> Rule:
    """An option that counts with --use_lora only."""

    def make(value: object, found: Found) -> Made:
        made = at_least_one(value) if whole_number else float(number(value))
        return Made({name: made}) if found.get("use_lora") else Made({}, "without --use_lora it does nothing")

    return Rule(f"`{name}`", make, ("adapter.name", name))


def load_pretrained(value: object, found: Found) -> Made:
    """Its model.pt as it is."""
    if not found.get("use_lora"):
        return Made({}, "its program reads it with --use_lora only: without, it trains from scratch")
    if not value:
        raise ValueError("--use_lora goes on from weights: name them, backbone.weights=FILE")
    return Made({"backbone.weights": f"{text(value).rstrip('/')}/model.pt"}, "read as it is")


def iqa(value: object, found: Found) -> Made:
    """The same metric, through pyiqa as there."""
    if not gated(found) or not found.get("use_lora"):
        return Made({}, "read by train_iqa.py with --use_lora only")
    if value == "":
        raise ValueError("train_iqa.py does not start without --iqa; it takes brisque or cnniqa")
    metric = chosen(value, METRICS, "metric")
    turned = "; lower is better, so its sign is turned and the branches change places" if metric == "brisque" else ""
    return Made(
        {"scorer.name": "pyiqa", "scorer.metric": metric},
        f"of the picture in [0, 1], which the metric wants; there it got [-1, 1]{turned}",
    )


def threshold(value: object, found: Found) -> Made:
    """The midpoint, slope 1, held within 0 and 1; fitted where nobody has told it."""
    if not gated(found) or not found.get("use_lora"):
        return Made({}, "read by train_iqa.py with --use_lora only")
    if isinstance(value, str):
        return Made({"gate.fit": "quantiles"}, "no number, and none was published: fitted to the scores at the start")
    sign = METRICS.get(str(found.get("iqa")), 1.0)
    into = {"gate.shape": "linear", "gate.midpoint": sign * float(number(value)), "gate.slope": 1.0}
    return Made(into, "0.5 + (score - it), held within 0 and 1; as published: gate.shape=petal; fitted: gate.fit=otsu")


def image_size(value: object, found: Found) -> Made:
    """Nothing: a network knows its size."""
    wanted = 120 if str(found.get("network")).startswith("swin") else 112
    told = "" if whole(value) == wanted else f", {wanted}; with {value} its program stops at the first picture"
    return Made({}, f"the network's own{told}")


def precision(value: object, found: Found) -> Made:
    """fp16 where the network computes in it."""
    if str(found.get("network")).startswith("swin"):
        flag(value)
        return Made({"train.precision": "fp32"}, "its Swin computes in fp32, fp16 scales the loss only; bf16 is faster")
    return arcface_values.precision(value, found)


def dali_aug(value: object, found: Found) -> Made:
    """A list of its own, whose parts we have."""
    if not flag(value) or not found.get("dali"):
        return Made({}, "DALI's loader only, and dali is off" if value else "none")
    low, colours = {"name": "low_res", "probability": 0.2}, {"name": "gray", "probability": 0.1}
    return Made({"data.augment": [low, colours]}, "low resolution and grey; its fixed change of colours is left out")


def head(value: object, found: Found) -> Made:
    """The only one there is."""
    chosen(value, {"partial_fc": None}, "head")
    return Made({}, "the class centres, here as there")


def val_targets(value: object, found: Found) -> Made:
    """Those that were asked for; of its default three, what is missing is skipped there in silence."""
    if not found.written("val_targets"):
        return Made({}, "its default, of which it skips what is missing: name those that are there")
    return arcface_values.val_targets(value, found)


def verbose(value: object, found: Found) -> Made:
    """Steps between evaluations, as epochs."""
    if not found.written("val_targets"):
        return Made({}, "there is nothing to evaluate")
    return arcface_values.verbose(value, found)


def own(found: Found) -> list[tuple[str, Made]]:
    """What its programs do by themselves."""
    return [one for one in arcface_torch.own(found) if "adapter.name" not in one[1].into]


RULES: dict[str, Rule] = {
    **{name: rule for name, rule in arcface_torch.RULES.items() if name in DEFAULTS},
    "lr": Rule("`optim.lr`", arcface_values.lr, ("optim.lr",)),
    "network": Rule(
        "`backbone`", network, ("backbone.name",), "swin_256new and its _iqa: `swin_120`, `shift_mask=False`"
    ),
    "fp16": Rule("`train.precision`", precision, ("train.precision",), "Swin: fp32, which is what it computes in"),
    "use_lora": Rule(
        "`adapter`",
        use_lora,
        ("adapter.name",),
        "train_iqa.py: `dual_lora` on qkv and the head; train.py: `lora` on qkv; without it: `full`",
    ),
    "lora_rank": of_lora("adapter.rank", whole_number=True),
    "lora_scale": of_lora("adapter.scaling", whole_number=False),
    "load_pretrained": Rule(
        "`backbone.weights`",
        load_pretrained,
        ("backbone.weights",),
        "its model.pt; with --use_lora only, as there",
    ),
    "iqa": Rule("`scorer`", iqa, ("scorer.name",), "`pyiqa` with the same metric, higher = better"),
    "threshold": Rule(
        "`gate`",
        threshold,
        ("gate.midpoint", "gate.fit"),
        "`linear`, slope 1, bounded; as published: `shape=petal`",
    ),
    "image_size": Rule("the network's own", image_size, ("backbone.name",)),
    "dali_aug": Rule("`data.augment`", dali_aug, ("data.augment",), "low_res and gray, where --dali is on"),
    "val_targets": Rule(
        "`evaluation.sets`", val_targets, ("evaluation.sets",), "protocol `bin` on REC/NAME.bin, where they are written"
    ),
    "verbose": Rule("`evaluation.every`", verbose, ("evaluation.every",), "steps become epochs"),
    "head": Rule("the class centres", head, ("classifier",), "partial_fc is the only one"),
}
DROPPED = {
    **{name: arcface_torch.DROPPED[name] for name in arcface_torch.DROPPED if name in DEFAULTS},
    "train_data": "used by nothing",
    "dir": arcface_torch.WANDB,
}
PROGRAM = Program("PETALface", RULES, DROPPED, own, DEFAULTS)
