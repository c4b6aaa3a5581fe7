"""What pyproject.toml cannot say: where the model zoo lies, and that the kernel fits every version of Python."""

import os
import shutil
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py


class BuildWithZoo(build_py):
    """Copies ``model_zoo`` into the package, without ``large`` and ``local``; an editable install finds it where it is."""

    def run(self) -> None:
        """Build as usual, then copy."""
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "splitreg" / "model_zoo"
            shutil.rmtree(target, ignore_errors=True)
            checkout = shutil.ignore_patterns("large", "local")
            shutil.copytree(Path(__file__).parent / "model_zoo", target, ignore=checkout)


class BuildKernel(build_ext):
    """Builds the kernel as a plain shared library: without Python in it, and without Python's version in its name."""

    def run(self) -> None:
        """Build, unless ``scripts/build_wheels.py`` adds kernels of its own."""
        if not os.environ.get("SPLITREG_WITHOUT_KERNEL"):
            super().run()

    def get_ext_filename(self, fullname: str) -> str:
        """Return the name of the file."""
        return os.path.join(*fullname.split(".")) + (".dll" if sys.platform == "win32" else ".so")

    def get_export_symbols(self, ext: object) -> list[str]:
        """Export what the source marks, and no initialiser of a Python module."""
        return []


class PlatformWheel(bdist_wheel):
    """One wheel per platform serves every version of Python."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return ``py3-none-PLATFORM``; ``py3-none-any`` without a kernel."""
        if os.environ.get("SPLITREG_WITHOUT_KERNEL"):
            return "py3", "none", "any"
        return "py3", "none", super().get_tag()[2]


setup(cmdclass={"build_py": BuildWithZoo, "build_ext": BuildKernel, "bdist_wheel": PlatformWheel})
