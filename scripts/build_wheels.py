"""Build wheels for all platforms on one machine: the package once, the kernel per platform with ziglang.

    pip install build ziglang
    python scripts/build_wheels.py -o wheels
    python scripts/build_wheels.py -o wheels --platform linux-x86_64

The kernel calls nothing but memcmp, memcpy, memmove and memset, so one build serves glibc and musl.
"""

import argparse
import base64
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = ("rans.c", "temporal.c", "labels.c", "context.c")
FLAGS = (
    "-O3", "-g0", "-std=gnu11", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-shared", "-nostdlib",
    "-fno-stack-protector", "-fno-sanitize=all",
)  # fmt: skip
#: Name -> target of zig, tags of the wheel, name of the library, further flags.
PLATFORMS = {
    "linux-x86_64": (
        "x86_64-linux-gnu.2.17", ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "musllinux_1_1_x86_64"), "_rans.so",
        ("-fPIC", "-mcpu=x86_64_v2"),
    ),
    "linux-aarch64": (
        "aarch64-linux-gnu.2.17", ("manylinux2014_aarch64", "manylinux_2_17_aarch64", "musllinux_1_1_aarch64"), "_rans.so",
        ("-fPIC",),
    ),
    "linux-armv7l": (
        "arm-linux-gnueabihf.2.17", ("manylinux2014_armv7l", "manylinux_2_17_armv7l", "musllinux_1_1_armv7l"), "_rans.so",
        ("-fPIC", "-mcpu=cortex_a7"),
    ),
    "macos-arm64": ("aarch64-macos.11.0", ("macosx_11_0_arm64",), "_rans.so", ("-fPIC", "-lc")),
    "macos-x86_64": ("x86_64-macos.11.0", ("macosx_11_0_x86_64",), "_rans.so", ("-fPIC", "-lc")),
    "windows-x86_64": ("x86_64-windows-gnu", ("win_amd64",), "_rans.dll", ("-DSR_STANDALONE",)),
    "windows-arm64": ("aarch64-windows-gnu", ("win_arm64",), "_rans.dll", ("-DSR_STANDALONE",)),
}  # fmt: skip
#: All that the kernel needs of a C library; -nostdlib leaves out the headers of zig's.
HEADER = """
#include <stddef.h>
int memcmp(const void *, const void *, size_t);
void *memcpy(void *, const void *, size_t);
void *memmove(void *, const void *, size_t);
void *memset(void *, int, size_t);
"""
#: Compiled with the kernel where there is no C library to find these in.
STANDALONE = r"""
#include <stddef.h>
__attribute__((no_builtin("memset"))) void *memset(void *to, int value, size_t count) {
    for (unsigned char *at = to, *end = at + count; at < end; at++) *at = (unsigned char)value;
    return to;
}
__attribute__((no_builtin("memcpy", "memmove"))) void *memmove(void *to, const void *from, size_t count) {
    unsigned char *d = to;
    const unsigned char *s = from;
    if (d <= s)
        for (size_t i = 0; i < count; i++) d[i] = s[i];
    else
        for (size_t i = count; i > 0; i--) d[i - 1] = s[i - 1];
    return to;
}
__attribute__((no_builtin("memcpy"))) void *memcpy(void *to, const void *from, size_t count) {
    return memmove(to, from, count);
}
__attribute__((no_builtin("memcmp", "bcmp"))) int memcmp(const void *a, const void *b, size_t count) {
    const unsigned char *x = a, *y = b;
    for (size_t i = 0; i < count; i++)
        if (x[i] != y[i]) return x[i] - y[i];
    return 0;
}
int _fltused = 0;
int DllMainCRTStartup(void *module, unsigned reason, void *reserved) { (void)module, (void)reason, (void)reserved; return 1; }
"""


