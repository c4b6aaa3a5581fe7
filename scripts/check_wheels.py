"""Install wheels on every Python of this machine, encode a golden image with each, and print a table.

    python scripts/build_wheels.py -o wheels
    python scripts/check_wheels.py wheels --python ~/.pyenv/versions/*/bin/python --emulate aarch64 --musl

A row is a platform and a Python: whether the kernel was loaded, whether the packet of the zoo's test image equals the
recorded one byte for byte, and how fast symbols are coded. ``--emulate aarch64`` runs Debian's Python for that processor
under qemu-user, with the wheels of numpy and onnxruntime; it needs apt, dpkg-deb and qemu-user, and installs nothing
on this machine. ``--musl`` loads the kernel by musl's loader in a small program in C; it needs apt and ziglang.
"""

import argparse
import json
import os
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


#: Processor -> Debian's name, and the emulator.
PROCESSORS = {"aarch64": ("arm64", "qemu-aarch64")}
PACKAGES = ("python3.11-minimal", "python3.11", "libstdc++6")
#: The newest onnxruntime that runs under the emulator of Debian 12; later ones end with a segmentation fault.
EMULATED_RUNTIME = "onnxruntime<1.25"
APT = """
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
Dir::State "{folder}/state";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
Dir::Etc::sourcelist "{folder}/sources.list";
Dir::Etc::sourceparts "/dev/null";
APT::Sandbox::User "root";
"""
SOURCES = """
deb [arch={architecture} signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian bookworm main
"""
MUSL = r"""
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
int main(int count, char **arguments) {
    void *library = dlopen(arguments[1], RTLD_NOW);
    int64_t (*slots)(void) = library ? (int64_t (*)(void))dlsym(library, "sr_temporal_slots") : 0;
    if (!slots) return puts(dlerror()), 1;
    return printf("%lld\n", (long long)slots()) < 0;
}
"""


def unpack_debian(architecture: str, packages: tuple[str, ...], folder: Path) -> Path:
    """Unpack Debian packages and what they need; return the root. Nothing is installed on this machine."""
    for name in ("state/lists/partial", "cache/archives/partial", "root"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    (folder / "apt.conf").write_text(APT.format(architecture=architecture, folder=folder))
    (folder / "sources.list").write_text(SOURCES.format(architecture=architecture))
    environment = {**os.environ, "APT_CONFIG": str(folder / "apt.conf")}
    download = ["install", "--download-only", "-y", "-qq", "--no-install-recommends", *packages]
    for command in (["update", "-qq"], download):
        subprocess.run(["apt-get", *command], check=True, env=environment, stdout=subprocess.DEVNULL)
    for package in (folder / "cache" / "archives").glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", package, folder / "root"], check=True)
    return folder / "root"


def check_emulated(processor: str, wheel: Path) -> dict[str, object]:
    """Install a wheel for another processor, and encode under qemu-user."""
    architecture, emulator = PROCESSORS[processor]
    if shutil.which(emulator) is None or shutil.which("apt-get") is None:
        return {"error": f"{emulator} or apt-get is not installed"}
    with tempfile.TemporaryDirectory() as name:
        root, site = unpack_debian(architecture, PACKAGES, Path(name)), Path(name) / "site"
        platforms = (f"--platform=manylinux{tag}_{processor}" for tag in ("2014", "_2_17", "_2_27", "_2_28"))
        install = [
            sys.executable, "-m", "pip", "install", "-q", *platforms, "--python-version=3.11", "--only-binary=:all:",
            f"--target={site}", f"{wheel.resolve()}[edge]", EMULATED_RUNTIME,
        ]  # fmt: skip
        done = subprocess.run(install, capture_output=True, text=True, check=False, cwd=name)
        if done.returncode:
            return {"error": done.stderr.strip().splitlines()[-1][:120]}
        run = [emulator, "-L", root, "-E", f"PYTHONPATH={site}", "-E", "OMP_NUM_THREADS=1", root / "usr/bin/python3.11"]
        return run_golden(run, Path(name))


def check_musl(wheel: Path) -> dict[str, object]:
    """Load a wheel's kernel by musl's loader."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        loader = unpack_debian("amd64", ("musl",), folder) / "lib" / "x86_64-linux-musl" / "libc.so"
        (folder / "load.c").write_text(MUSL)
        target = [
            sys.executable,
            "-m",
            "ziglang",
            "cc",
            "-target",
            "x86_64-linux-musl",
            "-dynamic",
            "-O2",
            "-fno-sanitize=all",
        ]
        subprocess.run([*target, "load.c", "-o", "load"], check=True, cwd=folder)
        with zipfile.ZipFile(wheel) as files:
            kernel = files.extract("splitreg/coding/_rans.so", folder)
        done = subprocess.run([loader, "./load", kernel], cwd=folder, capture_output=True, text=True, check=False)
    return {
        "error": "loaded by musl, without Python" if not done.returncode else (done.stdout + done.stderr)[:120].strip()
    }


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
        return run_golden([here], Path(folder))


def run_golden(python: list[str | Path], folder: Path) -> dict[str, object]:
    """Encode the golden image by a command that is a Python."""
    done = subprocess.run([*python, "-c", GOLDEN], capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1][:160]}
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
    parser.add_argument(
        "--emulate", nargs="*", choices=PROCESSORS, default=[], help="processors to run under qemu-user"
    )
    parser.add_argument("--musl", action="store_true", help="load the kernel by musl's loader, too")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    pythons = arguments.python or [Path(path) for minor in range(10, 15) if (path := shutil.which(f"python3.{minor}"))]
    machine = platform.machine()
    rows = []
    for wheel in sorted(arguments.wheels.glob("*.whl")):
        tag = wheel.stem.split("-")[-1].split(".")[0]
        processor = next((name for name in arguments.emulate if "linux" in tag and tag.endswith(name)), None)
        if processor is not None:
            row = {"wheel": tag, "library": library_of(wheel), "python": "3.11, emulated"}
            rows.append({**row, **check_emulated(processor, wheel)})
            continue
        if tag != "any" and not (sys.platform == "linux" and "linux" in tag and tag.endswith(machine)):
            rows.append({"wheel": tag, "library": library_of(wheel), "python": "-", "error": "another platform"})
            continue
        for python in pythons:
            version = version_of(python)
            if version and version >= OLDEST:
                row = {"wheel": tag, "library": library_of(wheel), "python": ".".join(map(str, version))}
                rows.append({**row, **check(python, wheel, arguments.pip)})
        if arguments.musl and "musllinux" in wheel.name:
            rows.append({"wheel": tag, "library": library_of(wheel), "python": "-", **check_musl(wheel)})
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
