"""Published weights by our names: whose they are, what their tensors cannot tell, adapters in folders."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from pytest import CaptureFixture
from torch import Tensor

import adapters
from recognition.backbones import BACKBONES
from recognition.gate import Gate
from recognition.published import backbone_arguments, complete_adapter, find_backbone, sort_out
from recognition.runs import load_adapters
from recognition.weights import Weights, read_weights, sha256, without_memory, write_weights
from recognition.weights.adapter_part import split_adapter
from tests.tiny import TinyViT, nameable
from tools import convert_checkpoint, merge_adapter
from tools.convert_checkpoint import convert

SOURCE = Path("published.pt")
QKV = tuple(f"blocks.{i}.attn.qkv" for i in range(3))


@pytest.fixture
def tiny() -> Iterator[str]:
    with nameable():
        yield "tiny_vit_of_tests"


def read(tensors: dict[str, Tensor]) -> Weights:
    base, adapter, publisher = split_adapter(tensors, SOURCE)
    return Weights(base, {}, adapter, publisher)


def keys(oracles: Path, name: str) -> dict[str, Tensor]:
    """A published file's tensors without their numbers."""
    found = json.loads((oracles / f"{name}.keys.json").read_text())
    return {key: torch.empty(shape, device="meta") for key, shape in found.items()}


@pytest.mark.parametrize(
    ("name", "publisher", "mask", "adapter"),
    [
        ("petal_swin_256new", "", False, None),
        ("petal_swin_256new_lora", "petalface", False, ("lora", {"rank": 8, "dropout": 0.1, "dropout_at": "output"})),
        (
            "petal_swin_256new_iqa",
            "petalface",
            False,
            ("dual_lora", {"rank": 8, "dropout": 0.1, "dropout_at": "output", "scaling": 1.0, "head": True}),
        ),
        ("moe_swin_moe", "facemoe", True, ("moe", {"experts": 3, "top_k": 2, "mixing": "logits", "z_loss": "code"})),
    ],
)
def test_published_swins(oracles: Path, name: str, publisher: str, mask: bool, adapter: tuple | None) -> None:
    found = sort_out(read(keys(oracles, name)), SOURCE)
    assert found.publisher == publisher and find_backbone(found, SOURCE) == "swin_120"
    assert backbone_arguments("swin_120", found) == {"shift_mask": mask}
    if adapter is None:
        assert not found.adapter
        return
    chosen, about = complete_adapter(found, lambda: BACKBONES.create("swin_120"), SOURCE)
    assert found.name == adapter[0] and chosen == adapters.whole_arguments(*adapter)
    assert about["preprocessing"]["input_size"] == 120


def test_the_embedding_size_is_told_by_the_projection() -> None:
    with without_memory():
        tensors = BACKBONES.create("swin_120", embedding_size=32).state_dict()
    found = sort_out(read({k: t for k, t in tensors.items() if not k.endswith("num_batches_tracked")}), SOURCE)
    assert backbone_arguments("swin_120", found) == {"shift_mask": False, "embedding_size": 32}


def petalface(base: dict[str, Tensor], gated: bool) -> dict[str, Tensor]:
    found = dict(base)
    for layer in (*QKV, *(["head.0"] if gated else [])):
        outputs, inputs = base[f"{layer}.weight"].shape
        for number in ("", "2") if gated and layer != "head.0" else ("",):
            found[f"{layer}.trainable_lora_down{number}.weight"] = torch.randn(3, inputs)
            found[f"{layer}.trainable_lora_up{number}.weight"] = torch.randn(outputs, 3)
    return found


def facemoe(base: dict[str, Tensor], experts: int = 4, blocks: int = 3) -> dict[str, Tensor]:
    found = dict(base)
    for block in range(blocks):
        mlp = f"blocks.{block}.mlp"
        dense = {key: found.pop(key) for key in base if key.startswith(f"{mlp}.")}
        for number in range(experts):
            for key, tensor in dense.items():
                found[key.replace(mlp, f"{mlp}.experts.{number}")] = tensor + 0.1 * torch.randn_like(tensor)
        found[f"{mlp}.router.gate.weight"] = torch.randn(experts, 16)
    return found


