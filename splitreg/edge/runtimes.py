"""What runs ``edge.onnx``: onnxruntime or OpenVINO, on one image at one size, so that they can plan ahead."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitreg.errors import BundleError, MissingExtra, RecipeError, suggest

_AXES = ("batch", "height", "width")
_Ends = Mapping[str, tuple[bool, list[int]]]  # name -> whether it is float32, its axes (0: not known)


class Network(abc.ABC):
    """A graph that is ready to run at one size.

    Attributes:
        channels: C of the latent; 0 where the graph does not say.
    """

    channels: int

    @abc.abstractmethod
    def run(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Normalised image (3, H, W) to latent (C, h, w), in memory that the next call may overwrite.

        Raises:
            BundleError: the graph does not run.
        """


def load_network(runtime: str, data: bytes, *, name: str, size: tuple[int, int], threads: int = 1) -> Network:
    """Load a graph ``image`` (batch, 3, H, W) float32 -> ``latent`` (batch, C, h, w) float32.

    Args:
        runtime: one of ``RUNTIMES``.
        data: the file's bytes.
        name: of the file, for messages.
        size: (H, W).
        threads: CPU threads that one image may use.

    Raises:
        RecipeError: there is no such runtime.
        MissingExtra: the runtime is not installed.
        BundleError: not a graph, or one with another interface or for another size.
    """
    if runtime not in _NETWORKS:
        raise RecipeError(f"no runtime named {runtime!r}.{suggest(runtime, RUNTIMES)} There are: {', '.join(RUNTIMES)}")
    if threads < 1:
        raise RecipeError(f"threads must be at least 1, got {threads}")
    return _NETWORKS[runtime](data, name, size, threads)


def onnx_session(data: bytes, name: str, *, threads: int = 0, axes: Mapping[str, int] | None = None) -> Any:
    """Open a graph with onnxruntime on the CPU.

    Args:
        data: the file's bytes.
        name: of the file, for messages.
        threads: CPU threads; 0: onnxruntime's choice.
        axes: free axis -> its length, where it shall be planned for that alone.

    Raises:
        MissingExtra: onnxruntime is not installed.
        BundleError: it cannot run the graph.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as cause:
        raise MissingExtra("onnxruntime is not installed; pip install 'splitreg[edge]'") from cause
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # The plan of a pattern is made in the first run and doubles the memory in the second, for no gain at one size.
    options.enable_mem_pattern = False
    options.log_severity_level = 3  # a graph that does not run is our error, not a remark on stderr
    for axis, length in (axes or {}).items():
        options.add_free_dimension_override_by_name(axis, length)
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as cause:  # onnxruntime's own exception types are private
        raise _refused("onnxruntime", name, cause) from cause


class _OnnxRuntime(Network):
    def __init__(self, data: bytes, name: str, size: tuple[int, int], threads: int) -> None:
        self.name = name
        self._session = onnx_session(data, name, threads=threads, axes=dict(zip(_AXES, (1, *size), strict=True)))
        ends = [
            {
                end.name: (end.type == "tensor(float)", [i if isinstance(i, int) else 0 for i in end.shape])
                for end in side
            }
            for side in (self._session.get_inputs(), self._session.get_outputs())
        ]
        self.channels = _check_interface(name, ends[0], ends[1], size)

    def run(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            latent: NDArray[np.float32] = self._session.run(["latent"], {"image": image[None]})[0][0]
        except Exception as cause:
            raise _refused("onnxruntime", self.name, cause) from cause
        return latent


class _OpenVino(Network):
    def __init__(self, data: bytes, name: str, size: tuple[int, int], threads: int) -> None:
        try:
            import openvino
        except ModuleNotFoundError as cause:
            raise MissingExtra("openvino is not installed; pip install 'splitreg[openvino]'") from cause
        self.name = name
        # Of itself it computes in bfloat16 on some processors, which changes many symbols.
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
        try:
            core = openvino.Core()
            graph = core.read_model(data)
            ends = [
                {end.any_name: (end.element_type == openvino.Type.f32, _axes(end.partial_shape)) for end in side}
                for side in (graph.inputs, graph.outputs)
            ]
            self.channels = _check_interface(name, ends[0], ends[1], size)
            graph.reshape({"image": [1, 3, *size]})
            self._request: Any = core.compile_model(graph, "CPU", settings).create_infer_request()
        except RuntimeError as cause:
            raise _refused("openvino", name, cause) from cause

    def run(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            found = self._request.infer({"image": image[None]}, share_inputs=True, share_outputs=True)
        except RuntimeError as cause:
            raise _refused("openvino", self.name, cause) from cause
        latent: NDArray[np.float32] = found["latent"][0]
        return latent


_NETWORKS = {"onnxruntime": _OnnxRuntime, "openvino": _OpenVino}
#: What can run a graph.
RUNTIMES = tuple(_NETWORKS)


def _check_interface(name: str, given: _Ends, returned: _Ends, size: tuple[int, int]) -> int:
    """Return the latent's channels if a graph has the interface of a device's half."""
    for what, ends, wanted in (("input image", given, (1, 3, *size)), ("output latent", returned, (1, 0, 0, 0))):
        end, shape = what.split()[1], "(batch, 3, height, width)" if ends is given else "(batch, C, h, w)"
        if list(ends) != [end] or not ends[end][0] or len(ends[end][1]) != 4:
            raise BundleError(f"{name} must have one {what} {shape} of float32, it has {', '.join(ends) or 'none'}")
        if any(have and want and have != want for have, want in zip(ends[end][1], wanted, strict=True)):
            raise BundleError(f"{name} has the {what} of shape {ends[end][1]}, wanted {list(wanted)} (0: any)")
    return returned["latent"][1][1]


def _axes(shape: Any) -> list[int]:
    return [axis.get_length() if axis.is_static else 0 for axis in shape] if shape.rank.is_static else []


def _refused(runtime: str, name: str, cause: Exception) -> BundleError:
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return BundleError(f"{runtime} cannot run {name}: {lines[0] if lines else type(cause).__name__}")
