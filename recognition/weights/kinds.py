"""What a file is that holds no weights of a backbone, told by its first bytes, its names, or what it asks for.

One row a kind: data for messages. A row never refuses anything by itself, so a plugin may have any names it likes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import NamedTuple

MOST_NAMES, LONGEST_NAME = 4_000, 300  # that are looked at
TAR, TAR_AT = b"ustar", 257

# What a file begins with; letters small.
FIRST_BYTES = (
    (b"version https://git-lfs", "a Git LFS pointer; fetch the file itself with `git lfs pull`"),
    (b"<!doctype html", "a web page; the download gave no file"),
    (b"<html", "a web page; the download gave no file"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"7z\xbc\xaf", "a 7-zip archive; unpack it first"),
    (b"rar!", "a RAR archive; unpack it first"),
    (b"\xfd7zxz", "an xz archive; unpack it first"),
    (b"\x93numpy", "a numpy array"),
    (b"\x89hdf\r\n", "HDF5, such as Keras's .h5; nothing here reads it"),
    (b"gguf", "GGUF, quantised weights of a language model"),
    (b"\x80", "a pickle; only tensors saved by torch.save are read"),
    (b"{", "JSON; name the weights, not the card"),
)
ENDINGS = {
    ".onnx": "an ONNX graph, whose weights have lost their names; tools/convert_checkpoint.py reads those of known "
    "networks",
    ".pb": "a TensorFlow graph; nothing here reads it",
    ".tflite": "a TensorFlow Lite graph; nothing here reads it",
    ".caffemodel": "a Caffe network; nothing here reads it",
    ".engine": "a TensorRT engine, which holds no weights that another program reads",
}

# What a pickle asks for, by the name's begin.
ASKED = (
    ("torch._utils._rebuild_qtensor", "a quantised network; take the one in float32 that it was made of"),
    ("torch.ao.", "a quantised network; take the one in float32 that it was made of"),
    ("__torch__", "a TorchScript program; take the state dict it was made of"),
    ("ultralytics.", "a YOLO detector of ultralytics"),
    ("models.yolo.", "a YOLO detector"),
    ("sklearn.", "a scikit-learn model"),
    ("keras.", "a Keras model"),
)

# Names in a dict that holds no tensors by itself.
PARTS = (
    ({"param_groups", "state"}, "the state of an optimizer alone"),
    ({"last_epoch", "_step_count"}, "the state of a learning-rate plan"),
    ({"model", "ema", "updates"}, "a checkpoint of a YOLO detector"),
    ({"epoch", "model", "optimizer"}, "a training checkpoint; save its network's state dict alone"),
)


class Kind(NamedTuple):
    """words: what it looks like. signs: each stands at the begin of a name. without: nothing like it may.

    alone: what every name is, from end to end. No sign may match one text in two ways, or a name takes for ever.
    """

    words: str
    signs: tuple[str, ...] = ()
    without: str = "(?!)"
    alone: str = ""


ALONE = r"(module\.)?(head\.kernel|kernel|weight|weight_mom|partial_fc\.weight|classifier\.weight|head\.(t|batch_\w+))"
KINDS = (
    # models of this field that are built otherwise
    Kind("CVLface's ViT or Swin with KP-RPE, which is given key points of each face; there is none here",
         (r"(\w+\.)*keypoint_linear\.",)),
    Kind("CVLface's ViT with iRPE, which knows relative positions; there is none here",
         (r"(\w+\.)*blocks\.0\.attn\.rpe_[qkv]\.",)),
    Kind("CVLface's part fViT, which looks for its own patches; there is none here",
         (r"(net\.|model\.)*mobilenet\.", r"(net\.|model\.)*patch_emb\.")),
    Kind("CVLface's Swin, named as torchvision's; there is none here",
         (r"(net\.|model\.)*features\.1\.0\.attn\.", r"(net\.|model\.)*feature\.0\.")),
    Kind("a Swin of torchvision", (r"features\.1\.0\.attn\.", r"head\.weight")),
    Kind("MagFace's (QMagFace uses the same file): it takes BGR pictures in [0, 1], and a range whose centre is not 0 "
         "cannot be taken over by a convolution that pads with zeros",
         (r"(module\.)?features\.(module\.)?layer1\.0\.",)),
    Kind("CR-FIQA's, a recognition network with a head for quality", (r"qs\.(weight|bias)",)),
    Kind("FaceNet's Inception-ResNet; there is none here", (r"(module\.)?(repeat_1|mixed_5b|mixed_6a|block8)\.",)),
    Kind("a training checkpoint of FaceX-Zoo, backbone and head in one", (r"backbone\.", r"head\.(weight|kernel)")),
    Kind("an IR network of face.evoLVe, InsightFace_Pytorch or TFace, whose blocks are others than AdaFace's",
         (r"(\w+\.)*input_layer\.0\.weight", r"(\w+\.)*body\.0\.res_layer\.4\."),
         r"(\w+\.)*body\.0\.res_layer\.5\.running_mean"),
    Kind("a ConvNeXt or EdgeNeXt of timm, as EdgeFace's; there is none here",
         (r"(model\.)?stages\.0\.blocks\.0\.",)),
    Kind("class centres, a classifier's weights without a network", alone=ALONE),
    # adapters without their base
    Kind("a peft adapter without its base: adapters.from_peft reads its folder", (r"base_model\.model\.",)),
    Kind("an adapter's tensors without their base; its folder goes to tools/evaluate.py, or to adapter.weights",
         (r"([\w.]+\.)?(lora_[ab]\w*|vera_[bd]|magnitude)$",), r"([\w.]+\.)?(conv1|patch_embed\.proj)\.weight$"),
    # detectors
    Kind("RetinaFace, a detector of faces", (r"(module\.)?BboxHead\.0\.", r"(module\.)?ClassHead\.0\.")),
    Kind("SCRFD or another detector of mmdetection", (r"(module\.)?bbox_head\.",)),
    Kind("MTCNN, a detector of faces", (r"([pro]net\.)?(conv4_2|dense5_2|dense6_2)\.weight",)),
    Kind("a YOLO detector", (r"(model\.)*\d+\.(conv|cv1|m)\.",)),
    # what generates or describes pictures
    Kind("a diffusion model", (r"(model\.diffusion_model|unet|(down|double|transformer)_blocks\.0)\.",)),
    Kind("CLIP or another network of pictures and texts",
         (r"(\w+\.)*(visual\.(proj|conv1|trunk)|text_model|token_embedding|vision_model)",)),
    Kind("a language model", (r"(\w+\.)*(embed_tokens|word_embeddings|wte)\.weight",)),
    # ImageNet's
    Kind("a ResNet of ImageNet (torchvision, timm)", (r"conv1\.weight", r"layer1\.0\.conv1\.weight", r"fc\.weight"),
         r"layer1\.0\.prelu\."),
    Kind("a ViT of torchvision", (r"conv_proj\.weight", r"encoder\.layers\.")),
    Kind("a vision transformer with a class token (timm, DINO, MAE)", (r"(\w+\.)*cls_token",)),
    Kind("a Swin of ImageNet (timm, Microsoft)", (r"patch_embed\.proj\.", r"layers\.0\.", r"head\.(fc\.)?weight")),
    Kind("a MobileNet or EfficientNet of ImageNet", (r"features\.0\.0\.weight|conv_stem\.weight", r"classifier\.")),
)  # fmt: skip


def of_names(names: Iterable[str]) -> str:
    """What a network whose tensors have these names looks like; "" where no row of KINDS fits."""
    seen = [name[:LONGEST_NAME] for name in islice(names, MOST_NAMES)]
    return next((kind.words for kind in KINDS if _fits(kind, seen)), "")


def of_parts(saved: Mapping[object, object]) -> str:
    """What a dict of something else than tensors looks like; "" where no row of PARTS fits."""
    return next((words for parts, words in PARTS if parts <= saved.keys()), "")


def of_request(asked: str) -> str:
    """What a pickle that asks for this name looks like; "" where no row of ASKED fits."""
    return next((words for begin, words in ASKED if asked.startswith(begin)), "")


def of_bytes(head: bytes, ending: str) -> str:
    """What a file looks like that begins with `head` and whose name ends in `ending`; "" where no row fits."""
    if head[TAR_AT : TAR_AT + len(TAR)] == TAR:
        return "a tar archive; unpack it first"
    seen = (words for mark, words in FIRST_BYTES if mark in head.lstrip()[: len(mark)].lower())
    return ENDINGS.get(ending.lower()) or next(seen, "")


def _fits(kind: Kind, names: list[str]) -> bool:
    if kind.alone:
        return bool(names) and all(map(re.compile(kind.alone).fullmatch, names))
    found = all(any(map(re.compile(sign).match, names)) for sign in kind.signs)
    return found and not any(map(re.compile(kind.without).match, names))
