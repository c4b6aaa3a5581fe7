"""Install wheels on every Python of this machine, encode a golden image with each, and print a table.

    python scripts/build_wheels.py -o wheels
    python scripts/check_wheels.py wheels --python ~/.pyenv/versions/*/bin/python

A row is a platform and a Python: whether the kernel was loaded, whether the packet of the zoo's test image equals the
recorded one byte for byte, and how fast symbols are coded. Wheels of other processors are run under qemu-user where
the kernel can be loaded without Python: its symbols are coded by a small program in C.
"""

import argparse
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: Versions that the device's half supports.
OLDEST = (3, 10)
GOLDEN = r"""
import json, platform, sys, time
import numpy as np
from splitreg.bundle import Bundle
from splitreg.coding import RansCodec, rans_kernel
from splitreg.edge import EdgeEncoder
bundle = Bundle.open("zoo:camvid-small")
encoder = EdgeEncoder.open("zoo:camvid-small")
start = time.perf_counter()
packet = encoder.encode(bundle.folder / "testvectors" / "image.png")[0]
first_ms = 1000 * (time.perf_counter() - start)
latent, _ = encoder.latent_of(bundle.folder / "testvectors" / "image.png")
def rate(codec, count):
    codec.encode_latent(latent, encoder.coding.tables)
    start = time.perf_counter()
    for _ in range(count):
        codec.encode_latent(latent, encoder.coding.tables)
    return count * latent.size / (time.perf_counter() - start)
kernel = rans_kernel.library() is not None
numpy_packet = RansCodec(kernel="numpy").encode_latent(latent, encoder.coding.tables)
print(json.dumps({
    "python": platform.python_version(), "machine": platform.machine(), "kernel": kernel,
    "golden": packet == bundle.read("testvectors/packet.bin"), "numpy_equal": numpy_packet == encoder.coding.encode(latent)[0],
    "first_packet_ms": round(first_ms, 1), "symbols_per_s": round(rate(encoder.coding.codec, 50)),
}))
"""


def version_of(python: Path) -> tuple[int, ...]:
    code = "import sys; print('.'.join(map(str, sys.version_info[:3])))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return tuple(int(part) for part in done.stdout.strip().split(".")) if done.returncode == 0 else ()


def check(python: Path, wheel: Path, extra: list[str]) -> dict[str, object]:
    """Install a wheel into a new environment of a Python, without a compiler, and encode."""
    with tempfile.TemporaryDirectory() as folder:
        environment = Path(folder) / "venv"
        subprocess.run([python, "-m", "venv", environment], check=True)
        here = environment / "bin" / "python"
        install = [here, "-m", "pip", "install", "-q", "--only-binary=:all:", f"{wheel.resolve()}[edge]", *extra]
        done = subprocess.run(install, capture_output=True, text=True, check=False, cwd=folder)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "ERROR" in line] or ["pip failed"]
            return {"error": lines[0][:120]}
        done = subprocess.run([here, "-c", GOLDEN], capture_output=True, text=True, check=False, cwd=folder)
        if done.returncode:
            return {"error": done.stderr.strip().splitlines()[-1][:160]}
        return json.loads(done.stdout.splitlines()[-1])


def library_of(wheel: Path) -> str:
    """Return the format and processor of a wheel's kernel, read from its first bytes."""
    with zipfile.ZipFile(wheel) as files:
        name = next((name for name in files.namelist() if "/_rans." in name), None)
        head = files.read(name)[:20] if name else b""
    if head[:4] == b"\x7fELF":
        return "ELF " + {62: "x86-64", 183: "aarch64", 40: "arm"}.get(int.from_bytes(head[18:20], "little"), "?")
    return {b"\xcf\xfa\xed\xfe": "Mach-O", b"MZ": "PE"}.get(head[:4], "PE" if head[:2] == b"MZ" else "none")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheels", type=Path)
    parser.add_argument(
        "--python", nargs="*", type=Path, default=[], help="interpreters; default: all python3.* on PATH"
    )
    parser.add_argument("--pip", nargs="*", default=[], help="further arguments of pip install")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    pythons = arguments.python or [Path(path) for minor in range(10, 15) if (path := shutil.which(f"python3.{minor}"))]
    machine = platform.machine()
    rows = []
    for wheel in sorted(arguments.wheels.glob("*.whl")):
        tag = wheel.stem.split("-")[-1].split(".")[0]
        if tag != "any" and not (sys.platform == "linux" and "linux" in tag and tag.endswith(machine)):
            rows.append({"wheel": tag, "library": library_of(wheel), "python": "-", "error": "another platform"})
            continue
        for python in pythons:
            version = version_of(python)
            if version and version >= OLDEST:
                row = {"wheel": tag, "library": library_of(wheel), "python": ".".join(map(str, version))}
                rows.append({**row, **check(python, wheel, arguments.pip)})
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return
    print("| wheel | library | Python | kernel | golden packet equal | first packet, ms | symbols/s |")
    print("| --- | --- | --- | --- | --- | ---: | ---: |")
    for row in rows:
        if "error" in row:
            print(f"| {row['wheel']} | {row['library']} | {row['python']} | - | {row['error']} | - | - |")
            continue
        kernel, golden = ("yes" if row[key] else "no" for key in ("kernel", "golden"))
        print(
            f"| {row['wheel']} | {row['library']} | {row['python']} | {kernel} | {golden} | {row['first_packet_ms']} | "
            f"{row['symbols_per_s']:,} |"
        )


if __name__ == "__main__":
    main()
