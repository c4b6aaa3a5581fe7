"""Target ``wasm``: the C target as WebAssembly with SIMD, and an ES module for browsers and Node."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from splitreg.coding import temporal_sources
from splitreg.edge import EdgeSource, ExportedTarget, ExportTarget, Runner
from splitreg.errors import BundleError, MissingExtra
from splitreg_targets.c_compiler import compile_c, write_files, zig_compiler
from splitreg_targets.c_source import runtime_file
from splitreg_targets.c_target import CTarget

MODULE, MODEL = "splitreg-edge.js", "splitreg-model.wasm"
_FLAGS = (
    "-mcpu=baseline+simd128+bulk_memory+bulk_memory_opt", "-nostdlib", "-Wl,--no-entry", "-Wl,--strip-all",
    "-Wl,-z,stack-size=65536", "-I.",
)  # fmt: skip
_SCRIPT = """
import { readFileSync, writeSync } from "node:fs";
const { EdgeEncoder } = await import("./splitreg-edge.mjs");
const encoder = await EdgeEncoder.load(readFileSync("splitreg-model.wasm"));
const [width, height] = process.argv.slice(2).map(Number);
writeSync(1, encoder.encode({ width, height, data: readFileSync(0) }));
"""


class WasmTarget(ExportTarget):
    """WebAssembly with SIMD and an ES module: ``encode(imageData)`` returns a packet, in a browser or in Node.

    Args:
        size: (height, width) of the network's input; the bundle's by default.
        max_width: the widest image that can be encoded.
        context: False: leave the model's context network out, see target ``c``.

    Raises:
        RecipeError: an option is out of range.
    """

    def __init__(self, *, size: tuple[int, int] | None = None, max_width: int = 4096, context: bool = True) -> None:
        self._c = CTarget(size=size, max_width=max_width, context=context)

    def export(self, source: EdgeSource) -> ExportedTarget:
        """Compile the C target, and add the module with its types.

        Raises:
            BundleError: the edge half has no equivalent in C; the message names the operator.
            MissingExtra: onnx or ziglang is not installed.
        """
        code = self._c.export(source)
        with tempfile.TemporaryDirectory(prefix="splitreg-wasm-") as name:
            folder = Path(name)
            parts = {name: runtime_file(name).encode() for name in ("wasm.c", "stream.c", "string.h")}
            write_files({**code.files, **temporal_sources(), **parts}, folder)
            compile_c(zig_compiler("wasm32-freestanding"), [*_FLAGS, "wasm.c", "-o", MODEL], folder)
            model = (folder / MODEL).read_bytes()
        browser = resources.files("splitreg.edge").joinpath("browser")
        files = {name: browser.joinpath(name).read_bytes() for name in (MODULE, "splitreg-edge.d.ts")}
        package = {
            "name": "splitreg-edge", "version": "0.1.0", "type": "module", "main": MODULE, "types": "splitreg-edge.d.ts",
            "files": [MODULE, "splitreg-edge.d.ts", MODEL],
        }  # fmt: skip
        files |= {MODEL: model, "package.json": (json.dumps(package, indent=1) + "\n").encode()}
        report = {**code.report, "wasm_bytes": len(model), "module_bytes": len(files[MODULE])}
        return ExportedTarget(files=files, report=report)

    def open(self, files: Mapping[str, bytes], source: EdgeSource) -> Runner:
        """Run the module in Node; a process per image.

        Raises:
            MissingExtra: Node is not installed.
        """
        node = shutil.which("node")
        if node is None:
            raise MissingExtra("the wasm target is run by Node, which is not installed; install nodejs 18 or later")

        def encode(image: NDArray[np.uint8]) -> bytes:
            with tempfile.TemporaryDirectory(prefix="splitreg-wasm-") as name:
                folder = Path(name)
                module = {"splitreg-edge.mjs": files[MODULE], MODEL: files[MODEL], "run.mjs": _SCRIPT.encode()}
                write_files(module, folder)
                opaque = np.full((*image.shape[:2], 1), 255, np.uint8)
                pixels = np.concatenate([image, opaque], 2).tobytes()
                command = [node, "run.mjs", str(image.shape[1]), str(image.shape[0])]
                done = subprocess.run(command, cwd=folder, input=pixels, capture_output=True, check=False)
            if done.returncode:
                raise BundleError(f"Node cannot run the module: {done.stderr.decode(errors='replace').strip()[-300:]}")
            return bytes(done.stdout)

        return encode
