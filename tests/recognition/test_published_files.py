"""Files of AdaFace and CVLface as they are published: read without running anything, turned to RGB in [-1, 1].

The files have the names and shapes that the two programs give theirs, at a small width and with drawn numbers.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import random
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from easydict import EasyDict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import adapters
from recognition.backbones import BACKBONES
from recognition.backbones.ir import IR
from recognition.backbones.vit import VisionTransformer
from recognition.model import build_backbone
from recognition.registry import Found
from recognition.runs import load_adapters
from recognition.weights import read_card, read_weights, without_memory, write_weights
from recognition.weights.origins import recognise
from tests.fuzz import fuzz, pickle_tokens
from tests.recognition import ir_plain
from tests.recognition.test_ir import lively, own
from tests.tools.test_fuzz_convert import mutated
from tools import convert_checkpoint, merge_adapter

NAME, BLOCKS = "small_ir_of_tests", (1, 1, 1, 1)


def small_ir(embedding_size: int = 8) -> IR:
    return IR(BLOCKS, (64, 8, 8, 8), embedding_size)


@pytest.fixture
def small() -> Iterator[dict[str, Tensor]]:
    """A published network's tensors by AdaFace's names; its architecture has a name of its own for the test."""
    BACKBONES.register(NAME)(small_ir)
    BACKBONES._search()[NAME] = Found(NAME, __file__, "", parameters=("embedding_size",))
    yield own(lively(small_ir()))
    del BACKBONES._objects[NAME], BACKBONES._search()[NAME]


def red_square() -> np.ndarray:
    """(1, 112, 112, 3) uint8 RGB: a red square on dark blue."""
    picture = np.full((1, 112, 112, 3), (10, 20, 90), np.uint8)
    picture[:, 30:80, 40:90] = (250, 15, 5)
    return picture


def taken(picture: np.ndarray, order: str = "RGB", scale: float = 127.5) -> Tensor:
    """What a program gives its network: (1, 3, 112, 112), (x - 127.5) / scale, channels in that order."""
    channels = picture[..., ::-1] if order == "BGR" else picture
    return (torch.from_numpy(channels.copy()).permute(0, 3, 1, 2).double() - 127.5) / scale


def network(path: Path) -> nn.Module:
    """As a recipe with backbone.weights=path makes it."""
    return build_backbone(EasyDict(backbone={"name": NAME}), path).eval()


@torch.no_grad()
def check(made: nn.Module, published: dict[str, Tensor], order: str, scale: float = 127.5) -> None:
    """The network on an RGB picture embeds what its publisher's program embeds on the picture as that one takes it."""
    got = made(taken(red_square()).float())
    wanted = ir_plain.embed(published, taken(red_square(), order, scale), BLOCKS).float()
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    other = ir_plain.embed(published, taken(red_square(), "RGB" if order == "BGR" else "BGR", scale), BLOCKS).float()
    assert (got - other).abs().max() > 1e-2, "the square would not tell the orders apart"


def adaface(published: dict[str, Tensor]) -> dict[str, Tensor]:
    head = {"kernel": torch.randn(8, 5), "t": torch.zeros(1), "batch_mean": torch.ones(1), "batch_std": torch.ones(1)}
    return {f"model.{k}": t for k, t in published.items()} | {f"head.{k}": t for k, t in head.items()}


class Settings(dict):
    """Stands for Lightning's own dict of settings."""


class Callback:
    """Stands for a callback, whose class is a key in checkpoints of old Lightning."""


class Bomb:
    def __reduce__(self) -> tuple:
        return os.system, ("touch exploded",)


def lightning(published: dict[str, Tensor]) -> dict[str, object]:
    settings = Settings(lr=0.1, milestones=[8, 12], root=Path("x"), scalar=np.float64(0.5))
    return {
        "epoch": 3,
        "pytorch-lightning_version": "1.4.4",
        "state_dict": adaface(published),
        "callbacks": {Callback: {"best": torch.ones(1), "args": argparse.Namespace(a={1, 2}, kind=np.dtype("f4"))}},
        "optimizer_states": [torch.optim.SGD([torch.zeros(1)], lr=0.1).state_dict()],
        "hyper_parameters": settings,
        "hooks": [functools.partial(print, "x"), Callback(), Bomb()],
    }


