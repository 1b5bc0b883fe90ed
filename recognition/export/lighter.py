"""A graph that computes the same with less: fixed shapes, operators that onnxruntime is fast at, nothing unread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from recognition.export.agreement import refusals

if TYPE_CHECKING:
    import onnx

SHAPED = ("Reshape", "Expand")
CHANNELS = 16  # of a block in onnxruntime's own layout for convolutions, NCHWc; 8 on processors without AVX-512


def lighten(graph: onnx.ModelProto, examples: Sequence[tuple[Tensor, ...]]) -> None:
    """Rewrite a fresh graph in place; its embeddings stay the same but for rounding.

    examples: inputs of two different batch sizes, at which shapes are looked at: what is the same at both is fixed.
    Exporters leave hundreds of small operators that compute shapes anew for each picture: a fifth of what a small Swin
    takes for one. onnxruntime's PRelu takes three times as long as Relu, two Mul and an Add, which are the same:
    max(x, 0) + a min(x, 0) = a x + (1 - a) max(x, 0).
    """
    _name_weights_once(graph.graph)
    _fix_shapes(graph, examples)
    _mix_in_blocks(graph, examples)
    _spell_out_prelu(graph.graph)
    drop_unread(graph.graph)


def drop_unread(graph: onnx.GraphProto) -> None:
    """Take out operators and weights that no output depends on."""
    read = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if any(name in read for name in node.output):
            kept.append(node)
            read.update(node.input)
            read.update(name for one in node.attribute for name in _read_inside(one.g))
    _replace(graph.node, kept[::-1])
    for number in reversed([i for i, one in enumerate(graph.initializer) if one.name not in read]):
        del graph.initializer[number]  # the others, most of the file, are not copied


def _read_inside(graph: onnx.GraphProto) -> set[str]:
    """Names that a branch reads, its own among them."""
    found = {value.name for value in graph.output}
    for node in graph.node:
        found.update(node.input)
        found.update(name for one in node.attribute for name in _read_inside(one.g))
    return found


def _replace(field, values: Sequence) -> None:
    copies = [type(value).FromString(value.SerializeToString()) for value in values]
    del field[:]
    field.extend(copies)


def _name_weights_once(graph: onnx.GraphProto) -> None:
    """The exporter stores equal weights once and names them several times, by Identity."""
    held = {one.name for one in graph.initializer}
    same: dict[str, str] = {}
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name in same:
                node.input[i] = same[name]
        if node.op_type == "Identity" and node.input[0] in held:
            same[node.output[0]] = node.input[0]
            held.add(node.output[0])
    for value in graph.output:
        assert value.name not in same, "an embedding that is a weight"


def _fix_shapes(graph: onnx.ModelProto, examples: Sequence[tuple[Tensor, ...]]) -> None:
    import onnx
    from onnx import helper, numpy_helper

    held = {one.name for one in graph.graph.initializer}
    held |= {node.output[0] for node in graph.graph.node if node.op_type == "Constant"}
    nodes = [node for node in graph.graph.node if node.op_type in SHAPED and node.input[1] not in held]
    sizes = [len(example[0]) for example in examples]
    seen = _shapes(graph, [node.output[0] for node in nodes], examples)
    if seen is None:  # a graph that takes one batch size only: the comparison with torch tells
        return
    kinds = {
        one.name: one.type.tensor_type.elem_type for one in onnx.shape_inference.infer_shapes(graph).graph.value_info
    }
    del graph.graph.value_info[:]
    for node, *found in zip(nodes, *seen, strict=True):
        differ = np.flatnonzero(found[0] != found[1])
        if len(differ) > 1:
            continue
        batch = [i for i in differ if [shape[i] for shape in found] == sizes]
        dims = ["batch" if i in batch else None if i in differ else int(size) for i, size in enumerate(found[0])]
        if kind := kinds.get(node.output[0]):
            # that images stay apart is not seen from a shape of -1, and onnxruntime then fuses less
            graph.graph.value_info.append(helper.make_tensor_value_info(node.output[0], kind, dims))
        if len(differ) and node.op_type == "Expand":
            continue
        wanted = found[0].copy()
        wanted[differ] = -1
        name = "shape_" + "_".join(map(str, wanted.tolist()))
        if name not in held:
            held.add(name)
            graph.graph.initializer.append(numpy_helper.from_array(wanted, name))
        node.input[1] = name


def _shapes(
    graph: onnx.ModelProto, names: Sequence[str], examples: Sequence[tuple[Tensor, ...]]
) -> list[list[np.ndarray]] | None:
    """Shapes of the named tensors for each example; None where onnxruntime refuses one."""
    import onnxruntime
    from onnx import ModelProto, TensorProto, helper

    if not names:
        return [[] for _ in examples]
    probe = ModelProto()
    probe.CopyFrom(graph)
    asked = [f"shape_of_{i}" for i in range(len(names))]
    for name, shape in zip(names, asked, strict=True):
        probe.graph.node.append(helper.make_node("Shape", [name], [shape]))
        probe.graph.output.append(helper.make_tensor_value_info(shape, TensorProto.INT64, None))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
        inputs = [value.name for value in session.get_inputs()]
        fed = [dict(zip(inputs, (value.cpu().numpy() for value in one), strict=True)) for one in examples]
        return [session.run(asked, one) for one in fed]
    except refusals():
        return None


def _mix_in_blocks(graph: onnx.ModelProto, examples: Sequence[tuple[Tensor, ...]]) -> None:
    """Multiply feature maps between two convolutions by maps of their size, in place of a number for each channel.

    onnxruntime leaves its layout for convolutions where a picture's channels are weighed, twice for each gated layer of
    a MobileFaceNet; two maps that come from convolutions are multiplied in it. The map is the weights spread out and
    convolved with ones: exact, and the same for all layers of one size, which onnxruntime computes once.
    """
    from onnx import helper, numpy_helper

    held, made = {one.name for one in graph.graph.initializer}, {}
    makers = {name: node for node in graph.graph.node for name in node.output}
    readers: dict[str, list[str]] = {}
    for node in graph.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    nodes = [node for node in graph.graph.node if node.op_type == "Mul" and not held & {*node.input}]
    seen = _shapes(graph, [name for node in nodes for name in node.input], examples)
    if not nodes or seen is None:
        return
    before: dict[str, list[onnx.NodeProto]] = {}
    for i, node in enumerate(nodes):
        shapes = [[found[2 * i + side].tolist() for side in (0, 1)] for found in seen]
        narrow = next((side for side in (0, 1) if all(_weighs(*pair[:: 1 if side else -1]) for pair in shapes)), None)
        if narrow is None or shapes[0][1 - narrow][2:] != shapes[1][1 - narrow][2:]:
            continue
        weights, wide = node.input[narrow], node.input[1 - narrow]
        if getattr(makers.get(wide), "op_type", "") != "Conv" or {*readers.get(node.output[0], ())} != {"Conv"}:
            continue
        _, channels, *size = shapes[0][1 - narrow]
        ones, target = f"ones_{channels}", "shape_" + "_".join(map(str, (1, 1, *size)))
        for name, values in ((ones, np.ones((channels, 1, 1, 1), np.float32)), (target, np.array([1, 1, *size]))):
            if name not in held:
                held.add(name)
                graph.graph.initializer.append(numpy_helper.from_array(values, name))
        spread = f"{weights}_{size[0]}x{size[1]}"
        if spread not in made:
            made[spread] = f"{spread}_map"
            before[node.output[0]] = [
                helper.make_node("Expand", [weights, target], [spread], name=f"{node.name}_spread"),
                helper.make_node("Conv", [spread, ones], [made[spread]], name=f"{node.name}_map", group=channels),
            ]
            for one in before[node.output[0]]:
                one.metadata_props.extend(node.metadata_props)
        node.input[narrow] = made[spread]
    _replace(graph.graph.node, [one for node in graph.graph.node for one in (*before.get(node.output[0], ()), node)])


def _weighs(wide: list[int], narrow: list[int]) -> bool:
    """Whether these are shapes of feature maps and of one number for each of their channels."""
    fits = len(wide) == len(narrow) == 4 and wide[:2] == narrow[:2] and wide[1] % CHANNELS == 0
    return fits and narrow[2:] == [1, 1] and wide[2] * wide[3] > 1


def _spell_out_prelu(graph: onnx.GraphProto) -> None:
    from onnx import helper, numpy_helper

    held = {one.name: one for one in graph.initializer}
    rest: dict[str, str] = {}
    nodes = []
    for node in graph.node:
        if node.op_type != "PRelu" or node.input[1] not in held:
            nodes.append(node)
            continue
        (x, slope), out = node.input, node.output[0]
        if slope not in rest:
            rest[slope] = f"{slope}_rest"
            values = numpy_helper.to_array(held[slope])
            graph.initializer.append(numpy_helper.from_array(1 - values, rest[slope]))
        parts = (
            ("Relu", [x], f"{out}_above"),
            ("Mul", [f"{out}_above", rest[slope]], f"{out}_rest"),
            ("Mul", [x, slope], f"{out}_line"),
            ("Add", [f"{out}_line", f"{out}_rest"], out),
        )
        for kind, given, made in parts:
            nodes.append(helper.make_node(kind, given, [made], name=f"{node.name}_{kind}_{made[-4:]}"))
            nodes[-1].metadata_props.extend(node.metadata_props)
    _replace(graph.node, nodes)
