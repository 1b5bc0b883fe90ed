"""Files that hold no weights of a backbone are named for what they look like, row by row."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from recognition.backbones import BACKBONES
from recognition.published import _default
from recognition.weights import kinds, read_weights
from tests import fuzz
from tools import convert_checkpoint

# words of the message: names of tensors as such a file has them
NAMES = {
    "KP-RPE": ["net.blocks.0.attn.qkv.weight", "net.keypoint_linear.weight", "net.feature.0.weight"],
    "iRPE": ["net.blocks.0.attn.rpe_k.lookup_table_weight", "net.feature.0.weight"],
    "part fViT": ["net.mobilenet.features.0.0.weight", "net.patch_emb.weight", "net.vit.blocks.0.norm1.weight"],
    "CVLface's Swin": ["net.features.0.0.weight", "net.features.1.0.attn.qkv.weight", "net.feature.0.weight"],
    "a Swin of torchvision": ["features.1.0.attn.qkv.weight", "norm.weight", "head.weight"],
    "MagFace": ["features.module.conv1.weight", "features.module.layer1.0.bn1.weight", "fc.weight"],
    "QMagFace": ["module.features.layer1.0.bn1.weight", "module.fc.weight"],
    "CR-FIQA": ["conv1.weight", "layer1.0.prelu.weight", "fc.weight", "qs.weight", "qs.bias"],
    "FaceNet": ["conv2d_1a.conv.weight", "repeat_1.0.branch0.conv.weight", "last_linear.weight"],
    "FaceX-Zoo": ["backbone.input_layer.0.weight", "backbone.body.0.res_layer.0.weight", "head.weight"],
    "face.evoLVe": ["input_layer.0.weight", "body.0.res_layer.4.weight", "body.0.res_layer.4.running_var"],
    "EdgeFace": ["model.stages.0.blocks.0.conv_dw.weight", "model.head.fc.weight"],
    "class centres": ["weight"],
    "a classifier's weights": ["head.kernel", "head.t", "head.batch_mean", "head.batch_std"],
    "peft adapter": ["base_model.model.blocks.0.attn.qkv.lora_A.weight"],
    "without their base": ["layer1.0.conv1.lora_a", "layer1.0.conv1.lora_b"],
    "RetinaFace": ["body.stage1.0.0.weight", "ClassHead.0.conv1x1.weight", "BboxHead.0.conv1x1.weight"],
    "SCRFD": ["backbone.stem.0.weight", "bbox_head.stride_cls.(8, 8).weight"],
    "MTCNN": ["pnet.conv1.weight", "pnet.conv4_2.weight", "rnet.dense5_2.weight"],
    "YOLO": ["model.0.conv.weight", "model.0.bn.weight", "model.22.dfl.conv.weight"],
    "diffusion": ["model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.encoder.conv_in.weight"],
    "CLIP": ["visual.conv1.weight", "token_embedding.weight", "visual.proj"],
    "language model": ["model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight"],
    "ResNet of ImageNet": ["conv1.weight", "layer1.0.conv1.weight", "layer1.0.bn1.weight", "fc.weight"],
    "a ViT of torchvision": ["conv_proj.weight", "encoder.layers.encoder_layer_0.ln_1.weight", "class_token"],
    "class token": ["cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "head.weight"],
    "Swin of ImageNet": ["patch_embed.proj.weight", "layers.0.blocks.0.attn.qkv.weight", "head.weight"],
    "MobileNet": ["features.0.0.weight", "features.1.conv.0.weight", "classifier.1.weight"],
}
BYTES = {
    "HDF5": b"\x89HDF\r\n\x1a\n",
    "gzip": b"\x1f\x8b\x08",
    "xz archive": b"\xfd7zXZ\x00",
    "RAR": b"Rar!\x1a",
    "tar archive": b"x" * 257 + b"ustar\x0000",
    "numpy": b"\x93NUMPY",
    "GGUF": b"GGUF\x03",
}
ENDS = {"model.onnx": "ONNX graph", "graph.pb": "TensorFlow graph", "m.tflite": "Lite", "x.engine": "TensorRT"}


@pytest.mark.parametrize("words", NAMES)
def test_names(tmp_path: Path, words: str, capsys) -> None:
    assert words in kinds.of_names(NAMES[words])
    path = tmp_path / "net.pt"
    torch.save({name: torch.ones(2, 3) for name in NAMES[words]}, path)
    assert convert_checkpoint.main([str(path), str(tmp_path / "out.safetensors")]) == 2
    told = capsys.readouterr().err
    assert words in told or "--colour-order" in told, told
    assert not (tmp_path / "out.safetensors").exists()


def test_every_row_has_a_case_and_no_network_here_looks_like_one() -> None:
    assert {kinds.of_names(names) for names in NAMES.values()} == {kind.words for kind in kinds.KINDS}
    for name in BACKBONES.names():
        assert not kinds.of_names(_default(name).shapes), name


@pytest.mark.parametrize("words", BYTES)
def test_first_bytes(tmp_path: Path, words: str) -> None:
    (tmp_path / "net.pt").write_bytes(BYTES[words])
    with pytest.raises(ValueError, match=words):
        read_weights(tmp_path / "net.pt")


@pytest.mark.parametrize("name", ENDS)
def test_endings(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x08\x07")
    with pytest.raises(ValueError, match=ENDS[name]):
        read_weights(tmp_path / name)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_training_states_and_quantised_networks(tmp_path: Path) -> None:
    path, layer = tmp_path / "x.pt", torch.nn.Linear(2, 2)
    torch.save(torch.optim.SGD(layer.parameters(), lr=0.1).state_dict(), path)
    with pytest.raises(ValueError, match="state of an optimizer"):
        read_weights(path)
    torch.save({"epoch": 1, "model": layer.state_dict(), "optimizer": {}}, path)
    with pytest.raises(ValueError, match="a training checkpoint"):
        read_weights(path)
    torch.save({"weight": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}, path)
    with pytest.raises(ValueError, match="quantised network"):
        read_weights(path)
    assert "YOLO" in kinds.of_request("ultralytics.nn.tasks.DetectionModel")
    assert not kinds.of_request("__main__.Net") and not kinds.of_parts({"a": 1})


PIECES = [
    *("a", "a.", "_", "1", "1.", "model.", "net.", "module.", "backbone.", "features.", "blocks.0.", "body.0."),
    *("lora_a", "lora_a.", "vera_d.", "magnitude", "weight", "head.batch_", "module.head.batch_", "partial_fc."),
    *("visual.", "res_layer.", "patch_embed.", "layers.0.", "down_blocks.0", "base_model.model", "dense5_2.", "conv1."),
]


def test_no_name_takes_a_row_for_ever(tmp_path: Path) -> None:
    """In a process of its own, with a limit of its time."""

    def check(seed: int) -> str:
        for piece in PIECES:
            for end in ("", "!", "weight", "weight!"):
                name = (piece * kinds.LONGEST_NAME)[: kinds.LONGEST_NAME - len(end)] + end
                assert isinstance(kinds.of_names([name, "weight", "zzz"]), str)
        return "told"

    assert fuzz.fuzz(check, 1, name="names") == {"told": 1}


def test_a_file_whose_names_fit_in_many_ways_is_told_at_once(tmp_path: Path) -> None:
    names = [f"head.batch_{'x' * (i + 1)}{'weight' * 20}" for i in range(40)]
    path = tmp_path / "net.pt"
    torch.save(dict.fromkeys([*names, "zzz"], torch.ones(1)), path)

    def check(seed: int) -> str:
        with pytest.raises(ValueError, match="fits no backbone"):
            convert_checkpoint.convert(path, tmp_path / "out.safetensors")
        many = [f"{'a.' * 145}{i}" for i in range(100_000)]
        return kinds.of_names([*names, "kernel"]) or kinds.of_names(many) or "nothing"

    assert fuzz.fuzz(check, 1, name="head.batch") == {"class centres, a classifier's weights without a network": 1}
    assert not kinds.of_names([])
