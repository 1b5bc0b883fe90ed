"""LoRA to and from other programs' files: peft's folders by our own reading of the format and by peft, CVLface's."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from adapters import ADAPTERS, Adapters, attach, from_cvlface, from_peft, load, state, to_peft
from recognition.backbones.vit import VisionTransformer
from recognition.gate import Gate
from tests.tiny import Tiny

CONFIG = {  # as peft 0.17 writes it
    "alpha_pattern": {},
    "auto_mapping": {"base_model_class": "VisionTransformer", "parent_library": "recognition.backbones.vit"},
    "base_model_name_or_path": None,
    "bias": "none",
    "corda_config": None,
    "eva_config": None,
    "exclude_modules": None,
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "layer_replication": None,
    "layers_pattern": None,
    "layers_to_transform": None,
    "loftq_config": {},
    "lora_alpha": 12,
    "lora_bias": False,
    "lora_dropout": 0.1,
    "megatron_config": None,
    "megatron_core": "megatron.core",
    "modules_to_save": None,
    "peft_type": "LORA",
    "qalora_group_size": 16,
    "r": 4,
    "rank_pattern": {},
    "revision": None,
    "target_modules": ["qkv", "feature.2"],
    "target_parameters": None,
    "task_type": None,
    "trainable_token_indices": None,
    "use_dora": False,
    "use_qalora": False,
    "use_rslora": False,
}
LAYERS = ("blocks.0.attn.qkv", "blocks.1.attn.qkv", "feature.2")


def vit() -> VisionTransformer:
    torch.manual_seed(1)
    return VisionTransformer(16, 2, 2, embedding_size=8).eval()


def tensors_of(ranks: dict[str, int], prefix: str = "base_model.model.") -> dict[str, Tensor]:
    """Pairs as peft names and shapes them, for layers of vit()."""
    base = vit()
    found = {}
    for name, rank in ranks.items():
        out, inner = base.get_submodule(name).weight.shape
        found[f"{prefix}{name}.lora_A.weight"] = torch.randn(rank, inner)
        found[f"{prefix}{name}.lora_B.weight"] = torch.randn(out, rank)
    return found


def write(folder: Path, tensors: dict[str, Tensor], **changes: object) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **changes}))
    return folder


def by_hand(tensors: dict[str, Tensor], factor: dict[str, float], prefix: str = "base_model.model.") -> nn.Module:
    """vit() with factor * B A added to the weights, in float64."""
    base = vit().double()
    with torch.no_grad():
        for name, scaling in factor.items():
            a, b = (tensors[f"{prefix}{name}.lora_{side}.weight"].double() for side in "AB")
            base.get_submodule(name).weight += scaling * b @ a
    return base


def adapted(found) -> nn.Module:
    backbone = vit()
    bank = Adapters(backbone, Gate())
    bank.load("it", found, any_base=True)
    bank.activate("it")
    return backbone.double()


def image() -> Tensor:
    torch.manual_seed(5)
    return torch.randn(2, 3, 112, 112, dtype=torch.float64)


@pytest.mark.parametrize(
    ("ranks", "changes", "factor"),
    [
        ((4, 4, 4), {}, (3, 3, 3)),
        ((4, 4, 4), {"use_rslora": True}, (6, 6, 6)),
        ((4, 4, 4), {"target_modules": r".*(qkv|feature\.2)"}, (3, 3, 3)),
        ((4, 2, 6), {"rank_pattern": {"blocks.1.attn.qkv": 2, "^feature\\.2": 6}}, (3, 6, 2)),
        (
            (4, 2, 4),
            {"rank_pattern": {"1.attn.qkv": 2}, "alpha_pattern": {"blocks\\.1.attn.qkv": 6}},
            (3, 3, 3),
        ),
        ((4, 4, 4), {"eva_config": {"rho": 2.0}, "init_lora_weights": "eva", "layers_to_transform": [0, 1]}, (3, 3, 3)),
    ],
)
def test_a_folder_of_pefts_is_read_as_it_computes(ranks, changes, factor, tmp_path: Path) -> None:
    tensors = tensors_of(dict(zip(LAYERS, ranks, strict=True)))
    found = from_peft(write(tmp_path, tensors, **changes))
    assert found.name == "lora" and found.arguments["dropout"] == 0.1 and set(found.arguments["targets"]) == {*LAYERS}
    wanted = by_hand(tensors, dict(zip(LAYERS, factor, strict=True)))(image())
    torch.testing.assert_close(adapted(found)(image()), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "VERA"}, "peft_type is 'VERA'; only LORA"),
        ({"use_dora": True, "bias": "all"}, r"lora cannot express use_dora=True, bias='all'"),
        ({"modules_to_save": ["feature"]}, r"modules_to_save=\['feature'\]"),
        ({"invented_later": 3}, "invented_later=3"),
        ({"init_lora_weights": "pissa"}, r"init_lora_weights='pissa' \(it changes the base's own weights\)"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out=True"),
        ({"lora_bias": True}, "lora_bias=True"),
        ({"r": 5}, "has rank 4 in adapter_model.safetensors and 5 in"),
        ({"r": "4"}, "its r is '4'"),
        ({"lora_alpha": None}, "no finite lora_alpha"),
        ({"lora_alpha": float("inf")}, "no finite lora_alpha"),
        ({"target_modules": ["qkv"]}, r"target_modules \['qkv'\] do not name 'feature.2'"),
        ({"target_modules": ["qkv", "feature.2", "fc1"]}, "there are no tensors of its target_modules 'fc1'"),
        ({"rank_pattern": {"(.*)*x": 4}}, "names and numbers are read, no expressions"),
        ({"alpha_pattern": {"feature.2": 5}}, "lora cannot express alpha_pattern={'feature.2': 5}"),
    ],
)
def test_what_lora_cannot_express_is_refused_by_name(changes: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        from_peft(write(tmp_path, tensors_of(dict.fromkeys(LAYERS, 4)), **changes))


def test_tensors_that_are_no_pairs_are_refused(tmp_path: Path) -> None:
    tensors = tensors_of(dict.fromkeys(LAYERS, 4))
    first = "base_model.model.feature.2"
    cases = {
        "'feature.2.lora_magnitude_vector' is no A or B": {**tensors, f"{first}.lora_magnitude_vector": torch.ones(8)},
        "holds only one of A and B": {k: t for k, t in tensors.items() if k != f"{first}.lora_B.weight"},
        "have no rank": {**tensors, f"{first}.lora_A.weight": torch.ones(3, 16)},
        "does not begin with 'base_model.model.'": {k.removeprefix("base_model."): t for k, t in tensors.items()},
        "holds no LoRA layer": {},
    }
    for message, some in cases.items():
        with pytest.raises(ValueError, match=message):
            from_peft(write(tmp_path, some))
    with pytest.raises(ValueError, match=r"'net.blocks.0.attn.qkv.lora_A.weight' does not begin with"):
        from_peft(write(tmp_path, tensors_of(dict.fromkeys(LAYERS, 4), "net.")))
    inside = tensors_of(dict.fromkeys(LAYERS, 4), "base_model.model.net.")
    assert from_peft(write(tmp_path, inside), prefix="net.").arguments["targets"] == [*LAYERS]
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(ValueError, match="only safetensors are read"):
        from_peft(tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(ValueError, match="there is no such file"):
        from_peft(tmp_path)


def started(backbone: nn.Module, **options: object) -> nn.Module:
    attach(backbone, ADAPTERS.create("lora", **options), Gate())
    with torch.no_grad():
        for key, parameter in backbone.named_parameters():
            if key.endswith("lora_b"):
                parameter.normal_()
    return backbone.eval()


OPTIONS = (
    {"rank": 4},
    {"rank": 4, "alpha": 6.0, "dropout": 0.2, "targets": ["blocks.**", "feature.2"]},
    {"rank": 3, "alpha": 6.0, "scaling_rule": "rank_stabilized"},
    {"rank": 4, "scaling": 0.3, "head_rank": 2, "ranks": {"blocks.1.attn.qkv": 5}},
)


@pytest.mark.parametrize("options", OPTIONS)
def test_what_goes_out_comes_back(options: dict, tmp_path: Path) -> None:
    backbone = started(vit(), **options)
    to_peft(backbone, tmp_path, base="somewhere/vit.safetensors")
    config, tensors = (
        json.loads((tmp_path / "adapter_config.json").read_text()),
        load_file(tmp_path / "adapter_model.safetensors"),
    )
    own = state(backbone)
    assert len(tensors) == len(own) and config["base_model_name_or_path"] == "somewhere/vit.safetensors"
    assert torch.equal(tensors["base_model.model.blocks.0.attn.qkv.lora_A.weight"], own["blocks.0.attn.qkv.lora_a"])
    assert torch.equal(tensors["base_model.model.blocks.0.attn.qkv.lora_B.weight"], own["blocks.0.attn.qkv.lora_b"])
    again = from_peft(tmp_path)
    other = vit()
    attach(other, again.make(), Gate())
    load(other, again.tensors)
    torch.testing.assert_close(other(image().float()), backbone(image().float()), rtol=1e-6, atol=1e-6)
    assert again.card["base_weights"] == "somewhere/vit.safetensors"


def test_what_peft_cannot_do_is_refused(tmp_path: Path) -> None:
    cases = (
        (Tiny(), "lora", {"targets": ["pointwise"]}, r"neither dilation \(2, 2\)"),
        (vit(), "lora", {"dropout": 0.1, "dropout_at": "output"}, "dropout_at='output'"),
        (vit(), "dual_lora", {}, "a DualLoRA adapter has no counterpart"),
    )
    for backbone, name, options, message in cases:
        attach(backbone, ADAPTERS.create(name, **options), Gate())
        with pytest.raises(ValueError, match=message):
            to_peft(backbone, tmp_path)
    assert not [*tmp_path.iterdir()]


class Twice(nn.Module):
    """A layer whose name is the end of another's."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 4)
        self.inner = nn.Sequential()
        self.inner.head = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner.head(self.head(x))


