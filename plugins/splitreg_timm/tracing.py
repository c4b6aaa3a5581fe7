"""From a timm model to a graph of its stages.

Nearly all timm models have a method ``forward_intermediates``, which calls the parts of the model in turn
and collects the feature maps. It is traced symbolically with ``torch.fx``, with all submodules as
leaves: ten to a few hundred nodes for any architecture. Each node is also run on the meta device, so
shapes are known while tracing: code that reads a height or width gets a number, code that reads the
batch size gets a node.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from timm.layers import get_notrace_functions  # type: ignore[attr-defined]
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

#: Batch size while tracing: no model has a dimension of this size, so it identifies the batch.
BATCH = 13


class _Features(nn.Module):
    """``forward_intermediates`` as ``forward``, for fx; with the classifier, logits are last."""

    def __init__(self, model: nn.Module, norm: bool, classifier: bool) -> None:
        super().__init__()
        self.model = model
        self.norm = norm
        self.classifier = classifier

    def forward(self, image: Tensor) -> Any:
        model: Any = self.model
        if not self.classifier:
            return model.forward_intermediates(image, norm=self.norm, intermediates_only=True)
        last, maps = model.forward_intermediates(image, norm=self.norm)
        return [*maps, model.forward_head(last)]


class _SizedProxy(fx.Proxy):
    """A proxy with a value on the meta device."""

    @property
    def _value(self) -> Any:
        return self.node.meta["val"]

    @property
    def shape(self) -> tuple[Any, ...]:
        sizes: list[Any] = list(self._value.shape)
        if sizes and sizes[0] == BATCH:
            sizes[0] = self.tracer.create_proxy("call_method", "size", (self, 0), {})
        return tuple(sizes)

    @property
    def ndim(self) -> int:
        return int(self._value.ndim)

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self._value.dtype
        return dtype

    def dim(self) -> int:
        return self.ndim

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    def numel(self) -> Any:
        return math.prod(self.shape)

    def __len__(self) -> int:
        return len(self._value)

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self._value)))

    def __getitem__(self, key: Any) -> Any:
        if isinstance(self._value, tuple | list) and not _has_tensor(self._value[key]):
            return self._value[key]  # a size that a module returned with its tensor
        return self.tracer.create_proxy("call_function", operator.getitem, (self, key), {})


class _StageTracer(fx.Tracer):
    """A tracer with all submodules as leaves, which runs each new node on the meta device."""

    def __init__(self, image: Tensor) -> None:
        super().__init__(autowrap_functions=tuple(get_notrace_functions()))  # type: ignore[no-untyped-call]
        self._image = image
        self._paths: dict[int, str] = {}
        self.running = False

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if self.running:
            return forward(*args, **kwargs)
        try:
            self.path_of_module(m)
        except NameError:  # created on the fly, like a slice of nn.Sequential: its children are leaves
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if self.running or not isinstance(attr_val, Tensor):
            return attr_val
        if not self._paths:
            self._paths = {id(t): path for path, t in (*self.root.named_parameters(), *self.root.named_buffers())}
        path = self._paths.get(id(attr_val))
        if path is None:
            return attr_val
        if path not in parameter_proxy_cache:
            parameter_proxy_cache[path] = self.create_proxy("get_attr", path, (), {})
        return parameter_proxy_cache[path]

    def create_node(self, kind: str, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(kind, target, *args, **kwargs)
        if kind != "output":
            self.running = True
            try:
                node.meta["val"] = self._value(node)
            finally:
                self.running = False
        return node

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _SizedProxy(node, self)

    def _value(self, node: fx.Node) -> Any:
        args = _values(node.args)
        kwargs = _values(node.kwargs)
        if node.op == "placeholder":
            return self._image
        if node.op == "get_attr":
            return operator.attrgetter(str(node.target))(self.root)
        if node.op == "call_module":
            return self.root.get_submodule(str(node.target))(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        return node.target(*args, **kwargs)  # type: ignore[operator]


class _Factories(TorchFunctionMode):
    """Create nodes for tensors that a model creates, like coordinates of a position embedding."""

    _NAMES = ("arange", "empty", "full", "linspace", "meshgrid", "ones", "tensor", "zeros")
    _FUNCTIONS = frozenset(getattr(torch, name) for name in _NAMES)

    def __init__(self, tracer: _StageTracer) -> None:
        super().__init__()
        self._tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self._FUNCTIONS and not self._tracer.running:
            return self._tracer.create_proxy("call_function", func, args, kwargs or {})
        return func(*args, **(kwargs or {}))


def _has_tensor(value: Any) -> bool:
    return any(map(_has_tensor, value)) if isinstance(value, tuple | list) else isinstance(value, Tensor)


def _values(argument: Any) -> Any:
    """Replace nodes by their values, in new lists: some modules change their arguments."""
    if isinstance(argument, fx.Node):
        return argument.meta["val"]
    if isinstance(argument, tuple):
        return tuple(map(_values, argument))
    if isinstance(argument, list):
        return list(map(_values, argument))
    if isinstance(argument, dict):
        return {key: _values(value) for key, value in argument.items()}
    return argument


def trace(
    model: nn.Module, image_size: tuple[int, int], *, norm: bool = False, classifier: bool = False
) -> tuple[fx.Graph, list[fx.Node]]:
    """Trace the feature maps of a model on the meta device.

    Args:
        model: a timm classifier in eval mode on the meta device.
        image_size: (H, W); if the model's top-level code reads sizes, the trace is for this size only.
        norm: apply the last norm of the model to its features.
        classifier: also trace the classifier.

    Returns:
        The graph, whose targets are paths inside ``model``; and a node per feature map, with a last one
        for the logits if ``classifier`` is set. ``node.meta["val"]`` is the value on the meta device,
        with batch size ``BATCH``.
    """
    image = torch.empty((BATCH, 3, *image_size), device="meta")
    with torch.no_grad():
        tracer = _StageTracer(image)
        with _Factories(tracer):
            graph = tracer.trace(_Features(model, norm, classifier))
    (output,) = (node for node in graph.nodes if node.op == "output")
    for node in graph.nodes:
        if node.op in ("call_module", "get_attr"):
            node.target = node.target.removeprefix("model.")
    return graph, list(output.args[0])
