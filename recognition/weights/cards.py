"""The card beside a weights file: JSON that says what its tensors are of, and what the network takes."""

from __future__ import annotations

import json
import math
from pathlib import Path

from recognition.hashes import hash_tensors
from recognition.pickled import shown
from recognition.weights.hub import local_path
from recognition.weights.names import LONGEST_NAME

Card = dict[str, object]  # what JSON can say about a file's tensors

LARGEST_CARD = 2**23  # bytes; a part of an evaluation takes some 3 kB
HASH = "tensors_sha256"  # in a card: hash_tensors of the file beside it
ORDERS = ("RGB", "BGR")
OURS = frozenset(("backbone", "colour_order", HASH))  # some of which every card has; another program's JSON has none


def card_path(path: str | Path) -> Path:
    """Where the card of a weights file lies: the same name ending in .json."""
    return Path(path).with_suffix(".json")


def read_card(path: str | Path) -> Card:
    """The card beside a weights file, which may be an address on the hub; empty where there is none.

    A path in it is never opened. ValueError if it is not a JSON object, names a backbone or arguments that are none, or
    tells a colour order or an image range that cannot be.
    """
    beside = card_path(local_path(path))
    if not beside.is_file():
        return {}
    if beside.stat().st_size > LARGEST_CARD:
        raise ValueError(f"{beside}: a card of {beside.stat().st_size:,} bytes; one has {LARGEST_CARD:,} at most")
    try:
        card = json.loads(beside.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # no JSON or UTF-8, a number of thousands of digits, nested too deep
        raise ValueError(f"{beside}: the card is not JSON ({error}); write it again or take it away") from None
    if not isinstance(card, dict):
        raise ValueError(f"{beside}: the card is a JSON {type(card).__name__}, not an object")
    backbone, arguments = card.get("backbone", ""), card.get("arguments", {})
    if not isinstance(backbone, str) or len(backbone) > LONGEST_NAME:
        raise ValueError(f"{beside}: the card's backbone is {shown(repr(backbone))}; it is the name of one")
    named = isinstance(arguments, dict) and all(len(name) <= LONGEST_NAME for name in arguments)
    if not named or not all(map(_is_plain, arguments.values())):
        raise ValueError(f"{beside}: the card's arguments are {shown(repr(arguments))}; wanted names and plain values")
    if card.get("colour_order", "RGB") not in ORDERS:
        raise ValueError(f"{beside}: the card's colour_order is {shown(repr(card['colour_order']))}; wanted RGB or BGR")
    if not _is_range(card.get("image_range", [-1.0, 1.0])):
        raise ValueError(
            f"{beside}: the card's image_range is {shown(repr(card['image_range']))}; wanted two numbers, what the "
            "network takes for 0 and for 255"
        )
    return card


def check_hash(tensors: dict, card: Card, path: Path) -> None:
    """ValueError where the card tells the hash of other tensors than these; path: of the tensors' file."""
    if (wanted := card.get(HASH)) is not None and (own := hash_tensors(tensors)) != wanted:
        raise ValueError(
            f"{path}: its tensors are not those that {card_path(path).name} speaks of: their SHA-256 is {own}, and the "
            f"card's {HASH} is {shown(str(wanted))}; one of the two files was replaced or damaged: convert the source "
            "again by tools/convert_checkpoint.py, or fetch both"
        )


def _is_plain(value: object) -> bool:
    if isinstance(value, list):
        return all(one is None or isinstance(one, bool | int | float | str) for one in value)
    return value is None or isinstance(value, bool | int | float | str)


def _is_range(value: object) -> bool:
    numbers = isinstance(value, list) and len(value) == 2 and all(type(one) in (int, float) for one in value)
    return numbers and all(abs(one) < 2**16 and math.isfinite(one) for one in value) and value[0] < value[1]
