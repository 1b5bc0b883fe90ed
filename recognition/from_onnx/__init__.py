"""An ONNX graph's weights back as those of a backbone: InsightFace's published models, and our own exports.

The graph is told by its layers, not by its names, and the backbone that comes out is held against onnxruntime: what
does not give the same embeddings is refused. Nothing in the file is run but its operators, by onnxruntime.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from recognition.backbones import BACKBONES
from recognition.from_onnx.compare import Agreement, check_size, compare
from recognition.from_onnx.graph import load, read_graph
from recognition.from_onnx.matching import Differs, fit, plan, share
from recognition.from_onnx.parts import Affine, Graph
from recognition.from_onnx.running import embeddings
from recognition.pickled import shown
from recognition.types import COLOUR_ORDER
from recognition.weights import load_strictly, without_memory

DIGITS = 9  # of an image range: what is left is rounding
Card = dict[str, object]


@dataclass(frozen=True, slots=True)
class FromOnnx:
    """A backbone's name, the arguments that are not its defaults, and its tensors as the graph has them.

    card: colour_order and image_range that the tensors were made for, as a card of published weights tells them.
    note: a sentence on what was found, and how near it is to onnxruntime.
    """

    name: str
    arguments: dict[str, object]
    tensors: dict[str, Tensor]
    note: str
    card: Card = field(default_factory=dict)


def read_onnx(path: str | Path, name: str | None = None, colour_order: str = "") -> FromOnnx:
    """The backbone whose graph it is, by our names, once its embeddings are onnxruntime's.

    name: of the backbone; None to find it. colour_order: known better than the file tells it; "" = by the file.
    ValueError with a sentence where the file is no graph of one picture to one embedding, where no backbone has its
    layers (naming the nearest), and with the figures where they disagree.
    """
    path = Path(path)
    model, content = load(path)
    graph = read_graph(model, path)
    del model  # of the size of the file, as is each of what follows
    _refuse_gates(graph, path)
    if colour_order:
        graph.metadata["colour_order"] = colour_order
    if not graph.layers or graph.picture is None:
        raise ValueError(f"{path}: holds no layers with weights of their own")
    size = next((len(one.values["weight"]) for one in reversed(graph.layers) if one.kind == "linear"), 0)
    disagreed, nearest, most, theirs = "", "", -1.0, None
    for candidate in [name] if name else BACKBONES.names():
        for arguments in _choices(candidate, size):
            try:
                with without_memory():
                    laid_out = BACKBONES.create(candidate, **arguments)
                if name is None and (found := share(laid_out, graph)) < 1:
                    raise Differs(found, f"{found:.0%} of the shapes of convolutions and projections are the same")
                planned = plan(laid_out)
                tensors, notes = fit(planned, graph)
            except Differs as error:
                if error.share > most:
                    nearest, most = f"{candidate}: {error}", error.share
                continue
            check_size(graph, laid_out, path)
            if theirs is None:
                theirs, content = embeddings(content, graph, path), b""
            backbone = BACKBONES.create(candidate, **arguments)
            load_strictly(backbone, tensors, path)
            card = _card(graph, backbone)
            told = compare(theirs, graph, backbone.eval(), card["image_range"], path)
            if told.holds:
                return FromOnnx(candidate, arguments, tensors, _note(candidate, graph, notes, told), card)
            disagreed = f"{candidate} has its layers, {told.fault}"
    if disagreed:
        raise ValueError(f"{path}: {disagreed}")
    hint = "; an adapter inside is merged first, tools/merge_adapter.py" if "lrface_version" in graph.metadata else ""
    raise ValueError(f"{path}: fits no backbone; the nearest is {nearest}{hint}")


def _refuse_gates(graph: Graph, path: Path) -> None:
    scorer = graph.metadata.get("scorer", "none")
    if scorer != "none":
        raise ValueError(
            f"{path}: an export with a quality gate (scorer {shown(scorer)}), whose two branches are no weights of a "
            "backbone; convert the run it was made of"
        )


def _choices(name: str, size: int) -> list[dict[str, object]]:
    """Arguments to try: the embedding's size where it is not the default, and what a graph's weights do not tell."""
    defaults = BACKBONES.defaults(name)
    chosen = {"embedding_size": size} if size and defaults.get("embedding_size", size) != size else {}
    more = [{**chosen, "shift_mask": False}] if "shift_mask" in defaults else []
    return [chosen, *more]


def _card(graph: Graph, backbone: nn.Module) -> Card:
    """What 0 and 255 become at the backbone's input, so that its first layer sees what the graph's does."""
    scale, shift = graph.picture or Affine()
    mean, deviation = graph.normalisation
    own = getattr(backbone, "input_scale", 1.0)
    ends = [round((scale * (end - mean) / deviation + shift) / own, DIGITS) + 0.0 for end in (0, 255)]
    return {"colour_order": graph.metadata.get("colour_order", COLOUR_ORDER), "image_range": ends}


def _note(name: str, graph: Graph, notes: list[str], told: Agreement) -> str:
    stored = [f"its weights are kept as {', '.join(sorted(graph.stored))}, and come as float32"] if graph.stored else []
    found = f"{name} by the {len(graph.layers)} layers of the graph"
    return "; ".join([found, *notes, *stored, *_guessed(graph), str(told)])


def _guessed(graph: Graph) -> list[str]:
    """What the card says though the file does not."""
    colours, shifts = "colour_order" in graph.metadata, graph.picture is not None and graph.picture.shift != 0
    known = graph.client is not None or shifts  # the range
    if colours and known:
        return []
    untold = " or ".join(word for word, told in (("colours", colours), ("range", known)) if not told)
    taken = ", ".join(words for words, told in ((COLOUR_ORDER, colours), ("(x - 127.5) / 127.5", known)) if not told)
    change = "" if colours else "; --colour-order BGR changes it"
    return [f"the file does not tell {untold}: taken as {taken}{change}"]
