"""The edge half as one ONNX file: image in, latent out, at every size where the graph is right at every size."""

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
from splitreg.publishing.onnx_graph import onnx_library, simplified

#: Operator set: the first with every operator that the first-party encoders use.
OPSET = 17
#: A graph's latent may differ from torch's by this share of the largest value: a hundred times what rounding does.
TOLERANCE = 1e-4

_DYNAMIC = {0: "batch", 2: "height", 3: "width"}
_FIXED = {0: "batch"}


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeGraph:
    """An exported edge half.

    Args:
        data: the file's bytes; the same for the same weights.
        sizes: (height, width) at which it was compared with torch, the model's own first.
        fixed_because: why it takes the model's own size alone; empty where height and width are free.
    """

    data: bytes
    sizes: tuple[tuple[int, int], ...]
    fixed_because: str = ""

    def entry(self, int8: Mapping[str, Any] | None = None) -> GraphEntry:
        """Return what ``config.json`` says of it; ``int8``: what the 8-bit edge half costs."""
        return GraphEntry(
            dynamic=not self.fixed_because, compared_at=self.sizes, fixed_because=self.fixed_because, int8=int8
        )


class _Edge(nn.Module):
    def __init__(self, edge: EdgeModel) -> None:
        super().__init__()
        self.parts = nn.ModuleList(edge.modules)
        self.latent = edge.latent

    def forward(self, image: Tensor) -> Tensor:
        return self.latent(image)


def export_edge(edge: EdgeModel) -> EdgeGraph:
    """Export as ONNX: ``image`` (batch, 3, H, W) float32 normalised -> ``latent`` (batch, C, h, w) float32.

    Height and width are free where the graph equals torch at other sizes too, and else those of the model: a tracer
    may write down as a constant what depends on the size, so that is tried, on several sizes and batches.

    Raises:
        BundleError: the exporter knows no operator for a part of the edge half, or the graph gives another latent.
        MissingExtra: onnx or onnxruntime is not installed.
    """
    onnx_library()
    module, (height, width) = _Edge(edge).eval(), edge.coding.preprocess.size
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
    raise BundleError(f"the edge half cannot be written as ONNX: {problem}")


def run_graph(edge: EdgeModel, data: bytes, name: str) -> EdgeEncoder:
    """Return an edge half as a device has it, with an ONNX graph in the place of the networks.

    Raises:
        MissingExtra: onnxruntime is not installed.
        BundleError: it is not a graph that onnxruntime can run.
    """
    network = load_network("onnxruntime", data, name=name, size=edge.coding.preprocess.size)
    return EdgeEncoder(network, edge.coding)


def _trace(module: nn.Module, size: tuple[int, int], axes: Mapping[int, str]) -> bytes:
    latent = {axis: name if axis == 0 else f"latent_{name}" for axis, name in axes.items()}
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
            file = Path(folder) / "edge.onnx"
            warnings.simplefilter("ignore")  # the tracer's remarks on what may be a constant: that is tried
            torch.onnx.export(
                module, (torch.zeros(1, 3, *size),), str(file), input_names=["image"], output_names=["latent"],
                opset_version=OPSET, dynamic_axes={"image": dict(axes), "latent": latent}, dynamo=False,
            )  # fmt: skip
            return simplified(file.read_bytes())
    except Exception as cause:  # the exporter raises whatever the failing operator raises
        raise BundleError(_brief(cause)) from cause


def _compare(module: nn.Module, data: bytes, shapes: Sequence[tuple[int, tuple[int, int]]]) -> None:
    """Compare a graph with torch on (batch, (height, width)).

    Raises:
        BundleError: its latent is not torch's.
    """
    random, session = np.random.default_rng(0), onnx_session(data, "edge.onnx")
    for batch, (height, width) in shapes:
        images = random.standard_normal((batch, 3, height, width), np.float32)
        at = f"at {width}x{height} pixels, batch {batch}"
        try:
            with torch.inference_mode():
                want = module(torch.from_numpy(images)).numpy()
        except Exception as cause:  # a backbone may raise anything at a size that it was not made for
            raise BundleError(f"{at} the edge half itself does not run: {_brief(cause)}") from cause
        try:
            have = session.run(["latent"], {"image": images})[0]
        except Exception as cause:  # onnxruntime's own exception types are private
            raise BundleError(f"{at} the graph does not run: {_brief(cause)}") from cause
        if have.shape != want.shape:
            raise BundleError(f"{at} the graph's latent is {have.shape[1:]}, torch's {want.shape[1:]}")
        worst = float(np.abs(have - want).max(initial=0))
        if not worst <= TOLERANCE * float(np.abs(want).max(initial=1e-3)):
            raise BundleError(f"{at} the graph's latent is off by up to {worst:.3g}")


def _brief(cause: Exception) -> str:
    return f"{type(cause).__name__}: {(str(cause).strip().splitlines() or [''])[0]}"
