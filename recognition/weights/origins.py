"""Whose file it is, by the names in it: AdaFace's and CVLface's, which wrap their networks and differ in colour order.

Names read in mk-minchul/AdaFace (train_val.py, inference.py) and mk-minchul/CVLface (run_v1/models, the hub's wrapper).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from torch import Tensor

from recognition.pickled import shown
from recognition.weights.adapter_part import MARKS
from recognition.weights.cards import ORDERS, Card

IR = re.compile(r"(?P<prefix>(model\.|net\.)*)body\.0\.res_layer\.5\.weight")  # the last norm of AdaFace's first block
NETS = re.compile(r"(?P<prefix>(model\.)?net\.)(feature\.0(\.base_layer)?|layer1\.0\.prelu)\.weight")  # ViT, IResNet
STATED = {  # a YAML file's own key, not one inside another or in a comment; and a JSON file's
    ".yaml": re.compile(r"""^["']?color_space["']?[ \t]*:[ \t]*["']?([^\s"'#]{1,20})""", re.M),
    ".json": re.compile(r'"color_space"\s*:\s*"([^"]{1,20})"'),
}
NUMBER = re.compile(r"(?:body|blocks)\.([0-9]{1,3})\.")
IRS = {8: "ir_18", 16: "ir_34", 24: "ir_50", 49: "ir_101"}  # by the number of blocks
SE_BLOCKS = {24: "ir_se_50"}
VITS = {12: "vit_s_p8", 24: "vit_b_p8"}
WIDTH, TOKENS = 512, 196  # of the last blocks, and of the embedding; patches of 8 px
MASKED = 0.1  # the share that CVLface masks wherever it has a token for it
LARGEST_STATEMENT = 2**16  # bytes of CVLface's model.yaml and config.json
Order = Literal["", "RGB", "BGR"]


class Origin(NamedTuple):
    """What is known of a publisher's files."""

    words: str
    dropped: str  # what the names of its class centres begin with
    quirks: tuple[str, ...]


ADAFACE = Origin(
    "AdaFace",
    "head.",
    ("its program returns (direction, norm); here one embedding, not normalised, whose norm is that norm",),
)
CVLFACE = Origin("CVLface", "", ())


def recognise(
    tensors: Mapping[str, Tensor], path: Path, carded: bool, order: Order = ""
) -> tuple[dict[str, Tensor], Card]:
    """Tensors by our names, and what is known of them; unchanged, and nothing, for other publishers.

    carded: a card of ours, which would tell the colours, lies beside the file. order: of the colours, as the user says,
    over all else.
    ValueError for an IR network of which nobody tells whether it takes RGB or BGR.
    """
    found = _first(IR, tensors) or _first(NETS, tensors)
    card: Card = {"colour_order": order} if order else {}
    if found is None or carded:
        return dict(tensors), card
    prefix, is_ir = found["prefix"], found.re is IR
    if not prefix:
        if not order:
            raise ValueError(
                f"{path}: an IR network without the name of who published it: AdaFace's takes BGR pictures, CVLface's "
                "RGB or BGR; tools/convert_checkpoint.py with --colour-order BGR, or RGB, writes one that says so"
            )
        return dict(tensors), card
    origin = ADAFACE if prefix == "model." else CVLFACE
    own = {key: tensor for key, tensor in tensors.items() if not (origin.dropped and key.startswith(origin.dropped))}
    if others := [key for key in own if not key.startswith(prefix)]:
        raise ValueError(f"{path}: a file of {origin.words}, but '{others[0]}' does not begin with '{prefix}'")
    told = order or ("BGR" if origin is ADAFACE else _stated(path, is_ir))
    card = {"publisher": origin.words, "colour_order": told, "image_range": [-1.0, 1.0]}
    if origin.quirks:
        card["quirks"] = list(origin.quirks)
    own = {key.removeprefix(prefix): tensor for key, tensor in own.items()}
    # adapters.from_cvlface takes the last prefix off itself
    kept = "net." if any(MARKS["cvlface"].sign.search(key) for key in own) else ""
    return {kept + key: tensor for key, tensor in own.items()}, {**card, **_network(own)}


def _first(sign: re.Pattern[str], names: Iterable[str]) -> re.Match[str] | None:
    return next((found for found in map(sign.fullmatch, names) if found), None)


def _network(tensors: Mapping[str, Tensor]) -> Card:
    """Name and arguments of the backbone, where the tensors are those of one that was published."""
    told: Card = {}
    blocks = len({found[1] for key in tensors if (found := NUMBER.match(key))})
    projection = tensors.get("output_layer.3.weight", tensors.get("feature.2.weight"))
    wide, places = tensors.get(f"body.{blocks - 1}.res_layer.5.weight"), tensors.get("pos_embed")
    if wide is not None and wide.numel() == WIDTH:
        told["backbone"] = (
            SE_BLOCKS.get(blocks) if "body.0.res_layer.se_block.fc1.weight" in tensors else IRS.get(blocks)
        )
    elif places is not None and places.shape == (1, TOKENS, WIDTH):
        told["backbone"] = VITS.get(blocks)
    if not told.get("backbone") or projection is None or projection.dim() != 2:
        return {}
    arguments: Card = {} if len(projection) == WIDTH else {"embedding_size": len(projection)}
    if "mask_token" in tensors:
        arguments["mask_ratio"] = MASKED
    return {**told, "arguments": arguments}


def beside(path: Path) -> tuple[Path, ...]:
    """Where CVLface's own settings may lie that tell the colours of a file; its program follows model.yaml."""
    return path.with_name("model.yaml"), path.parent / "pretrained_model" / "model.yaml", path.with_name("config.json")


def _stated(path: Path, is_ir: bool) -> str:
    """The colour order that CVLface's own settings beside the file tell."""
    for place in beside(path):
        if place.is_file() and place.stat().st_size <= LARGEST_STATEMENT:
            text = place.read_text(encoding="utf-8-sig", errors="replace")
            told = sorted({found.upper() for found in STATED[place.suffix].findall(text)})
            if len(told) == 1 and told[0] in ORDERS:
                return told[0]
            if told:
                raise ValueError(
                    f"{path}: {place.name} says {shown(' and '.join(told))} (color_space), which is neither RGB nor "
                    "BGR; tools/convert_checkpoint.py with --colour-order RGB or BGR knows better"
                )
    if is_ir:  # all settings of its ViTs say RGB
        raise ValueError(
            f"{path}: CVLface's IR networks take RGB or BGR pictures, as model.yaml beside them says (color_space: RGB "
            "on a line of its own), and nothing here does: put it there, or convert by tools/convert_checkpoint.py "
            "with --colour-order RGB or BGR"
        )
    return "RGB"
