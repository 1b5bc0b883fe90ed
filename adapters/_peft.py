"""LoRA adapters of other programs: peft's folders, in and out, and CVLface's checkpoints of a network wrapped by peft.

peft's folder holds adapter_config.json and adapter_model.safetensors with `base_model.model.LAYER.lora_A.weight` and
`lora_B.weight`, shaped as our lora_a and lora_b. What `lora` cannot express is an error that names the setting.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor, nn

from adapters import ADAPTERS
from adapters._attach import attached, state
from adapters._files import Card, Saved, read_object, read_tensors
from recognition.files import flush, replacing

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
WRAPPER = "base_model.model."  # before every name in peft's files

USED = ("peft_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "rank_pattern", "alpha_pattern", "bias")
USED += ("target_modules", "init_lora_weights")
OF_NO_EFFECT = ("auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "task_type", "peft_version")
OF_NO_EFFECT += ("megatron_core", "qalora_group_size", "eva_config")  # without the switches that use them
TOLD_BY_TENSORS = ("exclude_modules", "layers_to_transform", "layers_pattern")
# Of these only A and B differ from ordinary training; pissa, olora, corda and loftq change the base's weights too.
PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
PLAIN_NAME = re.compile(r"\^?(?:\w|\\?[.-])+")  # a pattern of peft's that is no more than a name


def from_peft(folder: str | Path, *, prefix: str = "") -> Saved:
    """Read a LoRA folder that peft's save_pretrained wrote, as an adapter `lora`.

    prefix: what the wrapped model put before the backbone's names, such as "net."; "" for the backbone itself.
    The card tells no base, since peft tells none by hash: Adapters.load(name, saved, any_base=True).
    ValueError for every setting that lora cannot express, by name, and for tensors and settings that disagree.
    """
    folder = Path(folder)
    config, path = read_object(folder / CONFIG), folder / TENSORS
    _check_settings(config, folder / CONFIG)
    if not path.is_file():
        raise ValueError(f"{folder} holds no {TENSORS}; only safetensors are read, so save it again with peft")
    mark = WRAPPER + prefix
    base, adapter = _split(read_tensors(path), mark, "", path)
    if base:
        raise ValueError(f"{path}: '{next(iter(base))}' is no A or B of a LoRA layer, which is all that lora has")
    if not adapter:
        raise ValueError(f"{path}: holds no LoRA layer")
    ranks = {name: adapter[f"{name}.lora_a"].shape[0] for name in _layers(adapter)}
    _check_targets(config.get("target_modules"), prefix, ranks, folder / CONFIG)
    for name, rank in ranks.items():
        told = _by_pattern(config, "rank_pattern", prefix + name, config["r"], folder / CONFIG)
        if told != rank:
            raise ValueError(f"{folder}: '{name}' has rank {rank} in {TENSORS} and {told} in {CONFIG}")
    arguments = {**_rank_arguments(ranks), **_scaling_arguments(config, ranks, prefix, folder / CONFIG)}
    if config.get("lora_dropout"):
        arguments["dropout"] = float(config["lora_dropout"])
    card: Card = {"adapter": {"name": "lora", **arguments}, "base_weights": config.get("base_model_name_or_path") or ""}
    return Saved(path, "lora", arguments, adapter, {}, card)


def to_peft(backbone: nn.Module, folder: str | Path, *, prefix: str = "", base: str | None = None) -> Path:
    """Write the backbone's `lora` as a folder for peft's PeftModel.from_pretrained(backbone, folder).

    prefix: put before the layers' names, for a model that holds the backbone under a name of its own ("net.").
    base: what to write as base_model_name_or_path. Returns the tensor file.
    ValueError for another adapter than lora, and for what peft's LoRA cannot do: dropout after B, a convolution with
    dilation or padding other than zeros.
    """
    found = attached(backbone)
    layers = {prefix + name: backbone.get_submodule(name) for name in found.report.adapted}
    if type(found.adapter) is not ADAPTERS.get("lora"):
        raise ValueError(f"a {type(found.adapter).__name__} adapter has no counterpart in peft's LoRA; only lora has")
    for name, layer in layers.items():
        _check_layer(name, layer)
    rank, scaling, dropout = (
        Counter(getattr(layer, what) for layer in layers.values()).most_common(1)[0][0]
        for what in ("rank", "scaling", "dropout")
    )
    alphas = {name: layer.scaling * layer.rank for name, layer in layers.items()}
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": _whole(scaling * rank),
        "lora_dropout": dropout,
        "modules_to_save": None,
        "r": rank,
        "rank_pattern": {_pattern(name): layer.rank for name, layer in layers.items() if layer.rank != rank},
        "alpha_pattern": {_pattern(n): _whole(alpha) for n, alpha in alphas.items() if alpha != scaling * rank},
        "target_modules": _targets([*layers], [prefix + name for name, _ in backbone.named_modules()]),
        "task_type": None,
        "use_dora": False,
        "use_rslora": False,
    }
    tensors = {}
    for key, tensor in state(backbone).items():
        name, _, last = key.rpartition(".")
        tensors[f"{WRAPPER}{prefix}{name}.lora_{last[-1].upper()}.weight"] = tensor
    folder = Path(folder)
    with replacing(folder / CONFIG) as config_file, replacing(folder / TENSORS) as tensor_file:
        config_file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        flush(config_file)
        tensor_file.write_bytes(save(tensors, metadata={"format": "pt"}))
    return folder / TENSORS


def from_cvlface(
    tensors: Mapping[str, Tensor], *, prefix: str = "net.", adapter_name: str = "default"
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, object]]:
    """(base, adapter, arguments of lora) out of one CVLface checkpoint (model.pt) trained with its pefts/lora.

    CVLface wraps the network by peft and saves it whole: `net.L.base_layer.weight`, `net.L.lora_A.default.weight`.
    prefix, adapter_name: its quirks in the names. Its alpha always equals the rank, and no file tells it: scaling 1.
    ValueError for names without the prefix, incomplete pairs and a checkpoint without LoRA.
    """
    base, adapter = _split(tensors, prefix, f".{adapter_name}", "the checkpoint")
    if not adapter:
        raise ValueError(f"the checkpoint holds no LoRA layer: none of its names ends in .lora_A.{adapter_name}.weight")
    plain: dict[str, Tensor] = {}
    for key, tensor in base.items():
        own = key.replace(".base_layer.", ".")
        if own in plain:
            raise ValueError(f"the checkpoint holds '{key}' twice, inside a LoRA layer and beside it")
        plain[own] = tensor
    ranks = {name: adapter[f"{name}.lora_a"].shape[0] for name in _layers(adapter)}
    return plain, adapter, _rank_arguments(ranks)


def _split(
    tensors: Mapping[str, Tensor], prefix: str, adapter: str, where: object
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """All other tensors, and the LoRA pairs by our names; both without the prefix."""
    others, found = {}, {}
    ends = {f".lora_A{adapter}.weight": ".lora_a", f".lora_B{adapter}.weight": ".lora_b"}
    for key, tensor in tensors.items():
        if not key.startswith(prefix):
            raise ValueError(f"{where}: '{key}' does not begin with '{prefix}'; give the prefix that its names have")
        own = key.removeprefix(prefix)
        end = next((end for end in ends if own.endswith(end)), None)
        if end is None:
            others[own] = tensor
        else:
            found[own.removesuffix(end) + ends[end]] = tensor
    for name in _layers(found):
        a, b = found.get(f"{name}.lora_a"), found.get(f"{name}.lora_b")
        if a is None or b is None:
            raise ValueError(f"{where}: layer '{name}' holds only one of A and B")
        if a.dim() < 2 or b.dim() < 2 or a.shape[0] != b.shape[1]:
            raise ValueError(f"{where}: A {tuple(a.shape)} and B {tuple(b.shape)} of layer '{name}' have no rank")
    return others, found


def _layers(adapter: Mapping[str, Tensor]) -> list[str]:
    return list(dict.fromkeys(key.rpartition(".")[0] for key in adapter))


def _check_settings(config: Card, path: Path) -> None:
    """ValueError for settings that lora cannot express, all by name."""
    if config.get("peft_type") != "LORA":
        raise ValueError(f"{path}: peft_type is {config.get('peft_type')!r}; only LORA is read")
    faults = []
    for key, value in config.items():
        if value and key not in (*USED, *OF_NO_EFFECT, *TOLD_BY_TENSORS):
            faults.append(f"{key}={value!r}")
    if config.get("bias", "none") != "none":
        faults.append(f"bias={config['bias']!r}")
    start = config.get("init_lora_weights")
    if start not in PLAIN_STARTS:
        faults.append(f"init_lora_weights={start!r} (it changes the base's own weights)")
    if faults:
        raise ValueError(f"{path}: lora cannot express {', '.join(faults)[:600]}")
    kinds = {"r": int, "lora_alpha": int | float, "rank_pattern": dict, "alpha_pattern": dict}
    for key, kind in {**kinds, "lora_dropout": int | float, "use_rslora": bool}.items():
        if not isinstance(config.get(key, {} if kind is dict else 0), kind | type(None)):
            raise ValueError(f"{path}: its {key} is {config[key]!r}")
    if not config.get("r") or config["r"] < 1 or not math.isfinite(config.get("lora_alpha") or math.nan):
        raise ValueError(f"{path}: it tells no r above 0, or no finite lora_alpha")


def _check_targets(targets: object, prefix: str, ranks: Mapping[str, int], path: Path) -> None:
    """ValueError where the tensors are not of the layers that a list of targets names; patterns are not run."""
    if not isinstance(targets, list):
        return
    wanted = dict.fromkeys(targets, False)
    for name in ranks:
        met = [t for t in wanted if prefix + name == t or f"{prefix}{name}".endswith(f".{t}")]
        if not met:
            raise ValueError(f"{path}: its target_modules {targets} do not name '{name}', of which there are tensors")
        wanted.update(dict.fromkeys(met, True))
    if unmet := [target for target, found in wanted.items() if not found]:
        raise ValueError(f"{path}: there are no tensors of its target_modules {', '.join(map(repr, unmet))}")


def _by_pattern(config: Card, key: str, name: str, default: float, path: Path) -> float:
    """A layer's value in rank_pattern or alpha_pattern: the first pattern that the end of its name matches."""
    for pattern, value in (config.get(key) or {}).items():
        if not PLAIN_NAME.fullmatch(pattern) or isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{path}: {key} holds {pattern!r}: {value!r}; names and numbers are read, no expressions")
        plain = pattern.removeprefix("^").replace("\\", "")
        if name == plain or (not pattern.startswith("^") and name.endswith(f".{plain}")):
            return value
    return default


