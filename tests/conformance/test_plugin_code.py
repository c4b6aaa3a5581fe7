"""What first-party plugins import, and how classes are named: rules that also hold for third-party plugins."""

import ast
import json
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from splitreg.assembly import load_edge

ROOT = Path(__file__).parents[2]
PLUGINS = sorted(path for path in (ROOT / "plugins").iterdir() if (path / "specs.py").is_file())
EXAMPLE = ROOT / "docs" / "examples" / "splitreg-plugin-keypoints" / "splitreg_keypoints"
#: Libraries that a plugin imports only where it uses them.
HEAVY = ("torchvision", "torchmetrics", "compressai", "torchjd", "timm", "faster_coco_eval", "torch.utils.flop_counter")


def sources(folder):
    return sorted(path for path in folder.rglob("*.py") if "tests" not in path.parts)


def public_modules():
    """Modules in the table of docs/plugins.md."""
    page = (ROOT / "docs" / "plugins.md").read_text()
    section = page.split("## Public modules", 1)[1].split("\n## ", 1)[0]
    return set(re.findall(r"^\| \[?`(splitreg[\w.]*)`", section, re.MULTILINE))


def imports(tree):
    """Modules and names that a module imports from the core, as (module, name)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "splitreg":
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.split(".")[0] == "splitreg")


@pytest.mark.parametrize("folder", [*PLUGINS, EXAMPLE], ids=lambda path: path.name)
def test_plugins_use_public_names_of_the_core_only(folder):
    public = public_modules()
    assert len(public) > 8
    wrong = set()
    for path in sources(folder):
        tree = ast.parse(path.read_text())
        modules = {name for module, name in imports(tree) if module == "splitreg"}
        for module, name in imports(tree):
            used = f"{module}.{name}" if module == "splitreg" else module
            if used not in public or name.startswith("_"):
                wrong.add(f"{path.name}: {module} {name}")
        wrong |= {
            f"{path.name}: {node.value.id}.{node.attr}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__")
            if isinstance(node.value, ast.Name) and node.value.id in modules
        }
    assert not wrong


@pytest.mark.integration
@pytest.mark.parametrize("name", sorted(public_modules()))
def test_public_modules_export_what_plugins_import(name):
    """A module with ``__all__`` exports by it; nothing else of it is public."""
    used = {
        n for folder in [*PLUGINS, EXAMPLE] for path in sources(folder)
        for module, n in imports(ast.parse(path.read_text())) if module == name and n
    }  # fmt: skip
    exported = getattr(__import__(name, fromlist=["_"]), "__all__", used)
    assert used <= set(exported)


def test_public_class_names_are_unique():
    places = defaultdict(list)
    for folder in (ROOT / "splitreg", *PLUGINS):
        for path in sources(folder):
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    places[node.name].append(str(path.relative_to(ROOT)))
    assert {name: paths for name, paths in places.items() if len(paths) > 1} == {}


def loaded(code, *arguments):
    """Run lines of Python in a new process; returns what the last one prints as JSON."""
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.integration
def test_importing_a_plugin_imports_no_library_that_it_may_not_need():
    modules = [
        "splitreg.interfaces", "splitreg.assembly", "splitreg_classic.images", "splitreg_classic.quantise",
        *(f"splitreg_heads.{name}" for name in ("pooled", "detection", "segmentation", "depth", "reconstruction")),
        *(f"splitreg_compressai.{name}" for name in ("factorized", "hyperprior", "ans")),
        *(f"splitreg_objectives.{name}" for name in ("sum", "distill", "uncertainty", "compressibility", "surgery")),
    ]  # fmt: skip
    code = (
        "import importlib, json, sys; heavy = sys.argv[1].split()\n"
        "print(json.dumps({m: [h for h in heavy if importlib.import_module(m) and h in sys.modules]"
        " for m in sys.argv[2].split()}))"
    )
    assert loaded(code, " ".join(HEAVY), " ".join(modules)) == {module: [] for module in modules}


@pytest.mark.integration
def test_inference_imports_no_library_of_training(tmp_path):
    packet = tmp_path / "packet"
    packet.write_bytes(load_edge("zoo:splitreg-camvid").encode(np.zeros((90, 120, 3), np.uint8))[0])
    code = (
        "import json, sys; from splitreg.cli.main import main\n"
        "heavy = sys.argv.pop().split(); sys.argv[1:1] = ['infer', 'zoo:splitreg-camvid']\n"
        "try: main()\n"
        "except SystemExit as exit: assert not exit.code\n"
        "print(json.dumps([m for m in heavy if m in sys.modules]))"
    )
    heavy = {"compressai", "torchmetrics", "torchjd", "faster_coco_eval", "torch.utils.flop_counter", "pandas", "scipy"}
    assert set(loaded(code, packet, " ".join(sorted(heavy)))) == set()
