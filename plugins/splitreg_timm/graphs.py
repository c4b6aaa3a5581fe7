"""Find where a traced model can be cut, and extract the modules of both sides."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, fx, nn

from splitreg_timm.tracing import BATCH


def upstream(outputs: Iterable[fx.Node], start: fx.Node | None = None) -> set[fx.Node] | None:
    """Return the nodes that compute ``outputs`` from ``start``; from the image if it is None.

    Batch size and device are read from the input, so their own inputs are not followed.

    Returns:
        The nodes, with ``start`` or the image if they are needed; None if ``start`` is not sufficient.
    """
    needed: set[fx.Node] = set()
    waiting = list(outputs)
    while waiting:
        node = waiting.pop()
        if node in needed:
            continue
        needed.add(node)
        if node is start or _reads_input(node):
            continue
        if node.op == "placeholder" and start is not None:
            return None
        waiting.extend(node.all_input_nodes)
    return needed


def separator(
    model: nn.Module, tap: fx.Node, outputs: Sequence[fx.Node], candidates: Sequence[fx.Node] | None = None
) -> fx.Node | None:
    """Find the last value before ``tap`` from which all ``outputs`` can be computed.

    Args:
        model: the traced model.
        tap: a feature map.
        outputs: this feature map and all later ones.
        candidates: nodes to consider, in this order; by default all before ``tap``, the last first.

    Returns:
        The node; None if other data would have to cross (parallel branches), or both sides share weights.
    """
    if candidates is None:
        before_tap = upstream([tap]) or set()
        candidates = [node for node in reversed(tap.graph.nodes) if node in before_tap]
    for node in candidates:
        if node.op == "placeholder" or not isinstance(node.meta["val"], Tensor) or node.meta["val"].shape[0] != BATCH:
            continue
        after = upstream(outputs, node)
        before = upstream([node]) or set()
        if after is None or node not in after or not any(n.op == "placeholder" for n in before):
            continue
        if not weights(model, before) & weights(model, after - {node}):
            return node
    return None


def weights(model: nn.Module, nodes: Iterable[fx.Node]) -> set[str]:
    """Return the names of the persistent tensors that these nodes use."""
    persistent = model.state_dict(keep_vars=True).keys()
    paths = [str(node.target) for node in nodes if node.op in ("call_module", "get_attr")]
    return {key for path in paths for key in persistent if key == path or key.startswith(f"{path}.")}


def extract(model: nn.Module, start: fx.Node | None, outputs: Sequence[fx.Node]) -> fx.GraphModule:
    """Return a module from ``start``, or from the image if it is None, to a tuple of ``outputs``.

    It shares the parameters of ``model`` that it uses, with the same names, and has no others.
    """
    needed = upstream(outputs, start)
    if needed is None:
        raise ValueError(f"{start} does not determine {list(outputs)}")
    graph = fx.Graph()
    entry = graph.placeholder("image" if start is None else "feature")
    copies: dict[fx.Node, fx.Node] = {}
    for node in outputs[0].graph.nodes:
        if node is start or node.op == "placeholder":
            copies[node] = entry
        elif node in needed and _reads_input(node):
            value = node.meta["val"]
            copies[node] = (
                graph.call_function(getattr, (entry, "device"))
                if isinstance(value, torch.device)
                else graph.call_method("size", (entry, 0))
            )
        elif node in needed:
            copies[node] = graph.node_copy(node, lambda n: copies[n])
            copies[node].meta = {}  # values of the meta device are no longer needed
    graph.output(tuple(copies[node] for node in outputs))
    module = fx.GraphModule(model, graph)
    for node in graph.nodes:  # fx makes all copied tensors persistent
        if node.op == "get_attr":
            owner, _, name = str(node.target).rpartition(".")
            if name in model.get_submodule(owner)._non_persistent_buffers_set:
                module.get_submodule(owner)._non_persistent_buffers_set.add(name)
    for path, part in module.named_modules():  # fx creates new containers; all else is shared
        part.training = model.get_submodule(path).training
    return module


def _reads_input(node: fx.Node) -> bool:
    value = node.meta.get("val")
    batch = node.op == "call_method" and node.target == "size" and isinstance(value, int)
    return batch or (node.target is getattr and isinstance(value, torch.device))