def cvlface(base: dict[str, Tensor]) -> dict[str, Tensor]:
    found = {f"net.{key}": tensor for key, tensor in base.items()}
    for layer in QKV:
        for end in ("weight", "bias"):
            found[f"net.{layer}.base_layer.{end}"] = found.pop(f"net.{layer}.{end}")
        found[f"net.{layer}.lora_A.default.weight"] = torch.randn(2, 16)
        found[f"net.{layer}.lora_B.default.weight"] = torch.randn(48, 2)
    return found


def own() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {key: tensor for key, tensor in TinyViT().state_dict().items() if not key.endswith("num_batches_tracked")}


@pytest.mark.parametrize("gated", [False, True])
def test_lora_of_petalface_becomes_a_folder(tmp_path: Path, tiny: str, capsys: CaptureFixture, gated: bool) -> None:
    tensors, out, value = petalface(own(), gated), tmp_path / "base.safetensors", 0.3
    torch.save(tensors, tmp_path / "lora.pt")
    assert convert_checkpoint.main([str(tmp_path / "lora.pt"), str(out), "--licence", "CC0"]) == 0
    name = "dual_lora" if gated else "lora"
    assert f"base_adapter: {name}(rank=3, " in capsys.readouterr().out
    saved = adapters.read_folder(tmp_path / "base_adapter")
    chosen = {"rank": 3, "scaling": 1.0, "dropout": 0.1, "dropout_at": "output", **({"head": True} if gated else {})}
    assert saved.name == name and saved.arguments == adapters.whole_arguments(name, chosen)
    assert saved.card["base_tensors_sha256"] == adapters.hash_tensors(read_weights(out).tensors)
    assert saved.card["base_sha256"] == sha256(out) and saved.card["licence"] == "CC0"
    assert saved.card["preprocessing"]["input_size"] == 16 and saved.card["buffers"] == []
    told = (tmp_path / "base_adapter" / "README.md").read_text()
    assert "converted from `lora.pt`" in told and ("not told: merge it at one gate" in told) == gated

    plain = own()
    for key in list(plain):
        layer = key.removesuffix(".weight")
        down, up = (tensors.get(f"{layer}.trainable_lora_{side}.weight") for side in ("down", "up"))
        two = tensors.get(f"{layer}.trainable_lora_down2.weight")
        if down is not None and two is None:
            plain[key] = plain[key] + up @ down
        elif down is not None:
            second = tensors[f"{layer}.trainable_lora_up2.weight"] @ two
            plain[key] = plain[key] + (1 - value) * up @ down + value * second
    by_hand, image = TinyViT().eval(), torch.randn(3, 3, 16, 16)
    by_hand.load_state_dict(plain, strict=False)
    model, bank = load_adapters({"it": tmp_path / "base_adapter"}, out)
    bank.activate("it")
    with torch.no_grad(), model.gate.scope(torch.full((3,), value)):
        torch.testing.assert_close(model.backbone(image), by_hand(image), rtol=1e-4, atol=1e-4)

    command = [str(tmp_path / "base_adapter"), str(tmp_path / "merged.safetensors"), "--base", str(out)]
    command += ["--gate", str(value)] if gated else []
    assert merge_adapter.main(command) == 0  # without --any-base
    read = read_weights(out)
    changed = {key: tensor * 1.01 for key, tensor in read.tensors.items()}
    write_weights(tmp_path / "other.safetensors", changed, read.card)
    command[3] = str(tmp_path / "other.safetensors")
    assert merge_adapter.main(command) == 2
    assert f"on SHA-256 {saved.card['base_tensors_sha256']}, and" in capsys.readouterr().err


@pytest.mark.parametrize("blocks", [3, 1])
def test_experts_of_facemoe_become_a_folder(tmp_path: Path, tiny: str, blocks: int) -> None:
    tensors = facemoe(own(), blocks=blocks)
    torch.save({"state_dict_backbone": {f"module.{k}": t for k, t in tensors.items()}}, tmp_path / "moe.pt")
    lines = convert(tmp_path / "moe.pt", tmp_path / "base.safetensors")
    assert f"{tiny}()" in lines[0] and "base_adapter: moe(experts=4, top_k=2, mixing='logits'" in lines[1]
    saved = adapters.read_folder(tmp_path / "base_adapter")
    assert saved.arguments["targets"] == (None if blocks == 3 else ["blocks.0.mlp"])
    assert saved.arguments["auxiliary_weight"] == 10.0 and saved.arguments["train"] == "experts"
    base, wanted = read_weights(tmp_path / "base.safetensors").tensors, adapters.from_facemoe(tensors)
    assert base.keys() == own().keys() and all(torch.equal(base[key], wanted[0][key]) for key in base)
    assert saved.tensors.keys() == wanted[1].keys()

    backbone, gate = TinyViT(), Gate()
    backbone.load_state_dict(wanted[0], strict=False)
    adapters.attach(backbone, adapters.ADAPTERS.create("moe", **saved.arguments), gate)
    adapters.load(backbone, wanted[1])
    model, bank = load_adapters({"it": tmp_path / "base_adapter"}, tmp_path / "base.safetensors")
    bank.activate("it")
    image = torch.randn(3, 3, 16, 16)
    with torch.no_grad(), gate.scope(None):
        torch.testing.assert_close(model.embed(image), backbone.eval()(image), rtol=1e-4, atol=1e-4)
        bank.disable()
        assert (model.embed(image) - backbone(image)).abs().max() > 0.1


