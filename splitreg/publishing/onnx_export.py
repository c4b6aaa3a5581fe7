"""The edge half as ONNX: image to latent, at any input size if the graph supports it."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from splitreg.assembly.edge import EdgeModel
from splitreg.bundle import GraphEntry
from splitreg.edge import EdgeEncoder, load_network, onnx_session
from splitreg.errors import BundleError
from splitreg.publishing.onnx_graph import onnx_library, simplify

#: Operator set: the oldest with every operator of the first-party encoders.
OPSET = 17
#: Largest difference between a graph's latent and torch's, as a share of the largest value: a hundred
#: times that of rounding.
TOLERANCE = 1e-4

_DYNAMIC = {0: "batch", 2: "height", 3: "width"}
_FIXED = {0: "batch"}


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeGraph:
    """An exported edge half.

    Args:
        data: bytes of the file; equal weights give equal bytes.
        sizes: (height, width) at which it was compared with torch, the model's size first.
        fixed_because: why it accepts the model's size only; empty if it accepts any.
    """

    data: bytes
    sizes: tuple[tuple[int, int], ...]
    fixed_because: str = ""

    def entry(self, int8: Mapping[str, Any] | None = None) -> GraphEntry:
        """Return its entry in ``config.json``; ``int8``: measurements of the 8-bit edge half."""
        return GraphEntry(
            dynamic=not self.fixed_because, compared_at=self.sizes, fixed_because=self.fixed_because, int8=int8
        )


class EdgeModule(nn.Module):
    """An edge half as a torch module: (batch, 3, H, W) normalised to (batch, C, h, w)."""

    def __init__(self, edge: EdgeModel) -> None:
        super().__init__()
        self.parts = nn.ModuleList(edge.modules)
        self.latent = edge.latent

    def forward(self, image: Tensor) -> Tensor:
        """Return the latent of images."""
        return self.latent(image)


def export_edge(edge: EdgeModel) -> EdgeGraph:
    """Export ``image`` (batch, 3, H, W) float32 normalised -> ``latent`` (batch, C, h, w) float32.

    The tracer may store sizes as constants, so the graph is compared with torch at several sizes and
    batches. Height and width are free if all agree, and otherwise those of the model.

    Raises:
        BundleError: a part of the edge half has no ONNX operator, or the latents differ.
        MissingExtra: onnx or onnxruntime is not installed.
    """
    onnx_library()
    module, (height, width) = EdgeModule(edge).eval(), edge.coding.preprocess.size
    own, odd, even = (height, width), ((height // 2 + 16) | 1, (width + 21) | 1), (height + 32, width // 2 + 32)
    because = ""
    for axes, shapes in ((_DYNAMIC, ((1, own), (3, own), (1, odd), (3, even))), (_FIXED, ((1, own), (3, own)))):
        try:
            data = _trace(module, own, axes)
            _compare(module, data, shapes)
            return EdgeGraph(data=data, sizes=tuple(dict.fromkeys(s for _, s in shapes)), fixed_because=because)
        except BundleError as error:
            problem = str(error)
            because = because or problem
    raise BundleError(f"cannot export the edge half as ONNX: {problem}")


def run_graph(edge: EdgeModel, data: bytes, name: str) -> EdgeEncoder:
    """Return an edge half that runs an ONNX graph instead of the torch modules.

    Args:
        edge: the edge half in torch.
        data: bytes of the graph.
        name: name of the graph, for messages.

    Raises:
        MissingExtra: onnxruntime is not installed.
        BundleError: onnxruntime cannot run the graph.
    """
    network = load_network("onnxruntime", data, name=name, size=edge.coding.preprocess.size)
    return EdgeEncoder(network, edge.coding)


def _trace(module: nn.Module, size: tuple[int, int], axes: Mapping[int, str]) -> bytes:
    latent = {axis: name if axis == 0 else f"latent_{name}" for axis, name in axes.items()}
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
            file = Path(folder) / "edge.onnx"
            warnings.simplefilter(
                "ignore"
            )  # the tracer's warnings about constants: the graph is compared at several sizes
            torch.onnx.export(
                module, (torch.zeros(1, 3, *size),), str(file), input_names=["image"], output_names=["latent"],
                opset_version=OPSET, dynamic_axes={"image": dict(axes), "latent": latent}, dynamo=False,
            )  # fmt: skip
            return simplify(file.read_bytes())
    except Exception as cause:  # the exporter may raise anything
        raise BundleError(_brief(cause)) from cause


def _compare(module: nn.Module, data: bytes, shapes: Sequence[tuple[int, tuple[int, int]]]) -> None:
    """Compare a graph with torch at (batch, (height, width)).

    Raises:
        BundleError: the latents differ.
    """
    random, session = np.random.default_rng(0), onnx_session(data, "edge.onnx")
    for batch, (height, width) in shapes:
        images = random.standard_normal((batch, 3, height, width), np.float32)
        at = f"at {width}x{height} pixels, batch {batch}"
        try:
            with torch.inference_mode():
                expected = module(torch.from_numpy(images)).numpy()
        except Exception as cause:  # a backbone may raise anything at an unsupported size
            raise BundleError(f"{at} the edge half does not run in torch: {_brief(cause)}") from cause
        try:
            actual = session.run(["latent"], {"image": images})[0]
        except Exception as cause:  # onnxruntime's exception types are private
            raise BundleError(f"{at} the graph does not run: {_brief(cause)}") from cause
        if actual.shape != expected.shape:
            raise BundleError(f"{at} the graph's latent has shape {actual.shape[1:]}, torch's {expected.shape[1:]}")
        error = float(np.abs(actual - expected).max(initial=0))
        if not error <= TOLERANCE * float(np.abs(expected).max(initial=1e-3)):
            raise BundleError(f"{at} the graph's latent differs by up to {error:.3g}")


def _brief(cause: Exception) -> str:
    return f"{type(cause).__name__}: {(str(cause).strip().splitlines() or [''])[0]}"
