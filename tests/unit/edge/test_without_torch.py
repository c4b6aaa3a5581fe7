"""The whole job in a process where nothing of the training side can be imported."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.bundles import save_with_onnx

import splitreg
from splitreg.assembly import EdgeModel
from splitreg.cli.edge_ import _PRECISIONS, _RUNTIMES
from splitreg.edge import RUNTIMES, EdgeEncoder

pytestmark = pytest.mark.integration

#: What a device has not got.
BLOCKED = (
    "torch",
    "torchvision",
    "timm",
    "compressai",
    "onnx",
    "lightning_fabric",
    "torchmetrics",
    "zstandard",
    "h5py",
)
HOOK = f"""
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Block())
"""


def make(folder, codec):
    bottleneck = {"name": "fp", "channels": 6, "hidden": 8, "from": "image"}
    heads = [{"name": "cls", "labels": 3}]
    model = splitreg.build(
        backbone="test_resnet", bottleneck=bottleneck, codec=codec, heads=heads, input={"size": [64, 96]}
    )
    return save_with_onnx(model, folder)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make(tmp_path_factory.mktemp("bundle") / "b", "rans")


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "photo.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((160, 120)).save(path)
    return path


def python(code, *arguments):
    command = [sys.executable, "-c", HOOK + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def cli(*arguments):
    return python("from splitreg.cli.main import main; main()", *arguments)


def test_the_library_encodes(bundle, photo, tmp_path):
    code = """
from splitreg.edge import EdgeEncoder
(packet,) = EdgeEncoder.open(sys.argv[1]).encode(sys.argv[2])
open(sys.argv[3], "wb").write(packet)
"""
    done = python(code, bundle, photo, tmp_path / "packet")
    assert done.returncode == 0, done.stderr
    packet = (tmp_path / "packet").read_bytes()
    assert packet == EdgeEncoder.open(bundle).encode(photo)[0]
    reference = EdgeModel.load(bundle).encode(photo)[0]
    assert packet[:20] == reference[:20] and abs(len(packet) - len(reference)) < 0.02 * len(reference) + 4


def test_the_command_encodes(bundle, photo, tmp_path):
    done = cli("edge", "encode", bundle, photo, "-o", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    packet = (tmp_path / "out" / "photo.splitreg").read_bytes()
    assert packet == EdgeEncoder.open(bundle).encode(photo)[0] and row["bytes"] == len(packet)
    assert os.listdir(tmp_path / "out") == ["photo.splitreg"]
    again = cli("edge", "encode", bundle, photo, photo, "-o", tmp_path / "one", "--batch")
    assert again.returncode == 0 and os.listdir(tmp_path / "one") == ["batch.splitreg"]
    other = cli("edge", "encode", bundle, photo, "-o", tmp_path / "out", "--size", "32", "64")
    assert other.returncode == 0 and (tmp_path / "out" / "photo.splitreg").stat().st_size < len(packet)


def test_the_command_describes(bundle):
    done = cli("edge", "info", bundle, "--json")
    properties = json.loads(done.stdout)
    assert (properties["input"], properties["codec"], properties["any_size"]) == ([64, 96], "rans", True)
    assert "any_size\ttrue" in cli("edge", "info", bundle).stdout.splitlines()


@pytest.mark.parametrize(
    ("arguments", "status", "fact"),
    [(("nothing", "PHOTO"), 1, "nothing"), (("BUNDLE", "gone.jpg"), 1, "gone.jpg"),
     (("BUNDLE", "PHOTO", "PHOTO"), 2, "photo.splitreg"),
     (("BUNDLE", "PHOTO", "--precision", "int8"), 1, "edge.int8.onnx"),
     (("BUNDLE", "PHOTO", "--runtime", "torch"), 2, "'torch'"), (("BUNDLE", "PHOTO", "--threads", "0"), 2, "threads")],
    ids=str,
)  # fmt: skip
def test_an_expected_error_is_one_line(arguments, status, fact, bundle, photo, tmp_path):
    paths = [{"BUNDLE": bundle, "PHOTO": photo}.get(argument, argument) for argument in arguments]
    done = cli("edge", "encode", *paths, "-o", tmp_path / "out")
    assert done.returncode == status and fact in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists() and not done.stdout


def test_a_codec_that_needs_torch_says_so(photo, tmp_path):
    done = cli("edge", "encode", make(tmp_path / "b", "compressai"), photo, "-o", tmp_path / "out")
    assert done.returncode == 1 and "'compressai'" in done.stderr and "pip install compressai" in done.stderr
    assert "'rans'" in done.stderr and "Traceback" not in done.stderr


def test_the_command_line_offers_what_the_library_has():
    assert _RUNTIMES == RUNTIMES and tuple(EdgeEncoder.FILES) == _PRECISIONS


@pytest.mark.parametrize("what", ["splitreg.edge", "splitreg.cli.edge_"])
def test_importing_it_costs_nothing_heavy(what):
    heavy = (*BLOCKED, "onnxruntime", "openvino", "PIL", "safetensors", "entrypoints")
    heavy += ("numpy",) if "cli" in what else ()
    done = python(f"sys.meta_path.pop(0); import {what}; print([m for m in {heavy} if m in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("what", ["splitreg.choosing", "splitreg.bench.compare", "splitreg.bench.curves"])
def test_results_are_read_without_torch(what):
    done = python(f"sys.meta_path.pop(0); import {what}; print([m for m in {BLOCKED} if m in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr


#: Names that Python 3.10, which devices run, has not got.
LATER = {
    ("typing", "Self"), ("typing", "Never"), ("typing", "assert_never"), ("typing", "Required"), ("typing", "NotRequired"),
    ("typing", "Unpack"), ("typing", "override"), ("enum", "StrEnum"), ("datetime", "UTC"), ("itertools", "batched"),
}  # fmt: skip


def test_what_a_device_imports_exists_in_python_310(bundle, photo):
    code = """
import splitreg.cli.edge_, splitreg.edge.sources, splitreg.edge.stream_client, splitreg.mqtt
from splitreg.edge import EdgeEncoder
EdgeEncoder.open(sys.argv[1]).encode(sys.argv[2])
print(*(module.__file__ for name, module in sys.modules.items() if name.startswith("splitreg")), sep="\\n")
"""
    done = python(code, bundle, photo)
    assert done.returncode == 0, done.stderr
    files = done.stdout.split()
    assert len(files) > 40
    for file in files:
        body = ast.parse(Path(file).read_text()).body  # imports for type checkers are inside of an if
        names = {(node.module, alias.name) for node in body if isinstance(node, ast.ImportFrom) for alias in node.names}
        assert not names & LATER, file
