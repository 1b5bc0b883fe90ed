"""FaceMoE (Kartik-3004/FaceMoE): arcface_torch's settings with experts, in three stages, each a program of its own.

Read in its train.py, train_fc.py, train_full.py, dataset.py, lr_scheduler.py and configs/.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from recognition.migration import arcface_torch, arcface_values
from recognition.migration.found import Found
from recognition.migration.rules import Made, Program, Rule, at_least_one, chosen, flag, text

STAGES = {"train.py": "pretrain", "train_fc.py": "fc", "train_full.py": "full"}
BASE = "checkpoints/facemoe.safetensors"
BASE_HELP = (
    "FaceMoE's pre-trained network, model.pt of the folder {folder}: python tools/convert_checkpoint.py "
    "{folder}/model.pt checkpoints/facemoe.safetensors, which makes checkpoints/facemoe_adapter, too"
)


def stage(found: Found) -> str:
    """pretrain, fc or full: by the program that was started, else by the names of config and folders.

    ValueError where neither tells, and it starts from another folder than its own.
    """
    if found.script in STAGES:
        return STAGES[found.script]
    for name in (found.source, str(found.get("output") or "")):
        last = PurePosixPath(name).name.removesuffix(".py")
        if last.endswith(("_fc", "_full")):
            return last.rpartition("_")[2]
    start, own_folder = (str(found.get(name) or "").rstrip("/") for name in ("pretrained", "output"))
    if start and start != own_folder:
        raise ValueError(
            "it starts from another folder than its output, so it is a second stage, and which one only its program "
            "tells: convert the line that starts it, in quotes, such as 'torchrun --nproc_per_node=8 train_full.py "
            f"{found.source}'"
        )
    return "pretrain"


def network(value: object, found: Found) -> Made:
    """Swin with the shift mask; experts are an adapter."""
    chosen(value, {"swin_moe": None}, "network")
    return Made({"backbone.name": "swin_120"}, "with the shift mask, as there; experts are the adapter")


def experts(value: object, found: Found) -> Made:
    """The adapter, as the published weights were trained."""
    trained = {"pretrain": "all", "fc": "none", "full": "all"}[stage(found)]
    into = {
        "adapter.name": "moe",
        "adapter.experts": at_least_one(value),
        "adapter.mixing": "logits",
        "adapter.z_loss": "code",
        "adapter.train": trained,
    }
    if stage(found) == "pretrain":
        into["adapter.auxiliary_weight"] = 0.0
        return Made(into, "no auxiliary loss, as its train.py; experts start as copies of one MLP, not there")
    if stage(found) == "fc":
        return Made(into, "its statistics move in this stage, dropout acts; here the network stands still")
    return Made(into, "raw logits as weights, its own z-loss, 10 times both losses: as there")


def top_k(value: object, found: Found) -> Made:
    """How many experts a token takes."""
    return Made({"adapter.top_k": at_least_one(value)})


def pretrained(value: object, found: Found) -> Made:
    """What a stage starts from: converted weights, or our run of the stage before."""
    folder = text(value)
    if stage(found) == "pretrain":
        return Made({}, "its train.py reads it on resume only: this stage is from scratch")
    if stage(found) == "fc":
        return Made({"backbone.weights": BASE, "adapter.weights": BASE.replace(".safetensors", "_adapter")})
    run = f"runs/{PurePosixPath(folder).name}"
    into = {"backbone.weights": BASE, "adapter.weights": run}
    if found.get("optimizer") == "sgd":
        remark = "its train_full.py draws new centres for sgd, after it has loaded the first stage's: random here, too"
        return Made(into, f"the first stage as a run of ours, {run}, from the same base: its experts; {remark}")
    into["classifier.init"] = run
    return Made(into, f"the first stage as a run of ours, {run}, from the same base: its centres and experts")


def output(value: object, found: Found) -> Made:
    """The run's name: the next stage's config names its folder."""
    name = PurePosixPath(text(value)).name
    return Made({"run.name": name}, f"runs/{name}, which the next stage starts from")


def precision(value: object, found: Found) -> Made:
    """float32: its Swin has no autocast, as PETALface's."""
    flag(value)
    return Made({"train.precision": "fp32"}, "fp16 scales the loss there, its Swin computes in fp32; bf16 is faster")


def augmented(found: Found) -> Made:
    """Its dataset always augments, unless DALI reads."""
    if found.get("dali"):
        return Made({}, "DALI's loader augments by dali_aug alone")
    return Made({"data.augment": ["adaface"]}, "crops, low resolution and colours, 0.2 each, as its dataset.py")


def own(found: Found) -> list[tuple[str, Made]]:
    """What its programs do by themselves."""
    theirs = [one for one in arcface_torch.own(found) if "adapter.name" not in one[1].into]
    return [*theirs, ("its dataset augments", augmented(found))]


RULES = {
    **{name: rule for name, rule in arcface_torch.RULES.items() if name not in ("loss", *arcface_torch.STEPPING)},
    "lr": Rule("`optim.lr`", arcface_values.lr, ("optim.lr",)),
    "network": Rule("`backbone.name=swin_120`", network, ("backbone.name",), "swin_moe; with the shift mask, as there"),
    "num_experts": Rule(
        "`adapter.name=moe`, `adapter.experts`",
        experts,
        ("adapter.name", "adapter.experts"),
        "`mixing=logits`, `z_loss=code`; `train` by stage: all, none (train_fc.py), all (train_full.py)",
    ),
    "k": Rule(
        "`adapter.top_k`",
        top_k,
        ("adapter.name", "adapter.top_k"),
    ),
    "pretrained": Rule(
        "`backbone.weights`, `adapter.weights`",
        pretrained,
        ("backbone.weights",),
        "second stage: the run of the first one, and `classifier.init`; with sgd its centres are drawn anew, as there",
    ),
    "output": Rule("`run.name`", output, ("run.name",), "its last part: the next stage starts from that run"),
    "fp16": Rule("`train.precision=fp32`", precision, ("train.precision",), "it scales the loss only; bf16 is faster"),
}
DROPPED = {
    **{name: why for name, why in arcface_torch.DROPPED.items() if name != "output"},
    "size": "the network's own, 120; pictures of 112 are enlarged",
    "use_moe": "the adapter says it",
}
DEFAULTS = {**arcface_torch.DEFAULTS, "network": "swin_moe", "num_experts": 3, "k": 2}
PROGRAM = Program("FaceMoE", RULES, DROPPED, own, DEFAULTS)
