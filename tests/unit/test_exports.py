"""What ``__all__`` says is what is there, and ``import splitreg`` costs nothing."""

import importlib
import json
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
    "splitreg.networks",
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


@pytest.mark.integration
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


#: Module -> packages that importing it must not import.
LIGHT = {
    "splitreg": ("torch", "numpy", "click", "PIL"),
    "splitreg.errors": ("torch", "numpy"),
    "splitreg.specs": ("torch", "numpy"),
    "splitreg.recipe": ("torch", "numpy"),
    "splitreg.registry": ("torch", "numpy"),
    "splitreg.zoo": ("torch", "numpy", "click"),
    "splitreg.cli.main": ("torch", "numpy", "PIL"),
    "splitreg.coding": ("torch", "PIL", "timm"),
    "splitreg.edge": (
        "torch", "PIL", "onnxruntime", "safetensors", "concurrent.futures", "http.client", "sqlite3",
    ),
    "splitreg.edge.client": ("torch", "PIL", "onnxruntime"),
    "splitreg.link_emulator": ("torch", "numpy"),
    "splitreg.cli.send_": ("torch", "numpy"),
    "splitreg.cli.edge_": ("torch", "numpy"),
    "splitreg.predictions": ("torch", "PIL"),
    "splitreg.wire": ("torch", "PIL", "starlette"),
    "splitreg.serving": ("torch", "PIL", "timm", "compressai", "ray", "onnxruntime"),
    "splitreg.imaging": ("torch", "PIL", "timm"),  # pillow is imported with the first image
}  # fmt: skip
#: The same for modules that import torch, which takes seconds: one process imports them in this order.
WITH_TORCH = {
    "splitreg.interfaces": ("timm", "compressai", "lightning_fabric", "torchmetrics"),
    "splitreg.assembly": ("timm", "compressai", "lightning_fabric", "torchmetrics", "onnxruntime"),
    "splitreg.publishing": ("timm", "compressai", "lightning_fabric", "torchmetrics", "onnxruntime"),
    "splitreg.bench": ("timm", "compressai", "ray", "onnxruntime"),
    "splitreg.sweep": ("timm", "compressai", "ray", "onnxruntime"),
}


def heavy_imports(modules):
    """Import modules in a new process; return module -> its forbidden packages that are loaded then."""
    code = f"""
import importlib, json, sys
loaded = {{}}
for module, heavy in {modules!r}.items():
    importlib.import_module(module)
    loaded[module] = [name for name in heavy if name in sys.modules]
print(json.dumps(loaded))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def heavy_imports_with_torch():
    return heavy_imports(WITH_TORCH)


@pytest.mark.parametrize("module", LIGHT)
def test_imports_stay_cheap(module):
    assert heavy_imports({module: LIGHT[module]}) == {module: []}


@pytest.mark.integration
@pytest.mark.parametrize("module", WITH_TORCH)
def test_imports_with_torch_stay_cheap(module, heavy_imports_with_torch):
    assert heavy_imports_with_torch[module] == []
