"""Target ``executorch``: PyTorch's own runtime for phones and small devices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitreg.edge import EdgeSource, ExportedTarget, ExportTarget, Runner
from splitreg.errors import BundleError, MissingExtra, RecipeError
from splitreg_targets.torch_export import convert, first_line, runner

FILE = "edge.pte"
BACKENDS = ("xnnpack", "portable")


class ExecutorchTarget(ExportTarget):
    """An ExecuTorch program in float32: ``edge.pte``, normalised image to latent.

    Args:
        size: (height, width) of the network's input; the bundle's by default.
        backend: ``"xnnpack"``, for CPUs of phones, or ``"portable"``: plain operators in C++.

    Raises:
        RecipeError: no such backend.
    """

    def __init__(self, *, size: tuple[int, int] | None = None, backend: str = "xnnpack") -> None:
        if backend not in BACKENDS:
            raise RecipeError(f"target executorch: backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
        self.size, self.backend = size, backend

    def export(self, source: EdgeSource) -> ExportedTarget:
        """Convert the torch module.

        Raises:
            BundleError: ExecuTorch cannot convert it; the message names the operator.
            MissingExtra: executorch is not installed.
        """
        exir = _library("exir")

        def run(module: Any, example: Any) -> bytes:
            import torch

            partitioners = []
            if self.backend == "xnnpack":
                from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

                partitioners = [XnnpackPartitioner()]
            program = torch.export.export(module, (example,), strict=False)
            lowered = exir.to_edge_transform_and_lower(program, partitioner=partitioners)
            return bytes(lowered.to_executorch().buffer)

        data: bytes = convert("executorch", source.at(self.size), run)
        return ExportedTarget(files={FILE: data}, report={"bytes": len(data), "backend": self.backend})

    def open(self, files: Mapping[str, bytes], source: EdgeSource) -> Runner:
        """Run the program by ExecuTorch's runtime on the CPU; splitreg codes its latent.

        Raises:
            BundleError: the runtime cannot read the program.
            MissingExtra: executorch is not installed.
        """
        runtime = _library("runtime").Runtime.get()
        import torch

        try:
            program = runtime.load_program(files[FILE])
            forward = program.load_method("forward")
        except RuntimeError as cause:
            raise BundleError(f"executorch cannot run the edge half: {first_line(cause)}") from cause

        def latents(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
            latent: NDArray[np.float32] = forward.execute([torch.from_numpy(pixels)])[0].numpy()
            return latent

        return runner(latents, source.at(self.size).coding)


def _library(part: str) -> Any:
    try:
        if part == "exir":
            import executorch.exir as library
        else:
            import executorch.runtime as library
    except ImportError as cause:
        raise MissingExtra(
            "the target executorch needs ExecuTorch; install it with: pip install 'splitreg[executorch]'"
        ) from cause
    return library