def _rank_arguments(ranks: Mapping[str, int]) -> dict[str, object]:
    rank = Counter(ranks.values()).most_common(1)[0][0]
    others = {name: other for name, other in ranks.items() if other != rank}
    return {"rank": rank, "targets": list(ranks), **({"ranks": others} if others else {})}


def _scaling_arguments(config: Card, ranks: Mapping[str, int], prefix: str, path: Path) -> dict[str, object]:
    """alpha and its rule, or one scaling for all. ValueError where layers have factors that no rule gives."""
    stabilized = bool(config.get("use_rslora"))
    alphas = {n: _by_pattern(config, "alpha_pattern", prefix + n, config["lora_alpha"], path) for n in ranks}
    if len(set(alphas.values())) == 1:
        rule = {"scaling_rule": "rank_stabilized"} if stabilized else {}
        return {"alpha": float(next(iter(alphas.values()))), **rule}
    factors = {alphas[n] / (math.sqrt(rank) if stabilized else rank) for n, rank in ranks.items()}
    if max(factors) - min(factors) > 1e-12 * max(factors):
        raise ValueError(f"{path}: lora cannot express alpha_pattern={config['alpha_pattern']!r}: layers scale unlike")
    return {"scaling": factors.pop()}


def _check_layer(name: str, layer: nn.Module) -> None:
    if layer.dropout and layer.dropout_at != "input":
        raise ValueError("peft's LoRA cannot express dropout_at='output': its dropout stands before A")
    if isinstance(layer, nn.Conv2d) and (set(layer.dilation) != {1} or layer.padding_mode != "zeros"):
        raise ValueError(
            f"peft's LoRA cannot express '{name}': it gives A neither dilation {layer.dilation} nor padding "
            f"'{layer.padding_mode}'"
        )


def _targets(names: list[str], modules: list[str]) -> list[str] | str:
    """The layers' full names, or an expression where peft would take a name for the end of another layer's, too."""
    met = {m for m in modules if any(m == name or m.endswith(f".{name}") for name in names)}
    return names if met == set(names) else "|".join(re.escape(name) for name in names)


def _pattern(name: str) -> str:
    return "^" + re.escape(name)


def _whole(alpha: float) -> int | float:
    return int(alpha) if float(alpha).is_integer() else alpha