def build_kernel(name: str, folder: Path) -> Path:
    """Compile the kernel for a platform; return the library."""
    target, _, library, flags = PLATFORMS[name]
    out = folder / library
    (folder / "string.h").write_text(HEADER)
    sources = [str(ROOT / "splitreg" / "coding" / source) for source in SOURCES]
    if "-DSR_STANDALONE" in flags:
        (folder / "standalone.c").write_text(STANDALONE)
        sources.append(str(folder / "standalone.c"))
    command = [
        sys.executable,
        "-m",
        "ziglang",
        "cc",
        "-target",
        target,
        *FLAGS,
        *flags,
        "-I.",
        *sources,
        "-o",
        str(out),
    ]
    subprocess.run(command, check=True, cwd=folder)
    return out


def build_package(folder: Path) -> Path:
    """Build the wheel without a kernel."""
    command = [sys.executable, "-m", "pip", "wheel", str(ROOT), "--no-deps", "-q", "-w", str(folder)]
    if "setuptools" in sys.modules or _has_setuptools():
        command.append("--no-build-isolation")
    settings = folder / "build.cfg"  # a folder of its own: that of the checkout may hold a kernel
    settings.write_text(f"[build]\nbuild_base = {folder / 'build'}\n")
    environment = {**os.environ, "SPLITREG_WITHOUT_KERNEL": "1", "DIST_EXTRA_CONFIG": str(settings)}
    subprocess.run(command, check=True, env=environment)
    (wheel,) = folder.glob("*.whl")
    kernels = [name for name in zipfile.ZipFile(wheel).namelist() if Path(name).name.startswith("_rans.")]
    if kernels:
        raise SystemExit(f"the wheel without a kernel contains {', '.join(kernels)}")
    return wheel


def _has_setuptools() -> bool:
    import importlib.metadata

    try:
        return int(importlib.metadata.version("setuptools").split(".")[0]) >= 77
    except importlib.metadata.PackageNotFoundError:
        return False


def add_kernel(package: Path, kernel: Path, tags: tuple[str, ...], folder: Path) -> Path:
    """Write a wheel of a platform: the package, a kernel, and the tags; equal input gives equal bytes."""
    name, version = package.name.split("-")[:2]
    out = folder / f"{name}-{version}-py3-none-{'.'.join(tags)}.whl"
    info = f"{name}-{version}.dist-info"
    records = []
    with zipfile.ZipFile(package) as source, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as wheel:
        entries = {item: source.read(item) for item in source.namelist() if item != f"{info}/RECORD"}
        entries[f"splitreg/coding/{kernel.name}"] = kernel.read_bytes()
        lines = entries[f"{info}/WHEEL"].decode().splitlines()
        lines = [line for line in lines if line and not line.startswith(("Tag:", "Root-Is-Purelib:"))]
        lines += ["Root-Is-Purelib: false", *(f"Tag: py3-none-{tag}" for tag in tags)]
        entries[f"{info}/WHEEL"] = ("\n".join(lines) + "\n").encode()
        for item, data in sorted(entries.items()):
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            records.append(f"{item},sha256={digest},{len(data)}")
            _write(wheel, item, data)
        _write(wheel, f"{info}/RECORD", ("\n".join([*records, f"{info}/RECORD,,"]) + "\n").encode())
    return out


def _write(wheel: zipfile.ZipFile, name: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    entry.external_attr = 0o100644 << 16
    wheel.writestr(entry, data, zipfile.ZIP_DEFLATED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("wheels"), help="folder of the wheels")
    parser.add_argument("--platform", action="append", choices=PLATFORMS, help="repeat for several; default: all")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        package = build_package(Path(name))
        for platform in arguments.platform or PLATFORMS:
            folder = Path(name) / platform
            folder.mkdir()
            wheel = add_kernel(package, build_kernel(platform, folder), PLATFORMS[platform][1], arguments.output)
            print(f"{platform}: {wheel.name}, {wheel.stat().st_size:,} bytes", flush=True)
        pure = arguments.output / package.name
        pure.write_bytes(package.read_bytes())
        print(f"without a kernel: {pure.name}")


if __name__ == "__main__":
    main()
