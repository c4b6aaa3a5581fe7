"""Simplify ONNX graphs: fold constants, and remove nodes without effect."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from splitreg.errors import MissingExtra

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


def onnx_library() -> Any:
    """Return the module onnx.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import onnx
        import onnx.reference
        import onnx.shape_inference
    except ModuleNotFoundError as cause:
        raise MissingExtra("ONNX export needs onnx, which is not installed; pip install 'splitreg[full]'") from cause
    return onnx


def simplify(data: bytes) -> bytes:
    """Fold constants into initializers, and remove identities and casts of float32 to float32.

    Constants are evaluated by onnx's reference operators, not by a runtime's optimiser, so that the
    graph has standard operators only and is the same on every CPU. A graph with branches or loops is
    returned unchanged.
    """
    onnx = onnx_library()
    model: ModelProto = onnx.shape_inference.infer_shapes(onnx.load_from_string(data))
    graph = model.graph
    if any(attribute.HasField("g") for node in graph.node for attribute in node.attribute):
        return data  # subgraphs use names of the outer graph
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    inputs = {value.name for value in graph.input}
    outputs = {value.name for value in graph.output}
    floats = {
        v.name for v in (*graph.value_info, *graph.input) if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    floats |= {name for name, array in values.items() if array.dtype == np.float32}
    nodes: list[NodeProto] = []
    for node in graph.node:
        if _has_no_effect(node, floats, onnx):
            source, target = node.input[0], node.output[0]
            if target not in outputs:
                _rename(graph.node, target, source)
                continue
            if source not in values and source not in inputs and source not in outputs:
                _rename(graph.node, source, target)  # an output keeps its name
                continue
        elif _is_constant(node, values) and not outputs.intersection(node.output):
            values.update(_evaluate(node, values, model, onnx))
            continue
        nodes.append(node)
    for index, node in enumerate(nodes):
        node.name = node.name or f"{node.op_type}_{index}"  # quantisation selects nodes by name
    used = {name for node in nodes for name in node.input} | outputs
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(onnx.numpy_helper.from_array(a, name) for name, a in values.items() if name in used)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def _has_no_effect(node: NodeProto, floats: set[str], onnx: Any) -> bool:
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
    names = [name for name in dict.fromkeys(node.input) if name]
    inputs = {name: onnx.helper.np_dtype_to_tensor_dtype(values[name].dtype) for name in names}
    outputs = {name: onnx.TensorProto.UNDEFINED for name in node.output if name}
    ports = ([onnx.helper.make_tensor_value_info(*item, None) for item in types.items()] for types in (inputs, outputs))
    graph = onnx.helper.make_graph([node], "constant", *ports)
    model_of_node = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    results = onnx.reference.ReferenceEvaluator(model_of_node).run(None, {name: values[name] for name in names})
    return {name: np.asarray(array) for name, array in zip(outputs, results, strict=True)}