def test_a_checkpoint_of_adaface_loads_as_it_is(tmp_path: Path, small: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number, content in enumerate(({"state_dict": adaface(small)}, lightning(small))):
        path = tmp_path / f"adaface_{number}.ckpt"
        torch.save(content, path)
        read = read_weights(path)
        assert read.tensors.keys() == small.keys() and read.card["publisher"] == "AdaFace"
        assert read.card["colour_order"] == "RGB"  # what is in memory
        check(network(path), small, "BGR")
    assert not (tmp_path / "exploded").exists()


def test_what_lightning_saved_of_another_program_is_refused(tmp_path: Path, small: dict) -> None:
    path = tmp_path / "other.ckpt"
    torch.save({**lightning(small), "state_dict": {"encoder.weight": torch.ones(2)}}, path)
    with pytest.raises(ValueError, match=r"of another program than AdaFace.*'encoder\.weight'"):
        read_weights(path)
    torch.save({key: value for key, value in lightning(small).items() if key != "pytorch-lightning_version"}, path)
    with pytest.raises(ValueError, match="not unpickled"):
        read_weights(path)


def test_a_converted_file_keeps_the_published_numbers_and_is_turned_once(tmp_path: Path, small: dict, capsys) -> None:
    source, out, again = tmp_path / "a.ckpt", tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    torch.save({"state_dict": adaface(small)}, source)
    assert convert_checkpoint.main([str(source), str(out), "--backbone", NAME]) == 0
    assert "published for BGR pictures in [-1, 1]" in capsys.readouterr().out
    assert convert_checkpoint.main([str(out), str(again)]) == 0
    hashes = {adapters.hash_tensors(network(path).state_dict()) for path in (source, out, again)}
    assert hashes == {adapters.hash_tensors(read_weights(path).tensors) for path in (source, out, again)}
    assert len(hashes) == 1
    for path in (out, again):
        stored, card = load_file(path), read_card(path)
        assert stored.keys() == small.keys() and all(torch.equal(stored[key], small[key]) for key in small)
        assert (card["colour_order"], card["image_range"], card["publisher"]) == ("BGR", [-1.0, 1.0], "AdaFace")
        assert card["tensors_sha256"] == adapters.hash_tensors(small) and "norm" in card["quirks"][0]
        check(network(path), small, "BGR")


def test_another_range_is_scaled_and_another_centre_refused(tmp_path: Path, small: dict) -> None:
    path, told = tmp_path / "x.safetensors", {"backbone": NAME, "colour_order": "BGR"}
    write_weights(path, small, {**told, "image_range": [-0.99609375, 0.99609375]})
    check(network(path), small, "BGR", 128)
    write_weights(path, small, {"backbone": NAME, "image_range": [-127.5, 127.5]})
    check(network(path), small, "RGB", 1)
    write_weights(path, small, {**told, "image_range": [0.0, 1.0]})
    with pytest.raises(ValueError, match="centre is not 0"):
        read_weights(path)
    for wrong in (
        {"image_range": [1, -1]},
        {"image_range": "0..1"},
        {"colour_order": "GBR"},
        {"image_range": [0, True]},
    ):
        write_weights(path, small, {**told, **wrong})
        with pytest.raises(ValueError, match=next(iter(wrong))):
            read_weights(path)
    write_weights(path, {"a": torch.ones(2, 3, 1, 1), "b": torch.ones(2, 3, 1, 1)}, told)
    with pytest.raises(ValueError, match="2 of them have 3 input channels"):
        read_weights(path)


def test_a_card_of_other_tensors_is_refused(tmp_path: Path, small: dict, capsys) -> None:
    source, out = tmp_path / "a.ckpt", tmp_path / "a.safetensors"
    torch.save({"state_dict": adaface(small)}, source)
    assert convert_checkpoint.main([str(source), str(out), "--backbone", NAME, "--sha256", "00"]) == 2
    assert "not 00" in capsys.readouterr().err and not out.exists()
    assert convert_checkpoint.main([str(source), str(out), "--backbone", NAME]) == 0
    card = read_card(out)
    assert convert_checkpoint.main([str(source), str(out), "--backbone", NAME, "--sha256", card["source_sha256"]]) == 0
    changed = {**small, "output_layer.3.bias": small["output_layer.3.bias"] + 1}
    save_file(changed, out)
    with pytest.raises(ValueError, match=r"tensors are not those that a\.json speaks of"):
        read_weights(out)
    card.pop("tensors_sha256")  # what was written before cards told it
    out.with_suffix(".json").write_text(json.dumps(card))
    assert read_weights(out).tensors.keys() == small.keys()


@pytest.mark.parametrize(("where", "order"), [("model.yaml", "BGR"), ("config.json", "RGB"), ("both", "BGR")])
def test_cvlfaces_settings_beside_tell_the_order(tmp_path: Path, small: dict, where: str, order: str) -> None:
    files = {"model.pt": "net.", "model.safetensors": "model.net."}
    torch.save({f"net.{key}": tensor for key, tensor in small.items()}, tmp_path / "model.pt")
    save_file({f"model.net.{key}": tensor for key, tensor in small.items()}, tmp_path / "model.safetensors")
    for name in files:
        with pytest.raises(ValueError, match=r"color_space.*--colour-order"):
            read_weights(tmp_path / name)
        read = read_weights(tmp_path / name, colour_order="BGR", as_published=True)
        assert read.card["colour_order"] == "BGR" and torch.equal(
            read.tensors["input_layer.0.weight"], small["input_layer.0.weight"]
        )
    if where != "config.json":
        (tmp_path / "model.yaml").write_text(f"input_size: [3, 112, 112]\ncolor_space: '{order}'\nname: ir50\n")
    if where != "model.yaml":
        told = order if where == "config.json" else "RGB"
        (tmp_path / "config.json").write_text(json.dumps({"conf": {"color_space": told, "name": "ir50"}}))
    for name in files:
        read = read_weights(tmp_path / name)
        assert read.tensors.keys() == small.keys() and read.card["publisher"] == "CVLface"
        check(network(tmp_path / name), small, order)


def test_an_ir_network_of_nobody_needs_the_users_word(tmp_path: Path, small: dict, capsys) -> None:
    path, out = tmp_path / "ir.pth", tmp_path / "out.safetensors"
    torch.save(small, path)
    assert convert_checkpoint.main([str(path), str(out), "--backbone", NAME]) == 2
    assert "--colour-order BGR" in capsys.readouterr().err
    assert convert_checkpoint.main([str(path), str(out), "--backbone", NAME, "--colour-order", "BGR"]) == 0
    check(network(out), small, "BGR")


def test_cvlfaces_vit_and_iresnet_lose_their_prefix(tmp_path: Path) -> None:
    vit = own(VisionTransformer(16, 2, 4, 8, mask_ratio=0.0, patch=8, widening=3, keeps_token=False))
    with without_memory():
        iresnet = own(BACKBONES.create("r18"))
    iresnet = {key: torch.zeros(tensor.shape[:1]) for key, tensor in iresnet.items()}
    for state, prefix in ((vit, "net."), (vit, "model.net."), (iresnet, "net.")):
        torch.save({f"{prefix}{key}": tensor for key, tensor in state.items()}, tmp_path / "model.pt")
        read = read_weights(tmp_path / "model.pt", as_published=True)
        assert read.tensors.keys() == state.keys() and read.card["colour_order"] == "RGB"


@pytest.mark.parametrize(
    ("name", "prefix", "arguments"),
    [
        ("ir_18", "model.", {}),
        ("ir_34", "net.", {"embedding_size": 64}),
        ("ir_50", "model.", {}),
        ("ir_se_50", "model.", {}),
        ("ir_101", "model.net.", {}),
        ("vit_s_p8", "net.", {"embedding_size": 64}),
        ("vit_b_p8", "model.net.", {"mask_ratio": 0.1}),
    ],
)
def test_the_published_networks_are_told_apart(name: str, prefix: str, arguments: dict) -> None:
    with without_memory():
        state = own(BACKBONES.create(name, **arguments))
    tensors, card = recognise({prefix + key: t for key, t in state.items()}, Path("x.pt"), False, "RGB")
    assert tensors.keys() == state.keys()
    assert (card["backbone"], card["arguments"], card["colour_order"]) == (name, arguments, "RGB")


def test_lora_of_cvlface_on_a_bgr_base_is_delivered_for_rgb(tmp_path: Path, small: dict) -> None:
    layer, a, b = "output_layer.3", torch.randn(2, 8 * 49) / 20, torch.randn(8, 2)
    tensors = {f"net.{key}": tensor for key, tensor in small.items()}
    for end in ("weight", "bias"):
        tensors[f"net.{layer}.base_layer.{end}"] = tensors.pop(f"net.{layer}.{end}")
    tensors |= {f"net.{layer}.lora_A.default.weight": a, f"net.{layer}.lora_B.default.weight": b}
    torch.save(tensors, tmp_path / "model.pt")
    (tmp_path / "model.yaml").write_text("color_space: BGR\n")
    base, folder, merged = tmp_path / "x.safetensors", tmp_path / "x_adapter", tmp_path / "m.safetensors"
    assert convert_checkpoint.main([str(tmp_path / "model.pt"), str(base), "--backbone", NAME]) == 0
    told = adapters.read_folder(folder).card
    assert told["base_tensors_sha256"] == adapters.hash_tensors(read_weights(base).tensors)
    assert told["preprocessing"]["colour_order"] == "RGB" and read_card(base)["colour_order"] == "BGR"
    adapted = {**small, f"{layer}.weight": small[f"{layer}.weight"] + b @ a}
    model, bank = load_adapters({"it": folder}, base)
    bank.activate("it")
    check(model.backbone, adapted, "BGR")
    assert merge_adapter.main([str(folder), str(merged), "--base", str(base)]) == 0
    assert read_card(merged)["colour_order"] == "RGB" and read_card(merged)["image_range"] == [-1.0, 1.0]
    check(network(merged), adapted, "BGR")
    stem = {"net.input_layer.0.lora_A.default.weight": torch.ones(1, 3, 3, 3)}
    stem |= {"net.input_layer.0.lora_B.default.weight": torch.ones(64, 1, 1, 1)}
    torch.save({**tensors, **stem}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"input channels|first convolution"):
        read_weights(tmp_path / "model.pt", with_adapter=True)


@pytest.mark.slow
def test_five_thousand_mutated_checkpoints_of_lightning(current_folder: Path) -> None:
    marker, path = Path("made"), current_folder / "x.ckpt"
    tensors = {"input_layer.0.weight": torch.randn(2, 3, 1, 1), "body.0.res_layer.5.weight": torch.ones(2)}
    content, wholes, tokens = lightning(tensors), [], pickle_tokens(marker)
    content["hooks"] = [deque([1]), {(1, 2): {3}}, torch.ones(2, dtype=torch.uint16), 1j]
    for options in ({}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}):
        torch.save(content, path, **options)
        wholes.append(path.read_bytes())
        assert read_weights(path).tensors.keys() == tensors.keys()

    def check(seed: int) -> str:
        name, whole = "older.pt" if seed % 3 == 1 else "zip.pt", wholes[seed % 3]
        path.write_bytes(mutated(name, whole, random.Random(seed), tokens))
        try:
            found = read_weights(path).tensors
        except ValueError as error:
            assert str(path) in str(error) and len(str(error)) < 1000, error
            return "refused"
        finally:
            assert not marker.exists(), "the payload ran"
        assert all(isinstance(tensor, Tensor) for tensor in found.values())
        return "read"

    words = fuzz(check, 5_000, name="Lightning checkpoints", folder=current_folder)
    assert words["refused"] > 1000 and words["read"] > 100
