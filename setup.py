"""What pyproject.toml cannot say: the model zoo lies beside the package here, and within it where it is installed."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithZoo(build_py):
    """Copies ``model_zoo`` into the package; an editable install finds it where it is."""

    def run(self) -> None:
        """Build as usual, then copy."""
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "splitreg" / "model_zoo"
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(Path(__file__).parent / "model_zoo", target)


setup(cmdclass={"build_py": BuildWithZoo})
