"""Compile generated C files with the compiler of this machine, or for another one."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from splitreg.errors import BundleError, MissingExtra

#: For every build: GNU C for vectors, and products that are joined with sums.
FLAGS = ("-O3", "-std=gnu99", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")


def find_compiler() -> list[str]:
    """Return the command of a C compiler: ``CC``, cc, gcc or clang, or the one of the package ziglang.

    Raises:
        MissingExtra: no C compiler is installed.
    """
    for name in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        words = shlex.split(name)
        if words and shutil.which(words[0]):
            return words
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "cc"]
    raise MissingExtra("no C compiler is installed (cc, gcc or clang), nor the package ziglang; pip install ziglang")


def zig_compiler(triple: str) -> list[str]:
    """Return the command of ziglang's compiler for another machine, e.g. ``aarch64-linux-musl``.

    Raises:
        MissingExtra: ziglang is not installed.
    """
    if importlib.util.find_spec("ziglang") is None:
        raise MissingExtra(f"compiling for {triple} needs ziglang, which is not installed; pip install ziglang")
    return [sys.executable, "-m", "ziglang", "cc", "-target", triple]


def write_files(files: Mapping[str, bytes], folder: Path) -> None:
    """Write an exported target into a folder."""
    for name, data in files.items():
        (folder / name).write_bytes(data)


def compile_c(command: Sequence[str], arguments: Sequence[str | Path], folder: Path) -> None:
    """Run a compiler in a folder.

    Raises:
        BundleError: it fails; the message has its first error.
    """
    done = subprocess.run(
        [*command, *FLAGS, *map(str, arguments)], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or ["?"]
        raise BundleError(f"{command[0]} cannot compile the generated C: {lines[0]}")


def build_library(files: Mapping[str, bytes], prefix: str, folder: Path) -> Path:
    """Compile an exported edge half as a shared library of this machine; return its path.

    Raises:
        MissingExtra: there is no compiler.
        BundleError: the compiler fails.
    """
    write_files(files, folder)
    library = folder / f"{prefix}.so"
    compile_c(find_compiler(), ["-shared", "-fPIC", f"{prefix}.c", "-o", library], folder)
    return library
