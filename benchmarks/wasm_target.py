"""Target wasm against target c on one thread: image to packet in headless Chromium (or Node), interleaved with native runs.

python benchmarks/wasm_target.py --bundle zoo:camvid-small
python benchmarks/wasm_target.py --bundle zoo:camvid-small --node
"""

import argparse
import contextlib
import functools
import http.server
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from splitreg.bundle import Bundle
from splitreg.edge import EdgeSource
from splitreg.imaging import Geometry, letterbox, read

ROUNDS, REPEATS = 7, 30
_LOOP = """
const encoder = await EdgeEncoder.load(MODEL);
const image = { width: WIDTH, height: HEIGHT, data: PIXELS };
for (let i = 0; i < 20; i++) encoder.encode(image);
const times = [];
for (let i = 0; i < REPEATS; i++) {
  const start = performance.now();
  for (let k = 0; k < 4; k++) encoder.encode(image);
  times.push((performance.now() - start) / 4);
}
times.sort((a, b) => a - b);
const found = [times[0], times[REPEATS >> 1]];
"""


def script(size, model, pixels):
    text = _LOOP.replace("MODEL", model).replace("PIXELS", pixels).replace("REPEATS", str(REPEATS))
    return text.replace("WIDTH", str(size[1])).replace("HEIGHT", str(size[0]))


@contextlib.contextmanager
def node_runner(folder, size):
    code = 'import { readFileSync } from "node:fs"; const { EdgeEncoder } = await import("./splitreg-edge.mjs");'
    code += script(size, 'readFileSync("splitreg-model.wasm")', 'readFileSync("pixels")')
    (folder / "splitreg-edge.mjs").write_bytes((folder / "splitreg-edge.js").read_bytes())
    (folder / "run.mjs").write_text(code + "console.log(JSON.stringify(found));")

    def run():
        done = subprocess.run(["node", "run.mjs"], cwd=folder, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    yield run


@contextlib.contextmanager
def chromium_runner(folder, size):
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from support.chromium import Browser

    (folder / "index.html").write_text("<!doctype html><title>benchmark</title>")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    handler.func.log_message = lambda *_: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    pixels = 'new Uint8Array(await (await fetch("/pixels")).arrayBuffer())'
    code = 'const { EdgeEncoder } = await import("/splitreg-edge.js");' + script(size, "undefined", pixels)
    with tempfile.TemporaryDirectory() as profile, Browser(profile, seconds=300) as browser:
        browser.open(f"http://127.0.0.1:{server.server_address[1]}/")
        yield lambda: browser.run(f"(async () => {{{code} return found;}})()")
    server.shutdown()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="zoo:camvid-small")
    parser.add_argument("--node", action="store_true", help="run in Node instead of Chromium")
    arguments = parser.parse_args()
    from splitreg_targets.c_compiler import build_library
    from splitreg_targets.c_library import CLibrary
    from splitreg_targets.c_target import CTarget
    from splitreg_targets.wasm_target import WasmTarget

    source = EdgeSource.read(arguments.bundle)
    size = source.coding.preprocess.size
    sheet = read(Bundle.open(arguments.bundle).folder / "examples.jpg")[:360, :480]
    image = letterbox(sheet, Geometry(original=sheet.shape[:2], coded=size, mode="resize"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        exported = WasmTarget().export(source)
        for file, data in exported.files.items():
            (folder / file).write_bytes(data)
        (folder / "pixels").write_bytes(np.concatenate([image, np.full((*size, 1), 255, np.uint8)], 2).tobytes())
        native = folder / "native"
        native.mkdir()
        library = CLibrary(build_library(CTarget().export(source).files, "splitreg_model", native), "splitreg_model")

        def run_native():
            times = []
            for _ in range(REPEATS):
                start = time.perf_counter()
                for _ in range(4):
                    library.encode(image)
                times.append(250 * (time.perf_counter() - start))
            return min(times), float(np.median(times))

        runner = node_runner if arguments.node else chromium_runner
        with runner(folder, size) as run:
            pairs = [(run(), run_native()) for _ in range(ROUNDS)]
    browser, native_times = (np.array(column) for column in zip(*pairs, strict=True))
    fastest = browser[:, 0].min(), native_times[:, 0].min()
    medians = np.median(browser[:, 1]), np.median(native_times[:, 1])
    result = {
        "bundle": arguments.bundle, "size": list(size), "where": "node" if arguments.node else "chromium",
        **{
            name: {"browser_ms": round(float(a), 3), "native_ms": round(float(b), 3), "ratio": round(float(a / b), 2)}
            for name, (a, b) in (("fastest", fastest), ("median", medians))
        },
        "wasm_bytes": exported.report["wasm_bytes"], "module_bytes": exported.report["module_bytes"],
    }  # fmt: skip
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
