"""Target c against onnxruntime on one thread: memory, time of interleaved runs, symbols, and 200 images decoded.

    python benchmarks/c_target.py --bundle zoo:camvid-small --size 192 256 --root camvid

Times are medians (and the fastest) of runs that take turns, so that other load meets both. ``network_ms`` is
onnxruntime's graph alone;
``c_ms`` is image to packet, with preprocessing and coding. Without --root, the images are generated scenes.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from splitreg import imaging
from splitreg.coding import Packet
from splitreg.edge import EdgeEncoder, EdgeSource
from splitreg.registry import discover

ROUNDS = 60


def images_of(root, size, count):
    """Yield (H, W, 3) uint8 images: of CamVid's val split, or generated ones."""
    registry = discover()
    if root:
        dataset = registry.component("dataset", "camvid").cls(root, "val")
    else:
        dataset = registry.component("dataset", "scenes").cls(None, "val", size=max(size), count=count)
    for i in range(count):
        yield dataset[i % len(dataset)].array()


def size_of(files, prefix, flags):
    """Return bytes of flash and RAM as the linker reports them for this machine."""
    from splitreg_targets.c_compiler import compile_c, find_compiler, write_files

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_files(files, folder)
        compile_c(find_compiler(), [*flags, "-c", f"{prefix}.c", "-o", "model.o"], folder)
        done = subprocess.run(["size", "model.o"], cwd=folder, capture_output=True, text=True, check=True)
    text, data, bss = (int(word) for word in done.stdout.splitlines()[1].split()[:3])
    return {"flash_bytes": text + data, "ram_bytes": data + bss}


def medians(functions, rounds):
    """Return the median and the fastest milliseconds of functions that take turns."""
    times = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            times[name].append(1000 * (time.perf_counter() - start))
    found = {name: round(float(np.median(values)), 4) for name, values in times.items()}
    return found | {f"fastest_{name}": round(min(values), 4) for name, values in times.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="zoo:camvid-small")
    parser.add_argument("--size", nargs=2, type=int, default=[192, 256], metavar=("H", "W"))
    parser.add_argument("--root", help="folder of CamVid")
    parser.add_argument("--images", type=int, default=200)
    arguments = parser.parse_args()
    size = tuple(arguments.size)
    from splitreg_targets.c_compiler import build_library
    from splitreg_targets.c_library import CLibrary
    from splitreg_targets.c_target import CTarget

    source = EdgeSource.read(arguments.bundle).at(size)
    exported = CTarget().export(source)
    encoder = EdgeEncoder.open(arguments.bundle, size=size)
    with tempfile.TemporaryDirectory() as folder:
        library = CLibrary(build_library(exported.files, "splitreg_model", Path(folder)), "splitreg_model")
        same, symbols, bytes_c, bytes_ort, failures, last = 0, [], [], [], 0, None
        for image in images_of(arguments.root, size, arguments.images):
            packet = library.encode(image)
            latent, _ = encoder.latent_of(image)
            try:
                decoded = encoder.coding.decode(Packet.parse(packet).streams, latent.shape)
                symbols.append(float(np.mean(decoded != encoder.coding.tables.restore(latent))))
            except Exception as error:
                failures += 1
                sys.stderr.write(f"{error}\n")
            expected = encoder.encode(image)[0]
            same += packet == expected
            bytes_c.append(len(packet))
            bytes_ort.append(len(expected))
            last = image
        fitted = imaging.letterbox(
            last, imaging.Geometry(original=last.shape[:2], coded=size, mode=source.coding.preprocess.mode)
        )
        pixels, _ = imaging.prepare(fitted, encoder.coding.preprocess)
        times = medians(
            {
                "c_ms": lambda: library.encode(fitted), "network_ms": lambda: encoder.network.run(pixels),
                "onnxruntime_ms": lambda: encoder.encode(fitted),
            },
            ROUNDS,
        )  # fmt: skip
    result = {
        "bundle": arguments.bundle, "size": list(size), "images": arguments.images,
        "data": "camvid val" if arguments.root else "scenes val", **dict(exported.report),
        "native": size_of(exported.files, "splitreg_model", ()),
        "plain": size_of(exported.files, "splitreg_model", ("-DSR_PLAIN", "-Os")),
        **times, "c_over_network": round(times["c_ms"] / times["network_ms"], 3),
        "c_over_onnxruntime": round(times["c_ms"] / times["onnxruntime_ms"], 3), "failures": failures,
        "packets_equal": same / arguments.images, "symbols_changed": float(np.mean(symbols)),
        "mean_bytes": {"c": float(np.mean(bytes_c)), "onnxruntime": float(np.mean(bytes_ort))},
        "machine": platform.processor() or platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg()[0],
    }  # fmt: skip
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
