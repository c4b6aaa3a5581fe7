"""ONNX graphs: what depends on weights alone is computed once, and nodes that change nothing go."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from splitreg.errors import MissingExtra

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


def onnx_library() -> Any:
    """Import onnx.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import onnx
        import onnx.reference
        import onnx.shape_inference
    except ModuleNotFoundError as cause:
        raise MissingExtra("writing ONNX files needs onnx; pip install 'splitreg[full]'") from cause
    return onnx


def simplified(data: bytes) -> bytes:
    """Fold constants into initializers, and drop identities and casts of float32 to itself: the same bytes each time.

    The means are onnx's own reference operators and no runtime's optimiser, so the graph stays in the standard's
    operators and is the same on every processor. A graph with branches or loops is left as it is.
    """
    onnx = onnx_library()
    model: ModelProto = onnx.shape_inference.infer_shapes(onnx.load_from_string(data))
    graph = model.graph
    if any(attribute.HasField("g") for node in graph.node for attribute in node.attribute):
        return data  # what is inside reads names of what is outside
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    inputs = {value.name for value in graph.input}
    outputs = {value.name for value in graph.output}
    floats = {
        v.name for v in (*graph.value_info, *graph.input) if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    floats |= {name for name, array in values.items() if array.dtype == np.float32}
    kept: list[NodeProto] = []
    for node in graph.node:
        if _changes_nothing(node, floats, onnx):
            gone, stays = node.output[0], node.input[0]
            if gone not in outputs:
                _rename(graph.node, gone, stays)
                continue
            if stays not in values and stays not in inputs and stays not in outputs:
                _rename(graph.node, stays, gone)  # what the graph gives keeps its name
                continue
        elif _is_constant(node, values) and not outputs.intersection(node.output):
            values.update(_evaluate(node, values, model, onnx))
            continue
        kept.append(node)
    for index, node in enumerate(kept):
        node.name = node.name or f"{node.op_type}_{index}"  # what is quantised is chosen by name
    used = {name for node in kept for name in node.input} | outputs
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(kept)
    graph.initializer.extend(onnx.numpy_helper.from_array(a, name) for name, a in values.items() if name in used)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def _changes_nothing(node: NodeProto, floats: set[str], onnx: Any) -> bool:
    if node.op_type == "Cast":
        return node.attribute[0].i == onnx.TensorProto.FLOAT and node.input[0] in floats
    return node.op_type == "Identity"


def _rename(nodes: Iterable[NodeProto], old: str, new: str) -> None:
    for node in nodes:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]


def _is_constant(node: NodeProto, values: dict[str, NDArray[Any]]) -> bool:
    random = node.op_type.startswith("Random") or node.op_type in ("Multinomial", "Bernoulli")
    return all(name in values for name in node.input if name) and not (random or node.domain)


def _evaluate(
    node: NodeProto, values: dict[str, NDArray[Any]], model: ModelProto, onnx: Any
) -> dict[str, NDArray[Any]]:
    given = [name for name in dict.fromkeys(node.input) if name]
    types = {name: onnx.helper.np_dtype_to_tensor_dtype(values[name].dtype) for name in given}
    made = {name: onnx.TensorProto.UNDEFINED for name in node.output if name}
    ends = ([onnx.helper.make_tensor_value_info(*item, None) for item in part.items()] for part in (types, made))
    graph = onnx.helper.make_graph([node], "constant", *ends)
    alone = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    results = onnx.reference.ReferenceEvaluator(alone).run(None, {name: values[name] for name in given})
    return {name: np.asarray(array) for name, array in zip(made, results, strict=True)}
