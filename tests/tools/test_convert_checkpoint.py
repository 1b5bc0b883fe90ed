"""tools/convert_checkpoint.py: published weights to safetensors with a card, and a network that loads them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

import adapters
from adapters import ADAPTERS
from recognition.backbones import BACKBONES
from recognition.gate import Gate
from recognition.weights import load_strictly, read_weights
from tests.oracles.fill import images
from tools.convert_checkpoint import _told, convert, find_backbone, main


def published(path: Path, name: str, **arguments) -> dict[str, torch.Tensor]:
    state = BACKBONES.create(name, **arguments).state_dict()
    torch.save({"state_dict_backbone": {f"module.{key}": tensor for key, tensor in state.items()}, "epoch": 1}, path)
    return state


def test_a_torch_file_of_r18(tmp_path, capsys):
    source, out = tmp_path / "backbone.pth", tmp_path / "out" / "r18.safetensors"
    state = published(source, "r18", embedding_size=64)
    assert main([str(source), str(out), "--licence", "MIT"]) == 0
    assert "r18(embedding_size=64)" in capsys.readouterr().out
    read = read_weights(out)
    assert read.card == {
        "backbone": "r18",
        "arguments": {"embedding_size": 64},
        "embedding_size": 64,
        "input_size": 112,
        "colour_order": "RGB",
        "image_range": [-1.0, 1.0],
        "source": "backbone.pth",
        "source_sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        "licence": "MIT",
    }
    model = BACKBONES.create("r18", embedding_size=64)
    load_strictly(model, read.tensors, out)
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())
    # What was converted converts again, with its card.
    assert main([str(out), str(tmp_path / "again.safetensors")]) == 0
    assert read_weights(tmp_path / "again.safetensors").card["licence"] == "MIT"


def test_the_real_mobilefacenet(tmp_path, oracles, real_data):
    out = tmp_path / "y1.safetensors"
    assert main([str(real_data / "weights" / "mobilefacenet_y1-0000.params"), str(out)]) == 0
    read = read_weights(out)
    assert read.card["backbone"] == "mobilefacenet_y1" and read.card["embedding_size"] == 128
    assert "non-commercial" in read.card["licence"]
    model = BACKBONES.create("mobilefacenet_y1").eval()
    load_strictly(model, read.tensors, out)
    with np.load(oracles / "mobilefacenet_y1.npz") as oracle, torch.no_grad():
        embedding = model(torch.from_numpy(oracle["images_rgb_u8"]).float() / 127.5 - 1).numpy()
        wanted = oracle["embeddings"]
    assert abs(embedding - wanted).max() <= 1e-4 * abs(wanted).max()


@pytest.mark.parametrize("gated", [False, True])
def test_an_adapter_of_petalface_gets_a_file_of_its_own(tmp_path, gated):
    source, out = tmp_path / "vit.pt", tmp_path / "vit.safetensors"
    state = BACKBONES.create("vit_t").state_dict()
    layers = [f"blocks.{i}.attn.qkv" for i in range(12)]
    sides = [(layer, "2" if two else "") for layer in layers for two in range(1 + gated)]
    sides += [(layer, "") for layer in ("feature.0", "feature.2") if gated]
    for layer, number in sides:
        outputs, inputs = state[f"{layer}.weight"].shape
        state[f"{layer}.trainable_lora_down{number}.weight"] = torch.randn(3, inputs) * 0.02
        state[f"{layer}.trainable_lora_up{number}.weight"] = torch.randn(outputs, 3) * 0.2
    torch.save(state, source)
    assert main([str(source), str(out), "--backbone", "vit_t"]) == 0
    base, adapter = read_weights(out), read_weights(tmp_path / "vit_adapter.safetensors")
    assert adapter.card["adapter"] == ("dual_lora" if gated else "lora") and adapter.card["base"] == "vit.safetensors"
    assert adapter.card["arguments"] == ({"rank": 3, "head": True} if gated else {"rank": 3})

    model, gate = BACKBONES.create("vit_t").eval(), Gate()
    load_strictly(model, base.tensors, out)
    adapters.attach(model, ADAPTERS.create(adapter.card["adapter"], **adapter.card["arguments"]), gate)
    adapters.load(model, adapter.tensors)
    plain = BACKBONES.create("vit_t").eval()
    value = 0.3
    for key, tensor in base.tensors.items():
        layer = key.removesuffix(".weight")
        down, up = (state.get(f"{layer}.trainable_lora_{side}.weight") for side in ("down", "up"))
        if down is None or tensor.dim() != 2:
            continue
        two = state.get(f"{layer}.trainable_lora_down2.weight")
        if two is None:
            tensor += up @ down
        else:
            tensor += (1 - value) * up @ down + value * state[f"{layer}.trainable_lora_up2.weight"] @ two
    load_strictly(plain, base.tensors, "merged by hand")
    image = torch.from_numpy(images(2, 112, 1))
    with torch.no_grad(), gate.scope(torch.full((2,), value)):
        assert torch.allclose(model(image), plain(image), rtol=1e-3, atol=1e-4)


def test_published_swin_weights_keep_their_missing_mask():
    with torch.device("meta"):
        tensors = {
            key: tensor
            for key, tensor in BACKBONES.create("swin_120", embedding_size=32).state_dict().items()
            if not key.endswith("num_batches_tracked")
        }
    assert _told("swin_120", tensors) == {"shift_mask": False, "embedding_size": 32}
    assert find_backbone(tensors, Path("swin.pt")) == "swin_120"


def test_what_fits_no_backbone_names_the_nearest(tmp_path, capsys):
    source, out = tmp_path / "backbone.pth", tmp_path / "out.safetensors"
    state = published(source, "r18")
    state["extra"] = torch.ones(2)
    torch.save(state, source)
    assert main([str(source), str(out)]) == 2
    assert "nearest is r18" in capsys.readouterr().err
    assert main([str(source), str(out), "--backbone", "r18"]) == 2
    assert "1 unexpected: extra" in capsys.readouterr().err
    assert main([str(source), str(out), "--backbone", "r81"]) == 2
    assert "r18" in capsys.readouterr().err
    assert not out.exists()


def test_broken_numbers_and_the_source_itself_are_refused(tmp_path):
    source = tmp_path / "net.pt"
    torch.save({"a": torch.tensor([1.0, float("nan")])}, source)
    with pytest.raises(ValueError, match="'a'"):
        convert(source, tmp_path / "out.safetensors")
    with pytest.raises(ValueError, match="source itself"):
        convert(source, source)
    with pytest.raises(ValueError, match="shift_mask"):
        published(source, "r18")
        convert(source, tmp_path / "out.safetensors", "r18", {"shift_mask": False})


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda s: s.update({"blocks.0.attn.qkv.trainable_lora_other.weight": torch.ones(2, 2)}), "no half of one of"),
        (lambda s: s.update({"blocks.0.attn.qkv.trainable_lora_down.weight": torch.ones(4, 256)}), "ranks \\[3, 4\\]"),
        (lambda s: s.update({"blocks.0.attn.qkv.trainable_lora_down.weight": torch.ones(3)}), "no half of one of"),
        (lambda s: s.update({"blocks.0.attn.qkv.trainable_lora_down.weight": torch.ones(3, 7)}), "of another shape"),
        (lambda s: s.pop("blocks.3.attn.qkv.trainable_lora_up.weight"), "blocks.3.attn.qkv"),
        (
            lambda s: s.update({"blocks.0.attn.qkv.trainable_lora_up.weight": torch.full((768, 3), torch.inf)}),
            "infinity",
        ),
    ],
)
def test_an_adapter_that_is_not_whole_is_refused(tmp_path, spoil, words):
    source = tmp_path / "vit.pt"
    state = BACKBONES.create("vit_t").state_dict()
    for i in range(12):
        outputs, inputs = state[f"blocks.{i}.attn.qkv.weight"].shape
        state[f"blocks.{i}.attn.qkv.trainable_lora_down.weight"] = torch.ones(3, inputs)
        state[f"blocks.{i}.attn.qkv.trainable_lora_up.weight"] = torch.ones(outputs, 3)
    spoil(state)
    torch.save(state, source)
    with pytest.raises(ValueError, match=rf"vit\.pt(?s:.*){words}"):
        convert(source, tmp_path / "out.safetensors", "vit_t")
    assert not list(tmp_path.glob("*.safetensors"))


def test_the_command_line_says_what_does_not_go_together(capsys):
    for command, words in (
        (["set", "run", "optim.lr=1"], "changes a --recipe"),
        (["set", "run", "--recipe", "x.py", "--backbone", "r50"], "backbone.name=r50"),
        (["set"], "required: out"),
    ):
        with pytest.raises(SystemExit):
            main(command)
        assert words in capsys.readouterr().err
    assert main(["set", "run", "--recipe", "absent.py"]) == 2
    assert "no recipe at absent.py" in capsys.readouterr().err
