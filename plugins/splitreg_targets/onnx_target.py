"""Target ``onnx``: the graph, for runtimes that read ONNX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from splitreg.edge import EdgeEncoder, EdgeSource, ExportedTarget, ExportTarget, Runner, load_network

_NAME = EdgeEncoder.FILES["fp32"]


class OnnxTarget(ExportTarget):
    """``edge.onnx``, from which ``EdgeEncoder`` encodes; every bundle has it if its edge half can be exported."""

    at_root: ClassVar[bool] = True

    def export(self, source: EdgeSource) -> ExportedTarget:
        """Return the graph as it is."""
        return ExportedTarget(files={_NAME: source.graph}, report={"bytes": len(source.graph)})

    def open(self, files: Mapping[str, bytes], source: EdgeSource) -> Runner:
        """Run the graph in onnxruntime.

        Raises:
            MissingExtra: onnxruntime is not installed.
        """
        network = load_network("onnxruntime", files[_NAME], name=_NAME, size=source.coding.preprocess.size)
        encoder = EdgeEncoder(network, source.coding)
        return lambda image: encoder.encode(image)[0]