def test_lora_of_cvlface_becomes_a_folder(tmp_path: Path, tiny: str) -> None:
    plain = own()
    torch.save(cvlface(plain), tmp_path / "model.pt")
    convert(tmp_path / "model.pt", tmp_path / "base.safetensors")
    model, bank = load_adapters({"it": tmp_path / "base_adapter"}, tmp_path / "base.safetensors")
    bank.activate("it")
    for layer in QKV:
        a, b = (torch.load(tmp_path / "model.pt")[f"net.{layer}.lora_{side}.default.weight"] for side in "AB")
        plain[f"{layer}.weight"] = plain[f"{layer}.weight"] + b @ a
    by_hand, image = TinyViT(), torch.randn(3, 3, 16, 16)
    by_hand.load_state_dict(plain, strict=False)
    with torch.no_grad():
        torch.testing.assert_close(model.embed(image), by_hand.eval()(image), rtol=1e-4, atol=1e-4)


def test_what_cannot_be_told_apart_is_refused(tmp_path: Path, tiny: str) -> None:
    plain = own()
    lora = petalface(plain, False)
    cases = {
        "several publishers: petalface, facemoe": {**facemoe(plain), "stem.trainable_lora_up.weight": torch.ones(1)},
        r"block 'blocks\.0\.mlp' holds the experts": {
            k: t for k, t in facemoe(plain).items() if "0.mlp.experts.1" not in k
        },
        r"'blocks\.1\.mlp\.router\.weight' has shape \(4, 15\), wanted \(4, 16\)": {
            **facemoe(plain),
            "blocks.1.mlp.router.gate.weight": torch.ones(4, 15),
        },
        r"router\.gate\.weight' \(1099511627776, 0\) holds no numbers": {
            **facemoe(plain),
            "blocks.1.mlp.router.gate.weight": torch.ones(2**40, 0),
        },
        "it must be at least 2": facemoe(plain, experts=1),
        "no half of one of": {**lora, "blocks.0.attn.qkv.trainable_lora_other.weight": torch.ones(2, 2)},
        r"ranks \[3, 4\]": {**lora, "blocks.0.attn.qkv.trainable_lora_down.weight": torch.ones(4, 16)},
        r"down\.weight' \(3,\) is no half": {**lora, "blocks.0.attn.qkv.trainable_lora_down.weight": torch.ones(3)},
        r"\(3, 7\), wanted \(3, 16\)": {**lora, "blocks.0.attn.qkv.trainable_lora_down.weight": torch.ones(3, 7)},
        r"'blocks\.2\.attn\.qkv' holds trainable_lora_down;": {
            k: t for k, t in lora.items() if k != "blocks.2.attn.qkv.trainable_lora_up.weight"
        },
        "infinity": {**lora, "blocks.0.attn.qkv.trainable_lora_up.weight": torch.full((48, 3), torch.inf)},
        "holds only one of A and B": {
            k: t for k, t in cvlface(plain).items() if k != "net.blocks.0.attn.qkv.lora_A.default.weight"
        },
    }
    for words, tensors in cases.items():
        torch.save(tensors, tmp_path / "net.pt")
        with pytest.raises(ValueError, match=rf"net\.pt(?s:.*){words}"):
            convert(tmp_path / "net.pt", tmp_path / "out.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["net.pt"]
    torch.save(facemoe(plain), tmp_path / "net.pt")
    with pytest.raises(ValueError, match=r"51 of a mixture of experts.*tools/convert_checkpoint\.py"):
        read_weights(tmp_path / "net.pt")
