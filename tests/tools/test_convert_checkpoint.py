"""tools/convert_checkpoint.py: published weights to safetensors with a card, and a network that loads them."""

from __future__ import annotations

import hashlib
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from recognition import weights
from recognition.backbones import BACKBONES
from recognition.hashes import hash_tensors
from recognition.weights import load_strictly, read_card, read_weights, write_weights
from tools import convert_checkpoint
from tools.convert_checkpoint import convert, main


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
    assert read_card(out) == {**read.card, "tensors_sha256": hash_tensors(state)}
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
    again = read_weights(tmp_path / "again.safetensors").card
    assert again["licence"] == "MIT"
    # The publisher's file stays the source, and the one between has a key of its own.
    between = {
        "converted_from": "r18.safetensors",
        "converted_from_sha256": hashlib.sha256(out.read_bytes()).hexdigest(),
    }
    assert again == {**read.card, **between}
    third = convert_checkpoint._comes_from("again.safetensors", "00", again)
    assert third["source"] == "backbone.pth" and third["converted_from"] == "again.safetensors"


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
    write_weights(tmp_path / "net.safetensors", {"a": torch.ones(1)}, {})
    with pytest.raises(ValueError, match="source itself"):
        convert(tmp_path / "net.safetensors", tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match="shift_mask"):
        published(source, "r18")
        convert(source, tmp_path / "out.safetensors", "r18", {"shift_mask": False})


def test_a_graph_goes_through_the_reader_of_graphs(tmp_path, monkeypatch, capsys):
    state = {k: t for k, t in BACKBONES.create("r18").state_dict().items() if not k.endswith("num_batches_tracked")}
    reader = types.ModuleType("recognition.from_onnx")
    asked = []

    def read_onnx(path, name=None, colour_order=""):
        asked.append(name)
        card = {"colour_order": colour_order or "RGB"}
        return types.SimpleNamespace(name="r18", arguments={}, tensors=state, note="read", card=card)

    reader.read_onnx = read_onnx
    monkeypatch.setitem(sys.modules, "recognition.from_onnx", reader)
    (tmp_path / "net.onnx").write_bytes(b"\x08\x07")
    assert main([str(tmp_path / "net.onnx"), str(tmp_path / "r18.safetensors"), "--colour-order", "BGR"]) == 0
    assert "net.onnx: read" in capsys.readouterr().out and asked == [None]
    assert main([str(tmp_path / "net.onnx"), str(tmp_path / "named.safetensors"), "--backbone", "r18"]) == 0
    assert asked == [None, "r18"]  # not every backbone is laid out where the user names it
    assert read_card(tmp_path / "r18.safetensors")["colour_order"] == "BGR"
    turned = read_weights(tmp_path / "r18.safetensors").tensors["conv1.weight"]
    assert torch.equal(turned, state["conv1.weight"].flip(1))


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


def test_what_is_missing_is_named_alone(capsys):
    with pytest.raises(SystemExit):
        main(["set"])
    assert capsys.readouterr().err.strip().endswith("required: out")


def test_out_and_arguments_are_looked_at_before_anything_is_read(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(convert_checkpoint, "_read", lambda *_: pytest.fail("the source was read"))
    source = tmp_path / "backbone.pth"
    source.write_bytes(b"x")
    (tmp_path / "folder.safetensors").mkdir()
    for out, words in (
        ("x.pt", "weights are written as .safetensors"),
        ("folder.safetensors", "is a folder"),
        ("backbone.pth/x.safetensors", "backbone.pth is no folder"),
    ):
        assert main([str(source), str(tmp_path / out)]) == 2
        told = capsys.readouterr().err
        assert words in told and str(tmp_path / out) in told
    assert main([str(source), str(tmp_path / "x.safetensors"), "--backbone", "r18", "--set", "foo=1"]) == 2
    assert "unexpected argument 'foo'; it takes (" in capsys.readouterr().err


def test_an_unknown_argument_is_named_where_the_backbone_is_found(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("recognition.published.find_backbone", lambda *_: "r18")
    published(tmp_path / "backbone.pth", "r18")
    assert main([str(tmp_path / "backbone.pth"), str(tmp_path / "x.safetensors"), "--set", "foo=1"]) == 2
    assert "unexpected argument 'foo'; it takes (" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_named(tmp_path, monkeypatch, capsys):
    def fails(*_):
        raise FileNotFoundError(2, "No such file or directory", "x.json")

    published(tmp_path / "backbone.pth", "r18")
    monkeypatch.setattr(weights, "write_weights", fails)
    assert main([str(tmp_path / "backbone.pth"), str(tmp_path / "x.safetensors"), "--backbone", "r18"]) == 2
    assert "x.safetensors could not be written: No such file or directory" in capsys.readouterr().err
