"""An adapter as a folder: adapter.safetensors, the card adapter.json, and README.md, which says the same to people.

The tensors are those of adapters.state(), and the quality gate's under "quality_gate." beside them. The card tells what
has to be known to put them to work: the adapter's name and arguments, the base by two hashes, scorer and gate,
preprocessing, and what it was trained on. Paths in it are for people; none is ever opened.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from adapters import ADAPTERS
from adapters._page import model_card
from recognition.files import flush, replacing
from recognition.types import Adapter

Card = dict[str, object]

TENSORS, CARD, README = "adapter.safetensors", "adapter.json", "README.md"
FORMAT = 1  # of cards written now; those before it have no "format", preprocessing or base_tensors_sha256
GATE = "quality_gate."  # what the quality gate's tensors begin with
LARGEST_CARD = 2**23  # bytes; a part of an evaluation takes some 3 kB


@dataclass(frozen=True, slots=True)
class Saved:
    """An adapter as it lies in its folder."""

    path: Path  # of the tensor file
    name: str  # of the adapter, such as lora
    arguments: dict[str, object]
    tensors: dict[str, Tensor]  # what adapters.load takes
    gate: dict[str, Tensor]  # the quality gate's, by its own names; empty without one
    card: Card

    def make(self) -> Adapter:
        """The adapter anew, to be attached."""
        return ADAPTERS.create(self.name, **self.arguments)

    def check_base(self, own_tensors: Callable[[], str], own_file: str, remedy: str | None) -> None:
        """ValueError for the wrong base, naming both hashes; and for a card that tells none, ending with `remedy`.

        own_tensors: gives hash_tensors() of the base at hand. own_file: SHA-256 of its file, for cards that tell no
        hash of tensors; "" where there is none. remedy: None to take a card that tells none for this base's.
        """
        wanted, own = self.card.get("base_tensors_sha256"), ""
        if wanted:
            own = own_tensors()
        elif own_file and self.card.get("base_sha256"):
            wanted, own = self.card["base_sha256"], own_file
        if not wanted and remedy is not None:
            raise ValueError(f"{self.path}: its card does not tell which base it is of; {remedy}")
        if wanted and wanted != own:
            raise ValueError(
                f"{self.path} was trained on another base: on SHA-256 {wanted}, and this backbone's is {own}; "
                "on other weights an adapter gives wrong embeddings"
            )


def read_folder(path: str | Path) -> Saved:
    """Read an adapter's folder, a run that holds one as RUN/model, or the tensor file itself; onto the CPU.

    ValueError for files that are damaged, and for a card that names no known adapter, or arguments it does not take.
    Whether the tensors fit is told by the backbone that they are loaded into.
    """
    path = tensor_file(path)
    beside = path.with_suffix(".json")
    card = _read_card(beside)
    section = card.get("adapter")
    if isinstance(section, str):  # converted from a published file: the arguments are the adapter's
        section = {"name": section, **card.pop("arguments", {})}
        card["adapter"] = section
    if not isinstance(section, dict) or not isinstance(section.get("name"), str):
        raise ValueError(f"{beside}: its entry adapter is {_shown(section)}; wanted the adapter's name and arguments")
    name, arguments = section["name"], {key: value for key, value in section.items() if key != "name"}
    try:
        ADAPTERS.check(name, arguments)
    except ValueError as error:
        raise ValueError(f"{beside}: {error}") from None
    tensors = read_tensors(path)
    gate = {key.removeprefix(GATE): tensors.pop(key) for key in list(tensors) if key.startswith(GATE)}
    return Saved(path, name, arguments, tensors, gate, card)


def tensor_file(path: str | Path) -> Path:
    """The tensor file of an adapter named as for read_folder. ValueError where there is none."""
    path = Path(path)
    if path.is_dir():
        path = next((place / TENSORS for place in (path, path / "model") if (place / TENSORS).is_file()), path)
    if not path.is_file():
        raise ValueError(
            f"{path} is no adapter: wanted a folder that holds {TENSORS} and {CARD}, or a run with a model"
        )
    return path


def write_folder(folder: str | Path, tensors: Mapping[str, Tensor], card: Card) -> Path:
    """Write the three files of an adapter, each complete or, after a crash or on a full disk, what it was.

    tensors: of adapters.state(), on any device, and the quality gate's under "quality_gate.".
    card: "adapter" is a dict of name and arguments; "base_sha256", "base_tensors_sha256", "gate", "scorer",
        "preprocessing", "records", "results" {before, after: {set: {side: {measure: {value, lo, hi}}}}} and "licence"
        where they are known.
    Returns the tensor file.
    """
    folder = Path(folder)
    own = {key: tensor.detach().to("cpu", copy=True).contiguous() for key, tensor in tensors.items()}
    texts = card_texts(card, own)
    with (
        replacing(folder / CARD) as card_file,
        replacing(folder / README) as readme_file,
        replacing(folder / TENSORS) as tensor_file,
    ):
        for file, text in ((card_file, texts[CARD]), (readme_file, texts[README])):
            file.write_text(text, encoding="utf-8")
            flush(file)  # some disks tell only now that they are full; the tensors must not be in place by then
        tensor_file.write_bytes(save(own, metadata={"format": "pt"}))
    return folder / TENSORS


def card_texts(card: Card, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """What goes beside the tensors, by file name: the card as JSON, and as Markdown for people."""
    card = {"format": FORMAT, **card}
    return {CARD: json.dumps(card, indent=2, ensure_ascii=False) + "\n", README: model_card(card, tensors)}


def whole_arguments(name: str, given: Mapping[str, object]) -> dict[str, object]:
    """An adapter's arguments with its defaults: what a card keeps, since a later version may have other defaults."""
    signature = inspect.signature(ADAPTERS.get(name)).parameters
    defaults = {key: one.default for key, one in signature.items() if one.default is not inspect.Parameter.empty}
    return {**defaults, **given}


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU. ValueError where it is damaged."""
    try:  # load_file maps the file, and who writes over it later would take the ground from under the tensors
        return {key: tensor.clone() for key, tensor in load_file(path).items()}
    except SafetensorError as error:
        raise ValueError(f"{path}: the safetensors file is damaged or cut short ({str(error)[:200]})") from None


def read_object(path: Path) -> Card:
    """The JSON object in a file. ValueError where it holds something else, or is too large for a card."""
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file, which tells what the tensors beside it are")
    if path.stat().st_size > LARGEST_CARD:
        raise ValueError(f"{path}: of {path.stat().st_size:,} bytes; a card has {LARGEST_CARD:,} at most")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({str(error)[:200]})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: a JSON {type(found).__name__}, not an object")
    return found


def _read_card(path: Path) -> Card:
    card = read_object(path)
    if card.get("format", FORMAT) != FORMAT:
        raise ValueError(f"{path}: its format is {_shown(card['format'])}; this version reads {FORMAT}, and older ones")
    kinds = {"backbone": str, "base_sha256": str, "base_tensors_sha256": str, "arguments": dict, "gate": dict}
    for key, kind in {**kinds, "scorer": dict}.items():
        if key in card and not isinstance(card[key], kind):
            raise ValueError(f"{path}: its entry {key} is {_shown(card[key])}; wanted a {kind.__name__}")
    return card


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
