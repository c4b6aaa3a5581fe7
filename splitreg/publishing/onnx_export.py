"""The edge half as one ONNX file: image in, latent out, at the recipe's input size."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from splitreg.assembly.edge import EdgeModel
from splitreg.errors import BundleError, MissingExtra

#: Operator set: the first with every operator that the first-party encoders use.
OPSET = 17


class _Edge(nn.Module):
    def __init__(self, edge: EdgeModel) -> None:
        super().__init__()
        self.parts = nn.ModuleList(edge.modules)
        self.latent = edge.latent

    def forward(self, image: Tensor) -> Tensor:
        return self.latent(image)


def export_edge(edge: EdgeModel, path: Path) -> None:
    """Write an ONNX file: ``image`` (batch, 3, H, W) float32 normalised -> ``latent`` (batch, C, h, w) float32.

    Raises:
        BundleError: the exporter knows no operator for a part of the edge half.
    """
    module = _Edge(edge).eval()
    image = torch.zeros(1, 3, *edge.preprocess.size)
    batch = {0: "batch"}
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the tracer's remarks on sizes that are constants here
            torch.onnx.export(
                module, (image,), str(path), input_names=["image"], output_names=["latent"], opset_version=OPSET,
                dynamic_axes={"image": batch, "latent": batch}, dynamo=False,
            )  # fmt: skip
    except Exception as cause:  # the exporter raises whatever the failing operator raises
        reason = str(cause).strip().split("\n")[0]
        raise BundleError(f"the edge half cannot be written as ONNX: {type(cause).__name__}: {reason}") from cause


def run_edge(data: bytes, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run an ``edge.onnx`` on one (3, H, W) input: (C, h, w).

    Raises:
        MissingExtra: onnxruntime is not installed.
        BundleError: it is not a file that onnxruntime can run.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as cause:
        raise MissingExtra("running edge.onnx needs onnxruntime; pip install 'splitreg[edge]'") from cause
    try:
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        return np.asarray(session.run(["latent"], {"image": pixels[None]})[0][0], np.float32)
    except Exception as cause:  # onnxruntime's own exception types are private
        raise BundleError(f"onnxruntime cannot run edge.onnx: {str(cause).strip().splitlines()[0]}") from cause
