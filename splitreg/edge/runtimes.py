"""Runtimes for ``edge.onnx``: onnxruntime and OpenVINO, one image at one fixed size."""

from __future__ import annotations

import abc
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitreg.errors import BundleError, MissingExtra, RecipeError, suggest

_AXES = ("batch", "height", "width")
_Ports = Mapping[str, tuple[bool, list[int]]]  # name -> is float32, lengths of the axes (0: free)


class Network(abc.ABC):
    """A loaded graph that runs at one size.

    Attributes:
        channels: C of the latent; 0 if the graph does not state it.
    """

    channels: int

    @abc.abstractmethod
    def run(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """(3, H, W) normalised -> (C, h, w) latent; the next call may overwrite it.

        Raises:
            BundleError: the runtime cannot run the graph.
        """


#: Operators that repeat a part of a graph as often as a value says; and the protobuf tag of an
#: operator's name (field 4 of ``NodeProto``), which its length follows.
_LOOPS, _OP_TYPE = ("Loop", "Scan"), 0x22


def load_network(runtime: str, data: bytes, *, name: str, size: tuple[int, int], threads: int = 1) -> Network:
    """Load a graph ``image`` (batch, 3, H, W) float32 -> ``latent`` (batch, C, h, w) float32.

    Args:
        runtime: one of ``RUNTIMES``.
        data: bytes of the file.
        name: name of the file, for messages.
        size: (H, W).
        threads: CPU threads per image.

    Raises:
        RecipeError: no such runtime, or ``threads`` is below 1.
        MissingExtra: the runtime is not installed.
        BundleError: not an ONNX graph, or its interface or size is another one.
    """
    if runtime not in _NETWORKS:
        raise RecipeError(f"no runtime {runtime!r}.{suggest(runtime, RUNTIMES)} Available: {', '.join(RUNTIMES)}")
    if threads < 1:
        raise RecipeError(f"threads must be at least 1, got {threads}")
    for operator in _LOOPS:
        if bytes((_OP_TYPE, len(operator))) + operator.encode() in data:
            raise BundleError(
                f"{name} has the operator {operator}, which may never end; export a network without loops"
            )
    return _NETWORKS[runtime](data, name, size, threads)


def onnx_session(data: bytes, name: str, *, threads: int = 0, axes: Mapping[str, int] | None = None) -> Any:
    """Open a graph with onnxruntime on the CPU.

    Args:
        data: bytes of the file.
        name: name of the file, for messages.
        threads: CPU threads; 0: onnxruntime's choice.
        axes: free axis -> its fixed length in this session.

    Raises:
        MissingExtra: onnxruntime is not installed.
        BundleError: onnxruntime cannot run the graph.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as cause:
        raise MissingExtra("onnxruntime is not installed; pip install 'splitreg[edge]'") from cause
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # A memory pattern is planned in the first run and doubles the memory, for no gain at one size.
    options.enable_mem_pattern = False
    options.log_severity_level = 3  # a graph that does not run is reported as an error, not on stderr
    for axis, length in (axes or {}).items():
        options.add_free_dimension_override_by_name(axis, length)
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as cause:  # onnxruntime's exception types are private
        raise _runtime_error("onnxruntime", name, cause) from cause


class _OnnxRuntime(Network):
    def __init__(self, data: bytes, name: str, size: tuple[int, int], threads: int) -> None:
        self.name = name
        self._session = onnx_session(data, name, threads=threads, axes=dict(zip(_AXES, (1, *size), strict=True)))
        inputs, outputs = (
            {
                port.name: (port.type == "tensor(float)", [i if isinstance(i, int) else 0 for i in port.shape])
                for port in ports
            }
            for ports in (self._session.get_inputs(), self._session.get_outputs())
        )
        self.channels = _check_interface(name, inputs, outputs, size)

    def run(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            latent: NDArray[np.float32] = self._session.run(["latent"], {"image": image[None]})[0][0]
        except Exception as cause:
            raise _runtime_error("onnxruntime", self.name, cause) from cause
        return latent


def openvino_core() -> Any:
    """Return the ``openvino.Core`` of this process.

    The CPU plugin of each core gives its thread another alternate signal stack, and takes it back when the
    core is freed. When cores are freed in another order than the reverse, the thread keeps a freed stack, and
    the next signal is a segmentation fault. One core is never freed.

    Raises:
        MissingExtra: openvino is not installed.
    """
    try:
        import openvino
    except ModuleNotFoundError as cause:
        raise MissingExtra("openvino is not installed; pip install 'splitreg[openvino]'") from cause
    return _core(openvino)


@functools.cache
def _core(openvino: Any) -> Any:
    return openvino.Core()


class _OpenVino(Network):
    def __init__(self, data: bytes, name: str, size: tuple[int, int], threads: int) -> None:
        core = openvino_core()
        import openvino

        self.name = name
        # By default it computes in bfloat16 on some processors, which changes many symbols.
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
        try:
            graph = core.read_model(data)
            inputs, outputs = (
                {port.any_name: (port.element_type == openvino.Type.f32, _axes(port.partial_shape)) for port in ports}
                for ports in (graph.inputs, graph.outputs)
            )
            self.channels = _check_interface(name, inputs, outputs, size)
            graph.reshape({"image": [1, 3, *size]})
            self._request: Any = core.compile_model(graph, "CPU", settings).create_infer_request()
        except RuntimeError as cause:
            raise _runtime_error("openvino", name, cause) from cause

    def run(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            outputs = self._request.infer({"image": image[None]}, share_inputs=True, share_outputs=True)
        except RuntimeError as cause:
            raise _runtime_error("openvino", self.name, cause) from cause
        latent: NDArray[np.float32] = outputs["latent"][0]
        return latent


_NETWORKS = {"onnxruntime": _OnnxRuntime, "openvino": _OpenVino}
#: Names of the runtimes.
RUNTIMES = tuple(_NETWORKS)


def _check_interface(name: str, inputs: _Ports, outputs: _Ports, size: tuple[int, int]) -> int:
    """Check that a graph has the interface of an edge half; return the channels of its latent."""
    for port, ports, kind, shape, expected in (
        ("image", inputs, "input", "(batch, 3, height, width)", (1, 3, *size)),
        ("latent", outputs, "output", "(batch, C, h, w)", (1, 0, 0, 0)),
    ):
        if list(ports) != [port] or not ports[port][0] or len(ports[port][1]) != 4:
            names = ", ".join(ports) or "none"
            raise BundleError(f"{name} must have one {kind}, {port} {shape} of float32; its {kind}s: {names}")
        axes = ports[port][1]
        if any(axis and length and axis != length for axis, length in zip(axes, expected, strict=True)):
            raise BundleError(f"{name} has {kind} {port} of shape {axes}, expected {list(expected)} (0: any)")
    return outputs["latent"][1][1]


def _axes(shape: Any) -> list[int]:
    return [axis.get_length() if axis.is_static else 0 for axis in shape] if shape.rank.is_static else []


def _runtime_error(runtime: str, name: str, cause: Exception) -> BundleError:
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return BundleError(f"{runtime} cannot run {name}: {lines[0] if lines else type(cause).__name__}")
