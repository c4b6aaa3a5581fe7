"""What ``__all__`` says is what is there, and ``import splitreg`` costs nothing."""

import importlib
import subprocess
import sys

import pytest

import splitreg

PACKAGES = (
    "splitreg.assembly",
    "splitreg.bench",
    "splitreg.coding",
    "splitreg.sweep",
    "splitreg.edge",
    "splitreg.publishing",
    "splitreg.recipe",
    "splitreg.serving",
    "splitreg.training",
    "splitreg.wire",
)
MODULES = (
    "splitreg.components",
    "splitreg.interfaces",
    "splitreg.predictions",
    "splitreg.registry",
    "splitreg.evaluation",
    "splitreg.testing",
    "splitreg.data.transforms",
)


def test_the_top_level_shows_what_it_says():
    assert dir(splitreg) == sorted(splitreg.__all__) == sorted(set(splitreg.__all__))
    for name in splitreg.__all__:
        assert getattr(splitreg, name) is not None


def test_the_top_level_says_every_lazy_name():
    lazy = [name for name in splitreg.__all__ if name != "__version__"]
    code = f"import splitreg; print([n for n in {lazy!r} if n in vars(splitreg)], [n for n in {lazy!r} if not hasattr(splitreg, n)])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[] []"


@pytest.mark.parametrize("name", PACKAGES)
def test_packages_show_what_they_say(name):
    module = importlib.import_module(name)
    assert all(hasattr(module, key) for key in module.__all__)  # and lazy ones are there from now on
    visible = {
        key
        for key in dir(module)
        if not key.startswith("_") and type(getattr(module, key)).__name__ != "module" and key != "annotations"
    }
    assert visible == set(module.__all__)


@pytest.mark.parametrize("name", [*PACKAGES, *MODULES])
def test_every_name_in_all_is_there_once(name):
    module = importlib.import_module(name)
    names = list(getattr(module, "__all__", ()))
    assert len(names) == len(set(names)) and all(hasattr(module, key) for key in names)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="biuld"):
        _ = splitreg.biuld


def test_the_version_is_the_installed_one():
    from importlib.metadata import version

    assert splitreg.__version__ == version("splitreg")


def test_every_error_is_in_the_hierarchy_that_is_drawn():
    from splitreg import errors

    drawn = errors.__doc__
    for name, value in vars(errors).items():
        if isinstance(value, type) and value.__module__ == errors.__name__:
            assert issubclass(value, errors.SplitregError) and name in drawn
            assert value.__doc__


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("splitreg", ("torch", "numpy", "click", "PIL")),
        ("splitreg.errors", ("torch", "numpy")),
        ("splitreg.specs", ("torch", "numpy")),
        ("splitreg.recipe", ("torch", "numpy")),
        ("splitreg.registry", ("torch", "numpy")),
        ("splitreg.zoo", ("torch", "numpy", "click")),
        ("splitreg.bench", ("timm", "compressai", "ray", "onnxruntime")),
        ("splitreg.sweep", ("timm", "compressai", "ray", "onnxruntime")),
        ("splitreg.cli.main", ("torch", "numpy", "PIL")),
        ("splitreg.coding", ("torch", "PIL", "timm")),
        (
            "splitreg.edge",
            ("torch", "PIL", "onnxruntime", "safetensors", "concurrent.futures", "http.client", "sqlite3"),
        ),
        ("splitreg.edge.client", ("torch", "PIL", "onnxruntime")),
        ("splitreg.link_emulator", ("torch", "numpy")),
        ("splitreg.cli.send_", ("torch", "numpy")),
        ("splitreg.cli.edge_", ("torch", "numpy")),
        ("splitreg.predictions", ("torch", "PIL")),
        ("splitreg.wire", ("torch", "PIL", "starlette")),
        ("splitreg.serving", ("torch", "PIL", "timm", "compressai", "ray", "onnxruntime")),
        ("splitreg.imaging", ("torch", "PIL", "timm")),  # pillow when a picture comes
        ("splitreg.interfaces", ("timm", "compressai", "lightning_fabric", "torchmetrics")),
        ("splitreg.assembly", ("timm", "compressai", "lightning_fabric", "torchmetrics", "onnxruntime")),
        ("splitreg.publishing", ("timm", "compressai", "lightning_fabric", "torchmetrics", "onnxruntime")),
    ],
)
def test_imports_stay_cheap(module, heavy):
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
