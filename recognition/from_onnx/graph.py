"""An ONNX graph as the list of its layers with their weights, in the order in which they are computed.

Nothing of it runs here, and no file outside its folder is opened.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recognition.from_onnx.operators import Values
from recognition.from_onnx.parts import Graph
from recognition.from_onnx.reader import Reader
from recognition.from_onnx.spelt_out import join_prelu
from recognition.pickled import shown

if TYPE_CHECKING:
    import onnx

LARGEST_FILE = 2**31 - 1  # bytes of a graph with its weights: protobuf's limit
DOMAINS = ("", "ai.onnx")
BRANCHING = ("If", "Loop", "Scan", "SequenceMap")
QUANTISED = ("QLinear", "Quantize", "Dequantize", "DynamicQuantize", "ConvInteger", "MatMulInteger")
VALUES = {"value": "t", "value_float": "f", "value_floats": "floats", "value_int": "i", "value_ints": "ints"}


def load(path: Path) -> tuple[onnx.ModelProto, bytes]:
    """The file with its weights in it, and so as bytes.

    ValueError where it is no ONNX graph, or names weights outside its folder.
    """
    import onnx
    from google.protobuf.message import DecodeError, EncodeError
    from onnx.external_data_helper import load_external_data_for_model

    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"{path}: {path.stat().st_size:,} bytes; an ONNX graph has 2 GiB at most")
    content = path.read_bytes()
    if not content:
        raise ValueError(f"{path}: an empty file")
    try:
        model = onnx.load_model_from_string(content)
    except DecodeError:
        raise ValueError(f"{path}: no ONNX graph, or cut short") from None
    if not all(isinstance(text, str) for text in _texts(model)) or not all(node.output for node in model.graph.node):
        raise ValueError(f"{path}: an operator in it is damaged")  # a name that is no UTF-8 comes as bytes
    size, folder = 0, path.parent.resolve()
    beside = [one for one in _tensors(model) if one.data_location == onnx.TensorProto.EXTERNAL]
    for tensor in beside:
        named = {entry.key: entry.value for entry in tensor.external_data}.get("location", "")
        place = (folder / named).resolve()
        if not named or not place.is_relative_to(folder) or not place.is_file():
            raise ValueError(
                f"{path}: its weights '{shown(tensor.name)}' lie in '{shown(named)}', which is no file in {folder}; "
                "only files beside the graph are read"
            )
        size = max(size, place.stat().st_size)
    if size > LARGEST_FILE:
        raise ValueError(f"{path}: its weights take {size:,} bytes; 2 GiB at most are read")
    try:
        if beside:
            load_external_data_for_model(model, str(folder))
            content = model.SerializeToString()
    except (ValueError, OSError, onnx.checker.ValidationError, EncodeError) as error:  # also beyond 2 GiB
        raise ValueError(f"{path}: its weights cannot be read ({str(error)[:200]})") from None
    return model, content


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """All that may lie in files beside it, wherever in the graph."""
    graphs, nodes = [model.graph], [node for function in model.functions for node in function.node]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            yield from graph.initializer
            nodes += graph.node
            continue
        for attribute in nodes.pop().attribute:
            yield from (attribute.t, *attribute.tensors)
            graphs += [attribute.g] if attribute.HasField("g") else []
            graphs += attribute.graphs


def _texts(model: onnx.ModelProto) -> Iterator[object]:
    graph = model.graph
    for node in graph.node:
        yield from (node.op_type, node.domain, node.name, node.doc_string, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)
    yield from (one.name for one in (*graph.initializer, *graph.input, *graph.output, *graph.value_info))
    yield from (text for entry in model.metadata_props for text in (entry.key, entry.value))
    yield from (graph.name, graph.doc_string, model.producer_name, model.producer_version, model.domain)


def read_graph(model: onnx.ModelProto, path: Path) -> Graph:
    """The layers between the one picture that goes in and the one embedding that comes out.

    ValueError for a graph of other inputs or outputs, with branches, foreign operators or quantised weights.
    """
    from onnx import TensorProto

    given = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in given]  # older files list weights here, too
    outputs = model.graph.output
    ranks = [len(value.type.tensor_type.shape.dim) for value in (*inputs, *outputs)]
    if len(inputs) != 1 or len(outputs) != 1 or ranks[0] != 4 or ranks[1] not in (0, 2):
        raise ValueError(
            f"{path}: takes {_listed(inputs)} and gives {_listed(outputs)}; a recognition network takes one picture "
            "(B, 3, H, W) and gives one embedding (B, D): a detector, or a network with its score as an input, is none"
        )
    taken = inputs[0].type.tensor_type.elem_type
    if taken not in (TensorProto.UNDEFINED, TensorProto.FLOAT):
        kind = TensorProto.DataType.Name(taken).lower()
        raise ValueError(f"{path}: takes {kind} pictures; export with float32 inputs")
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    shape = tuple(side.dim_value or None for side in inputs[0].type.tensor_type.shape.dim)
    constants = _constants(model, path)
    join_prelu(model, constants)
    reader = Reader(path, inputs[0].name, constants)
    for node in _in_order(model, outputs[0].name, path):
        if node.domain not in DOMAINS or node.op_type in BRANCHING or node.op_type.startswith(QUANTISED):
            what = "is quantised" if node.op_type.startswith(QUANTISED) else f"has an operator {node.op_type}"
            raise ValueError(
                f"{path}: {what}, from which no weights of a backbone are taken back; read the file that it was made of"
            )
        reader.take(node)
    graph = reader.graph
    graph.metadata, graph.shape, graph.client = metadata, shape, _client(metadata, path)
    return graph


def _listed(values: object) -> str:
    names = [shown(value.name) for value in values]
    return f"{len(names)} ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})"


def _client(metadata: Mapping[str, str], path: Path) -> tuple[float, float] | None:
    if "preprocessing" not in metadata:
        return None
    try:
        told = json.loads(metadata["preprocessing"])
        mean, deviation = float(told["mean"]), float(told["std"])
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path}: its metadata tells no mean and std as preprocessing") from None
    if not (abs(mean) < 1e6 and 1e-6 < deviation < 1e6):
        raise ValueError(f"{path}: its metadata tells a mean of {mean:g} and a std of {deviation:g}")
    return mean, deviation


def _constants(model: onnx.ModelProto, path: Path) -> Values:
    from onnx import numpy_helper

    try:
        found = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "Constant":
                value = next((one for one in node.attribute if one.name in VALUES), None)
                if value is not None:
                    found[node.output[0]] = _constant(value)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path}: a tensor in it is damaged ({str(error)[:200]})") from None
    return found


def _constant(attribute: onnx.AttributeProto) -> np.ndarray:
    from onnx import numpy_helper

    if attribute.name == "value":
        return numpy_helper.to_array(attribute.t)
    value = getattr(attribute, VALUES[attribute.name])
    return np.array(value if isinstance(value, int | float) else [*value], VALUES[attribute.name][0])


def _in_order(model: onnx.ModelProto, output: str, path: Path) -> Iterator[onnx.NodeProto]:
    """The nodes behind the output, inputs before outputs, first inputs first, whatever the order in the file.

    Of a sum the first term comes first: in a residual block that is the branch, then the shortcut.
    """
    makes = {name: number for number, node in enumerate(model.graph.node) for name in node.output if name}
    done: set[int] = set()
    stack = [iter([makes[output]] if output in makes else [])]
    entered: dict[int, None] = {}  # in order
    while stack:
        number = next(stack[-1], None)
        if number is None:
            stack.pop()
            if entered:
                number, _ = entered.popitem()
                done.add(number)
                yield model.graph.node[number]
        elif number not in done:
            if number in entered:
                raise ValueError(f"{path}: its operators go round in a circle; it is damaged")
            entered[number] = None
            stack.append(iter([makes[name] for name in model.graph.node[number].input if name in makes]))
