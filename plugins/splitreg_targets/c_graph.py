"""An ONNX graph as a list of layers at one input size, with activations fused into convolutions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitreg.errors import BundleError, MissingExtra

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """A function of one value.

    Args:
        name: one of the C enumeration, e.g. ``"SR_RELU"``.
        p: first parameter: slope, lower bound or factor.
        q: second parameter: upper bound or offset.
    """

    name: str = "SR_NONE"
    p: float = 0.0
    q: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One step of a network.

    Args:
        kind: ``conv``, ``depthwise``, ``unary``, ``binary``, ``pool``, ``mean`` or ``pad``.
        inputs: names of features.
        output: name of the feature that it computes.
        kernel: (height, width).
        stride: (vertical, horizontal).
        pads: (top, left, bottom, right).
        weight: (out, in, height, width), or (channels, 1, height, width) of a depthwise convolution.
        bias: per output channel; of a ``binary`` layer, the constant operand per channel.
        activation: applied to the output.
        int8: weights of a convolution in 8-bit integers, whose input is quantised.
        scales: per output channel, from a product of integers to a value.
        zero: of the input's integers.
        steps: applied to the output of such a convolution, in this order.
        function: of a ``binary`` or ``pool`` layer, or the mode of a ``pad``.
    """

    kind: str
    inputs: tuple[str, ...]
    output: str
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    weight: Array | None = None
    bias: Array | None = None
    activation: Activation = field(default_factory=Activation)
    int8: Array | None = None
    scales: Array | None = None
    zero: int = 0
    steps: tuple[Activation, ...] = ()
    function: str = ""

    @property
    def quantised(self) -> Activation | None:
        """The quantisation of the output, if it ends with one."""
        last = self.steps[-1] if self.int8 is not None and self.steps else self.activation
        return last if last.name == "SR_QUANT" else None


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkGraph:
    """Layers in the order of their execution.

    Args:
        layers: the layers.
        features: name -> (channels, height, width).
        input: name of the image.
        output: name of the latent.
    """

    layers: tuple[Layer, ...]
    features: Mapping[str, tuple[int, int, int]]
    input: str
    output: str

    @property
    def integers(self) -> frozenset[str]:
        """Names of features that are kept as 8-bit integers: all that read them compute with integers."""
        quantised = {layer.output for layer in self.layers if layer.quantised is not None} - {self.output}
        others = {name for layer in self.layers if layer.int8 is None for name in layer.inputs}
        return frozenset(quantised - others)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all convolutions, per image."""
        total = 0
        for layer in self.layers:
            if layer.weight is not None:
                _, height, width = self.features[layer.output]
                total += int(np.count_nonzero(np.ones_like(layer.weight))) * height * width
        return total

    @property
    def parameters(self) -> int:
        """Number of weights and biases."""
        return sum(array.size for layer in self.layers for array in (layer.weight, layer.bias) if array is not None)


def read_graph(graph: bytes, size: tuple[int, int]) -> NetworkGraph:
    """Read an edge half's ONNX graph.

    Args:
        graph: bytes of the file.
        size: (height, width) of the input.

    Raises:
        BundleError: an operator that the C target lacks; the message names it.
        MissingExtra: onnx is not installed.
    """
    try:
        import onnx
        import onnx.reference
    except ModuleNotFoundError as cause:
        raise MissingExtra("the c target needs onnx, which is not installed; pip install onnx") from cause
    try:
        model = onnx.load_from_string(graph)
    except Exception as cause:  # the parser's exceptions are private
        raise BundleError(f"not an ONNX graph: {type(cause).__name__}: {cause}") from cause
    return _Reader(onnx, model, size).read()


_SIMPLE = {
    "Relu": ("SR_RELU", {}), "LeakyRelu": ("SR_LEAKY", {"alpha": 0.01}), "Abs": ("SR_ABS", {}),
    "Sqrt": ("SR_SQRT", {}), "Reciprocal": ("SR_RECIPROCAL", {}), "Sigmoid": ("SR_SIGMOID", {}),
    "HardSigmoid": ("SR_HSIGMOID", {"alpha": 0.2, "beta": 0.5}),
}  # fmt: skip
_BINARY = {"Add": "SR_ADD", "Sub": "SR_SUB", "Mul": "SR_MUL", "Div": "SR_DIV"}


class _Reader:
    def __init__(self, onnx: Any, model: Any, size: tuple[int, int]) -> None:
        self._onnx, self._model = onnx, model
        self._values: dict[str, Array] = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
        self._name = model.graph.input[0].name
        self._features: dict[str, tuple[int, int, int]] = {self._name: (3, *size)}
        self._alias: dict[str, str] = {}
        self._layers: list[Layer] = []
        self._int8: dict[str, tuple[Array, Array]] = {}  # weights as integers, and their scales
        self._quantised: dict[str, tuple[float, int]] = {}  # feature -> scale and zero

    def read(self) -> NetworkGraph:
        for node in self._model.graph.node:
            if node.op_type == "Constant":
                self._values[node.output[0]] = self._onnx.numpy_helper.to_array(node.attribute[0].t)
            elif node.op_type == "Shape":
                known = self._values.get(node.input[0])
                shape = np.array([1, *self._input(node)[1]] if known is None else known.shape, np.int64)
                attributes = self._attributes(node)
                self._values[node.output[0]] = shape[attributes.get("start", 0) : attributes.get("end")]
            elif all(name in self._values for name in node.input if name):
                if node.op_type == "DequantizeLinear":
                    self._dequantised(node)
                else:
                    self._fold(node)
            else:
                self._layer(node)
        output = self._real(self._model.graph.output[0].name)
        layers = _fuse(_with_integers(self._layers), output)
        used = {name for layer in layers for name in (*layer.inputs, layer.output)}
        features = {name: shape for name, shape in self._features.items() if name in used}
        return NetworkGraph(layers=tuple(layers), features=features, input=self._name, output=output)

    def _real(self, name: str) -> str:
        while name in self._alias:
            name = self._alias[name]
        return name

    def _attributes(self, node: Any) -> dict[str, Any]:
        return {a.name: self._onnx.helper.get_attribute_value(a) for a in node.attribute}

    def _fold(self, node: Any) -> None:
        """Evaluate a node whose inputs are constants."""
        helper = self._onnx.helper
        names = [name for name in dict.fromkeys(node.input) if name]
        inputs = [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(self._values[n].dtype), None)
            for n in names
        ]
        outputs = [helper.make_tensor_value_info(n, self._onnx.TensorProto.UNDEFINED, None) for n in node.output]
        graph = helper.make_graph([node], "constant", inputs, outputs)
        model = helper.make_model(
            graph, opset_imports=self._model.opset_import, ir_version=self._model.ir_version
        )  # fmt: skip
        results = self._onnx.reference.ReferenceEvaluator(model).run(None, {n: self._values[n] for n in names})
        self._values.update(zip(node.output, map(np.asarray, results), strict=True))

    def _dequantised(self, node: Any) -> None:
        """Evaluate constants that are stored as integers; symmetric weights are remembered as such."""
        integers, scale = self._values[node.input[0]], np.asarray(self._values[node.input[1]], np.float32)
        zero = self._values[node.input[2]] if len(node.input) > 2 else np.zeros(scale.shape, integers.dtype)
        shape = [1] * integers.ndim
        if scale.size > 1:
            shape[self._attributes(node).get("axis", 1)] = scale.size
        centred = integers.astype(np.float32) - zero.astype(np.float32).reshape(shape)
        self._values[node.output[0]] = centred * scale.reshape(shape)
        if integers.dtype == np.int8 and not zero.any():
            self._int8[node.output[0]] = integers, scale.reshape(-1)

    def _layer(self, node: Any) -> None:
        kind, attributes = node.op_type, self._attributes(node)
        handlers: dict[str, Callable[[Any, dict[str, Any]], None]] = {
            "Conv": self._conv, "Pad": self._pad, "GlobalAveragePool": self._mean, "ReduceMean": self._mean,
            "MaxPool": self._pool, "AveragePool": self._pool, "BatchNormalization": self._norm, "Clip": self._clip,
            "HardSwish": self._hard_swish, "Pow": self._power, "QuantizeLinear": self._quantise,
            "DequantizeLinear": self._dequantise,
        }  # fmt: skip
        if kind in handlers:
            handlers[kind](node, attributes)
        elif kind in _SIMPLE:
            name, defaults = _SIMPLE[kind]
            numbers = [float(attributes.get(key, value)) for key, value in defaults.items()]
            self._unary(node, Activation(name=name, **dict(zip("pq", numbers, strict=False))))
        elif kind in _BINARY:
            self._binary(node, _BINARY[kind])
        elif kind in ("Identity", "Dropout"):
            self._alias[node.output[0]] = self._real(node.input[0])
        else:
            self._refuse(node, "the C target does not have it")

    def _refuse(self, node: Any, why: str) -> None:
        known = "Conv, Pad, pooling, BatchNormalization, HardSwish, Clip, Relu, LeakyRelu, Sigmoid, Add, Sub, Mul, Div"
        raise BundleError(
            f"cannot write the edge half in C: operator {node.op_type} ({node.name or node.output[0]}): {why}; it has "
            f"{known}. Use --target onnx for this model"
        )

    def _append(self, node: Any, shape: tuple[int, int, int], **options: Any) -> None:
        self._features[node.output[0]] = shape
        self._layers.append(Layer(output=node.output[0], **options))

    def _input(self, node: Any, index: int = 0) -> tuple[str, tuple[int, int, int]]:
        name = self._real(node.input[index])
        if name not in self._features:
            self._refuse(node, "its input is not an image or a feature map")
        return name, self._features[name]

    def _constant(self, node: Any, index: int) -> Array:
        if node.input[index] not in self._values:
            self._refuse(node, "its parameters must be constants")
        return self._values[node.input[index]]

    def _unary(self, node: Any, activation: Activation) -> None:
        name, shape = self._input(node)
        self._append(node, shape, kind="unary", inputs=(name,), activation=activation)

    def _conv(self, node: Any, attributes: dict[str, Any]) -> None:
        name, (channels, height, width) = self._input(node)
        weight = np.asarray(self._constant(node, 1), np.float32)
        groups = attributes.get("group", 1)
        if weight.ndim != 4 or any(d != 1 for d in attributes.get("dilations", [1, 1])):
            self._refuse(node, "it must have two dimensions, without dilation")
        if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b""):
            self._refuse(node, "its padding must be given in numbers")
        kernel, stride, pads = weight.shape[2:], attributes.get("strides", [1, 1]), attributes.get("pads", [0] * 4)
        bias = np.zeros(len(weight), np.float32) if len(node.input) < 3 else self._constant(node, 2)
        integers: dict[str, Any] = {}
        if node.input[1] in self._int8 and name in self._quantised:
            int8, scales = self._int8[node.input[1]]
            scale, zero = self._quantised[name]
            factors = np.broadcast_to(scales.astype(np.float32), (len(weight),)) * np.float32(scale)
            integers = {"int8": int8, "scales": factors, "zero": zero}
        depthwise = groups == channels == len(weight) and groups > 1 and channels != 3
        if groups > 1 and not depthwise:
            weight = _dense(weight, groups)
            integers.update({"int8": _dense(integers["int8"], groups)} if integers else {})
        self._append(
            node, (len(weight), *_sizes((height, width), kernel, stride, pads)),
            kind="depthwise" if depthwise else "conv", inputs=(name,), kernel=tuple(kernel), stride=tuple(stride),
            pads=tuple(pads), weight=weight, bias=np.asarray(bias, np.float32), **integers,
        )  # fmt: skip

    def _quantise(self, node: Any, _: dict[str, Any]) -> None:
        scale = np.asarray(self._constant(node, 1)).reshape(-1)
        zero = np.asarray(self._constant(node, 2)).reshape(-1) if len(node.input) > 2 else np.zeros(1, np.uint8)
        if scale.size != 1 or zero.size != 1 or zero.dtype != np.uint8:
            self._refuse(node, "activations must be unsigned 8-bit integers with one scale")
        self._quantised[node.output[0]] = float(scale[0]), int(zero[0])
        self._unary(node, Activation(name="SR_QUANT", p=float(scale[0]), q=float(zero[0])))

    def _dequantise(self, node: Any, _: dict[str, Any]) -> None:
        self._alias[node.output[0]] = self._real(node.input[0])

    def _pad(self, node: Any, attributes: dict[str, Any]) -> None:
        name, (channels, height, width) = self._input(node)
        pads = [int(p) for p in self._constant(node, 1)]
        mode = attributes.get("mode", b"constant").decode()
        if len(pads) != 8 or any(pads[i] for i in (0, 1, 4, 5)) or min(pads) < 0:
            self._refuse(node, f"pads {pads} must enlarge height and width only")
        top, left, bottom, right = pads[2], pads[3], pads[6], pads[7]
        if not any(pads):
            self._alias[node.output[0]] = name
            return
        value = float(self._constant(node, 2)) if len(node.input) > 2 and node.input[2] else 0.0
        if mode not in ("edge", "constant") or value:
            self._refuse(node, f"mode {mode!r} must be 'edge', or 'constant' with 0")
        shape = (channels, height + top + bottom, width + left + right)
        self._append(node, shape, kind="pad", inputs=(name,), pads=(top, left, bottom, right), function=mode)

    def _mean(self, node: Any, attributes: dict[str, Any]) -> None:
        name, (channels, _, _) = self._input(node)
        if node.op_type == "ReduceMean":
            axes = self._constant(node, 1).tolist() if len(node.input) > 1 else attributes.get("axes")
            if sorted(axis % 4 for axis in axes or ()) != [2, 3] or not attributes.get("keepdims", 1):
                self._refuse(node, "it must average over height and width, and keep both axes")
        self._append(node, (channels, 1, 1), kind="mean", inputs=(name,))

    def _pool(self, node: Any, attributes: dict[str, Any]) -> None:
        name, (channels, height, width) = self._input(node)
        kernel, pads = attributes["kernel_shape"], attributes.get("pads", [0] * 4)
        stride = attributes.get("strides", [1, 1])
        padded_mean = any(pads) and node.op_type == "AveragePool"
        if padded_mean or attributes.get("ceil_mode", 0) or any(d != 1 for d in attributes.get("dilations", [1, 1])):
            self._refuse(node, "it must have no dilation and no ceil_mode, and AveragePool no padding")
        shape = (channels, *_sizes((height, width), kernel, stride, pads))
        self._append(node, shape, kind="pool", inputs=(name,), kernel=tuple(kernel), stride=tuple(stride), pads=tuple(pads),
                     function="max" if node.op_type == "MaxPool" else "mean")  # fmt: skip

    def _norm(self, node: Any, attributes: dict[str, Any]) -> None:
        name, shape = self._input(node)
        scale, shift, mean, variance = (np.asarray(self._constant(node, i), np.float64) for i in range(1, 5))
        factor = scale / np.sqrt(variance + attributes.get("epsilon", 1e-5))
        middle = f"{node.output[0]}_scaled"
        self._features[middle] = shape
        self._layers.append(
            Layer(kind="binary", inputs=(name,), output=middle, function="SR_MUL", bias=factor.astype(np.float32))
        )
        offset = (shift - mean * factor).astype(np.float32)
        self._append(node, shape, kind="binary", inputs=(middle,), function="SR_ADD", bias=offset)

    def _clip(self, node: Any, attributes: dict[str, Any]) -> None:
        bounds = [attributes.get("min", -3.4e38), attributes.get("max", 3.4e38)]
        for i in (1, 2):
            if len(node.input) > i and node.input[i]:
                bounds[i - 1] = float(self._constant(node, i))
        self._unary(node, Activation(name="SR_CLIP", p=float(bounds[0]), q=float(bounds[1])))

    def _hard_swish(self, node: Any, _: dict[str, Any]) -> None:
        self._unary(node, Activation(name="SR_HSWISH", p=1 / 6, q=0.5))

    def _power(self, node: Any, _: dict[str, Any]) -> None:
        exponent = float(self._constant(node, 1))
        if exponent not in (0.5, 2.0):
            self._refuse(node, f"the exponent must be 0.5 or 2, got {exponent}")
        self._unary(node, Activation(name="SR_SQRT" if exponent == 0.5 else "SR_SQUARE"))

    def _binary(self, node: Any, function: str) -> None:
        constants = [name in self._values for name in node.input]
        if any(constants):
            index = constants.index(False)
            name, shape = self._input(node, index)
            constant = np.asarray(self._values[node.input[1 - index]], np.float32)
            if index and function in ("SR_SUB", "SR_DIV"):
                if function == "SR_SUB" or not (constant == 1).all():
                    self._refuse(node, "a constant must be on its right")
                self._unary(node, Activation(name="SR_RECIPROCAL"))
                return
            if constant.size not in (1, shape[0]) or (constant.size > 1 and constant.shape[-3:] != (shape[0], 1, 1)):
                self._refuse(node, f"a constant must be one number, or one per channel; got shape {constant.shape}")
            bias = np.broadcast_to(constant.reshape(-1), (shape[0],))
            self._append(node, shape, kind="binary", inputs=(name,), function=function, bias=bias)
            return
        (first, shape), (second, other) = self._input(node, 0), self._input(node, 1)
        if shape != other and shape == (shape[0], 1, 1) and function in ("SR_ADD", "SR_MUL"):
            first, second, shape, other = second, first, other, shape
        if other not in (shape, (shape[0], 1, 1)):
            self._refuse(node, f"its operands have the shapes {shape} and {other}")
        self._append(node, shape, kind="binary", inputs=(first, second), function=function)


def _sizes(size: tuple[int, int], kernel: Any, stride: Any, pads: Any) -> tuple[int, int]:
    heights = (size[0] + pads[0] + pads[2] - kernel[0]) // stride[0] + 1
    return heights, (size[1] + pads[1] + pads[3] - kernel[1]) // stride[1] + 1


def _dense(weight: Array, groups: int) -> Array:
    """Return a grouped convolution's weight as that of a dense one."""
    out, inside = weight.shape[:2]
    dense = np.zeros((out, inside * groups, *weight.shape[2:]), weight.dtype)
    for channel in range(out):
        first = channel // (out // groups) * inside
        dense[channel, first : first + inside] = weight[channel]
    return dense


