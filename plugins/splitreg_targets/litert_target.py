"""Target ``litert``: LiteRT, which was TensorFlow Lite."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitreg.edge import EdgeSource, ExportedTarget, ExportTarget, Runner
from splitreg.errors import BundleError, MissingExtra
from splitreg_targets.torch_export import convert, first_line, runner

FILE = "edge.tflite"


class LitertTarget(ExportTarget):
    """A LiteRT (TensorFlow Lite) model in float32: ``edge.tflite``, normalised image to latent, channels first.

    Args:
        size: (height, width) of the network's input; the bundle's by default.
    """

    def __init__(self, *, size: tuple[int, int] | None = None) -> None:
        self.size = size

    def export(self, source: EdgeSource) -> ExportedTarget:
        """Convert the torch module.

        Raises:
            BundleError: LiteRT cannot convert it; the message names the operator.
            MissingExtra: litert-torch is not installed.
        """
        try:
            import litert_torch
        except ImportError as cause:
            raise _missing("litert-torch") from cause

        def run(module: Any, example: Any) -> bytes:
            with tempfile.TemporaryDirectory(prefix="splitreg-litert-") as folder:
                with contextlib.redirect_stdout(io.StringIO()):  # its progress
                    litert_torch.convert(module, (example,)).export(str(Path(folder) / FILE))
                return (Path(folder) / FILE).read_bytes()

        data: bytes = convert("litert", source.at(self.size), run)
        return ExportedTarget(files={FILE: data}, report={"bytes": len(data)})

    def open(self, files: Mapping[str, bytes], source: EdgeSource) -> Runner:
        """Run the model by LiteRT's interpreter on one thread; splitreg codes its latent.

        Raises:
            BundleError: the interpreter cannot read the model.
            MissingExtra: ai-edge-litert is not installed.
        """
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as cause:
            raise _missing("ai-edge-litert") from cause
        try:
            interpreter = Interpreter(model_content=files[FILE], num_threads=1)
            interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as cause:
            raise BundleError(f"litert cannot run the edge half: {first_line(cause)}") from cause
        (image,), (latent,) = interpreter.get_input_details(), interpreter.get_output_details()

        def latents(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
            interpreter.set_tensor(image["index"], pixels)
            interpreter.invoke()
            result: NDArray[np.float32] = interpreter.get_tensor(latent["index"])
            return result

        return runner(latents, source.at(self.size).coding)


def _missing(package: str) -> MissingExtra:
    return MissingExtra(f"the target litert needs {package}; install it with: pip install 'splitreg[litert]'")
