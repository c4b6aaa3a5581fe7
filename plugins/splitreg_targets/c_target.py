"""Target ``c``: one C99 file and its header."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from splitreg.edge import EdgeSource, ExportedTarget, ExportTarget, Runner
from splitreg.errors import BundleError, RecipeError
from splitreg_targets.c_compiler import build_library
from splitreg_targets.c_graph import read_graph
from splitreg_targets.c_library import CLibrary
from splitreg_targets.c_source import write_source


class CTarget(ExportTarget):
    """One C99 file and its header: 8-bit pixels in, packet out; no allocation and no dependency.

    Args:
        size: (height, width) of the network's input; the bundle's by default.
        precision: ``"fp32"``, or ``"int8"`` from ``edge.int8.onnx``.
        prefix: of public names in C, and name of the files.
        max_width: the widest image that can be encoded; memory grows by 8 bytes per pixel.
        context: False: leave the model's context network out. Packets are larger; code, memory and time are less.

    Raises:
        RecipeError: an option is out of range.
    """

    def __init__(
        self,
        *,
        size: tuple[int, int] | None = None,
        precision: str = "fp32",
        prefix: str = "splitreg_model",
        max_width: int = 1920,
        context: bool = True,
    ) -> None:
        if not prefix.isidentifier() or not prefix.isascii():
            raise RecipeError(f"target c: prefix must be a name in C, got {prefix!r}")
        if precision not in ("fp32", "int8"):
            raise RecipeError(f"target c: precision must be 'fp32' or 'int8', got {precision!r}")
        if not 1 <= max_width <= 65535:
            raise RecipeError(f"target c: max_width must be 1 to 65535, got {max_width}")
        if not isinstance(context, bool):
            raise RecipeError(f"target c: context must be true or false, got {context!r}")
        self.size = None if size is None else tuple(size)
        self.prefix, self.max_width, self.precision, self.context = prefix, max_width, precision, context

    def export(self, source: EdgeSource) -> ExportedTarget:
        """Write the C file and its header.

        Raises:
            BundleError: an operator, the codec or the tables have no equivalent in C; the message names it.
            MissingExtra: onnx is not installed.
        """
        source = source.at(self.size)  # type: ignore[arg-type]
        graph = source.graph if self.precision == "fp32" else source.int8
        if graph is None:
            raise BundleError(
                "the bundle has no edge.int8.onnx, from which integers are taken; publish it with --int8 --calibrate DIR"
            )
        network = read_graph(graph, source.coding.preprocess.size)
        coding = replace(source.coding, context=self.context)
        code = write_source(network, coding, self.prefix, self.max_width)
        files = {f"{self.prefix}.c": code.source.encode(), f"{self.prefix}.h": code.header.encode()}
        return ExportedTarget(files=files, report=code.report)

    def open(self, files: Mapping[str, bytes], source: EdgeSource) -> Runner:
        """Compile the file with ``cc``, or with ziglang's compiler, and load it.

        Raises:
            MissingExtra: there is no compiler.
        """
        # A library that is loaded may be deleted, except on Windows.
        with tempfile.TemporaryDirectory(prefix="splitreg-c-", ignore_cleanup_errors=True) as folder:
            return CLibrary(build_library(files, self.prefix, Path(folder)), self.prefix).encode