def _with_integers(layers: list[Layer]) -> list[Layer]:
    """Let a convolution compute in float32 if something else reads its quantised input: the values are the same."""
    readers = [(name, layer.int8 is not None) for layer in layers for name in layer.inputs]
    mixed = {name for name, integer in readers if not integer}
    return [replace(layer, int8=None) if layer.inputs[0] in mixed else layer for layer in layers]


def _fuse(layers: list[Layer], output: str) -> list[Layer]:
    """Fold constants per channel and activations into the convolutions before them."""
    fused: list[Layer] = []
    for layer in layers:
        consumers = {name: sum(name in other.inputs for other in layers) for name in layer.inputs}
        before = next((i for i, other in enumerate(fused) if other.output == layer.inputs[0]), None)
        alone = len(layer.inputs) == 1 and consumers[layer.inputs[0]] == 1 and layer.inputs[0] != output
        if before is None or not alone or fused[before].kind not in ("conv", "depthwise"):
            fused.append(layer)
            continue
        conv = fused[before]
        if conv.int8 is not None:
            if layer.kind == "unary":
                fused[before] = replace(conv, output=layer.output, steps=(*conv.steps, layer.activation))
            else:
                fused.append(layer)
        elif conv.activation.name == "SR_NONE" and layer.kind == "unary" and layer.activation.name in _FUSED:
            fused[before] = replace(conv, output=layer.output, activation=layer.activation)
        elif conv.activation.name == "SR_NONE" and layer.kind == "binary" and layer.function in ("SR_ADD", "SR_MUL"):
            assert conv.bias is not None and conv.weight is not None and layer.bias is not None
            if layer.function == "SR_ADD":
                changed = replace(conv, bias=conv.bias + layer.bias)
            else:
                weight = conv.weight * layer.bias.reshape(-1, 1, 1, 1)
                changed = replace(conv, weight=weight, bias=conv.bias * layer.bias)
            fused[before] = replace(changed, output=layer.output)
        else:
            fused.append(layer)
    return fused


#: Activations that the convolutions' loops compute themselves.
_FUSED = ("SR_RELU", "SR_CLIP", "SR_LEAKY", "SR_ABS", "SR_HSWISH", "SR_HSIGMOID")