def test_a_name_that_ends_another_becomes_an_expression(tmp_path: Path) -> None:
    backbone = started(Twice(), rank=2, targets=["head"])
    to_peft(backbone, tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"] == "head"
    assert from_peft(tmp_path).arguments["targets"] == ["head"]


@pytest.mark.parametrize("options", OPTIONS)
def test_the_real_peft_computes_the_same_and_reads_and_writes_the_same_files(options: dict, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="pip install peft")
    backbone = started(vit(), **options)
    to_peft(backbone, tmp_path / "ours")
    wrapped = peft.PeftModel.from_pretrained(vit(), tmp_path / "ours").eval()
    x = image().float()
    torch.testing.assert_close(wrapped(x), backbone(x), rtol=1e-5, atol=1e-5)
    wrapped.save_pretrained(tmp_path / "theirs")
    found = from_peft(tmp_path / "theirs")
    own = state(backbone)
    assert found.tensors.keys() == own.keys() and all(torch.equal(found.tensors[k], own[k]) for k in own)


@pytest.mark.parametrize(
    "options",
    [
        {"r": 4, "lora_alpha": 12, "target_modules": ["qkv", "feature.0", "feature.2"], "lora_dropout": 0.1},
        {"r": 4, "lora_alpha": 6, "target_modules": ["qkv", "attn.proj", "fc1", "fc2"], "use_rslora": True},
        {"r": 4, "target_modules": ["proj", "qkv"], "rank_pattern": {"attn.proj": 2},
         "exclude_modules": ["0.attn.qkv"]},
        {"r": 2, "target_modules": r"blocks\.\d\.mlp\.fc1"},
    ],
)  # fmt: skip
def test_what_the_real_peft_trained_runs_here(options: dict, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="pip install peft")
    wrapped = peft.get_peft_model(vit(), peft.LoraConfig(**options)).eval()
    with torch.no_grad():
        for key, parameter in wrapped.named_parameters():
            if "lora_B" in key:
                parameter.normal_()
    wrapped.save_pretrained(tmp_path)
    found = adapted(from_peft(tmp_path))(image())
    torch.testing.assert_close(found, wrapped.double()(image()), rtol=1e-5, atol=1e-5)


def test_a_checkpoint_of_cvfaces_wrapped_network() -> None:
    base, rank = vit(), 4
    pairs = tensors_of(dict.fromkeys(LAYERS, rank), "")
    published = {}
    for key, tensor in base.state_dict().items():
        layer, _, last = key.rpartition(".")
        published[f"net.{layer}.base_layer.{last}" if layer in LAYERS else f"net.{key}"] = tensor
    published |= {f"net.{k.replace('.weight', '.default.weight')}": tensor for k, tensor in pairs.items()}
    plain, adapter, arguments = from_cvlface(published)
    assert arguments == {"rank": rank, "targets": [*LAYERS]}
    backbone = VisionTransformer(16, 2, 2, embedding_size=8).eval()
    backbone.load_state_dict(plain)
    attach(backbone, ADAPTERS.create("lora", **arguments), Gate())
    load(backbone, adapter)
    wanted = by_hand(pairs, dict.fromkeys(LAYERS, 1.0), "")(image())
    torch.testing.assert_close(backbone.double()(image()), wanted, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"does not begin with 'model\.'"):
        from_cvlface(published, prefix="model.")
    with pytest.raises(ValueError, match=r"ends in \.lora_A\.other\.weight"):
        from_cvlface(published, adapter_name="other")
    with pytest.raises(ValueError, match="twice"):
        from_cvlface({**published, "net.feature.2.weight": torch.ones(8, 16)})


def test_scaling_by_the_root_of_the_rank_is_pefts(tmp_path: Path) -> None:
    backbone = started(vit(), rank=3, alpha=6.0, scaling_rule="rank_stabilized")
    to_peft(backbone, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["lora_alpha"] / config["r"] == pytest.approx(6 / math.sqrt(3), rel=1e-12) and not config["use_rslora"]
