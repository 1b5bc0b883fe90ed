"""Whose a file is, and its colours: by the names in it, a card of ours, CVLface's settings, whatever lies by."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from recognition.weights import read_weights
from recognition.weights.origins import recognise
from tools import convert_checkpoint

TENSORS = {"input_layer.0.weight": torch.arange(6.0).view(2, 3, 1, 1), "body.0.res_layer.5.weight": torch.ones(2)}


def cvlface(folder: Path, name: str = "model.safetensors", prefix: str = "model.net.") -> Path:
    save_file({f"{prefix}{key}": tensor for key, tensor in TENSORS.items()}, folder / name)
    return folder / name


@pytest.mark.parametrize("foreign", [{"lr": 0.1, "network": "ir_50"}, {"licence": "MIT"}, {}])
def test_json_of_somebody_else_beside_a_file_tells_no_colours(tmp_path: Path, foreign: dict) -> None:
    bare, path = cvlface(tmp_path, "bare.safetensors", ""), cvlface(tmp_path)
    for one in (bare, path):
        one.with_suffix(".json").write_text(json.dumps(foreign))
    with pytest.raises(ValueError, match="without the name of who published it"):
        read_weights(bare)
    with pytest.raises(ValueError, match="color_space"):
        read_weights(path)
    (tmp_path / "model.yaml").write_text("color_space: BGR\n")
    read = read_weights(path, as_published=True)
    assert read.tensors.keys() == TENSORS.keys()
    assert (read.card["publisher"], read.card["colour_order"]) == ("CVLface", "BGR")
    assert torch.equal(read_weights(path).tensors["input_layer.0.weight"], TENSORS["input_layer.0.weight"].flip(1))


@pytest.mark.parametrize("own", [{"backbone": "ir_50"}, {"colour_order": "RGB"}])
def test_a_card_of_ours_tells_them(tmp_path: Path, own: dict) -> None:
    bare = cvlface(tmp_path, "bare.safetensors", "")
    bare.with_suffix(".json").write_text(json.dumps(own))
    assert torch.equal(read_weights(bare).tensors["input_layer.0.weight"], TENSORS["input_layer.0.weight"])


@pytest.mark.parametrize(
    ("file", "text", "order"),
    [
        ("model.yaml", "# color_space: BGR\ncolor_space: RGB\n", "RGB"),
        ("model.yaml", "input_color_space: BGR\ncolor_space: RGB\n", "RGB"),
        ("model.yaml", "\ufeffname: ir50\r\n'color_space' : \"bgr\"  # as trained\r\n", "BGR"),
        ("model.yaml", "other:\n  color_space: BGR\ncolor_space: rgb", "RGB"),
        ("config.json", '{"conf": {"input_color_space": "BGR", "color_space": "Rgb"}}', "RGB"),
        ("config.json", '{"note": "\\"color_space\\": \\"BGR\\"", "color_space":"BGR"}', "BGR"),
    ],
)
def test_a_statement_is_the_key_itself(tmp_path: Path, file: str, text: str, order: str) -> None:
    path = cvlface(tmp_path)
    (tmp_path / file).write_text(text, newline="")
    assert read_weights(path, as_published=True).card["colour_order"] == order


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("# color_space: BGR\n", "nothing here does"),
        ("input_color_space: BGR\n", "nothing here does"),
        ("color_space:\n", "nothing here does"),
        ("color_space: YUV\n", r"model\.yaml says YUV \(color_space\)"),
        ("color_space: RGB\ncolor_space: BGR\n", r"model\.yaml says BGR and RGB \(color_space\)"),
    ],
)
def test_what_states_nothing_or_something_else_asks_the_user(tmp_path: Path, text: str, words: str) -> None:
    path = cvlface(tmp_path)
    (tmp_path / "model.yaml").write_text(text)
    with pytest.raises(ValueError, match=f"{words}.*--colour-order"):
        read_weights(path)
    assert read_weights(path, colour_order="RGB", as_published=True).card["colour_order"] == "RGB"


def hostile(rng: random.Random) -> dict[str, torch.Tensor]:
    """The names by which a published network is told, of shapes that nobody publishes."""

    def drawn() -> torch.Tensor:
        return torch.ones([rng.choice((0, 1, 2, 3, 8)) for _ in range(rng.choice((0, 0, 1, 2, 4)))])

    blocks = rng.choice((12, 24))
    tensors = {f"net.blocks.{i}.norm1.weight": torch.ones(1) for i in range(blocks)}
    tensors |= {f"net.body.{i}.res_layer.5.weight": torch.ones(512) for i in range(blocks) if rng.random() < 0.9}
    tensors |= {"net.pos_embed": torch.ones(1, 196, 512) if rng.random() < 0.8 else drawn()}
    names = ("feature.0.weight", "feature.2.weight", "output_layer.3.weight", "mask_token", "layer1.0.prelu.weight")
    return tensors | {f"net.{name}": drawn() for name in names if rng.random() < 0.7}


def test_shapes_that_nobody_publishes_name_no_backbone(tmp_path: Path, capsys) -> None:
    tensors = {f"net.blocks.{i}.norm1.weight": torch.ones(1) for i in range(12)}
    tensors |= {"net.feature.0.weight": torch.ones(1), "net.pos_embed": torch.ones(1, 196, 512)}
    tensors["net.feature.2.weight"] = torch.tensor(1.0)
    torch.save(tensors, tmp_path / "x.pt")
    assert convert_checkpoint.main([str(tmp_path / "x.pt"), str(tmp_path / "x.safetensors")]) == 2
    assert "fits no backbone" in capsys.readouterr().err
    named = 0
    for seed in range(300):
        try:
            card = recognise(hostile(random.Random(seed)), Path("x.pt"), False, "RGB")[1]
        except ValueError as error:
            assert "x.pt" in str(error)
            continue
        named += "backbone" in card
        assert isinstance(card.get("arguments", {}).get("embedding_size", 1), int)
    assert named > 10, "some of them are told"
