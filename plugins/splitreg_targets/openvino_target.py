"""Target ``openvino``: OpenVINO's own format, at one input size."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from splitreg.edge import EdgeSource, ExportedTarget, ExportTarget, Runner, openvino_core
from splitreg.errors import BundleError
from splitreg_targets.torch_export import first_line, runner

XML, WEIGHTS = "edge.xml", "edge.bin"


class OpenvinoTarget(ExportTarget):
    """OpenVINO IR in float32: ``edge.xml`` and ``edge.bin``, for programs that use OpenVINO without ONNX.

    Args:
        size: (height, width) of the network's input; the bundle's by default.
    """

    def __init__(self, *, size: tuple[int, int] | None = None) -> None:
        self.size = size

    def export(self, source: EdgeSource) -> ExportedTarget:
        """Convert the graph with OpenVINO's converter.

        Raises:
            BundleError: OpenVINO cannot convert the graph; the message names the operator.
            MissingExtra: openvino is not installed.
        """
        core = openvino_core()
        import openvino

        height, width = source.at(self.size).coding.preprocess.size
        try:
            graph = core.read_model(source.graph)
            graph.reshape({"image": [1, 3, height, width]})
            for index, node in enumerate(graph.get_ordered_ops()):  # its own names count up with every graph
                if node.get_type_name() != "Parameter":
                    node.set_friendly_name(f"{node.get_type_name()}_{index}")
            with tempfile.TemporaryDirectory(prefix="splitreg-openvino-") as folder:
                openvino.save_model(graph, str(Path(folder) / XML), compress_to_fp16=False)
                files = {name: (Path(folder) / name).read_bytes() for name in (XML, WEIGHTS)}
        except RuntimeError as cause:
            raise BundleError(f"openvino cannot convert the edge half: {first_line(cause)}") from cause
        report = {"bytes": sum(map(len, files.values())), "openvino": str(openvino.__version__).partition("-")[0]}
        return ExportedTarget(files=files, report=report)

    def open(self, files: Mapping[str, bytes], source: EdgeSource) -> Runner:
        """Run the converted graph in float32 on the CPU; splitreg codes its latent.

        Raises:
            BundleError: OpenVINO cannot read the files.
            MissingExtra: openvino is not installed.
        """
        core = openvino_core()
        coding = source.at(self.size).coding
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
        try:
            with tempfile.TemporaryDirectory(prefix="splitreg-openvino-") as folder:
                for name in (XML, WEIGHTS):
                    (Path(folder) / name).write_bytes(files[name])
                compiled = core.compile_model(core.read_model(str(Path(folder) / XML)), "CPU", settings)
            request = compiled.create_infer_request()
        except RuntimeError as cause:
            raise BundleError(f"openvino cannot run the edge half: {first_line(cause)}") from cause

        def latents(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
            latent: NDArray[np.float32] = request.infer({"image": pixels})["latent"]
            return latent

        return runner(latents, coding)
