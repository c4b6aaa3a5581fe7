"""The checks find what works only in the author's own process."""

import json
import os
import subprocess
import sys

import pytest
from support import third_party

from splitreg.registry import discover
from splitreg.testing import run

pytestmark = pytest.mark.integration

CODEC = """
import numpy as np
from splitreg.{module} import Codec
from splitreg.errors import CorruptPacket

class Bytes(Codec):
    max_bits = 8

    def encode(self, symbols, model):
        return model.check_symbols(symbols, self.max_bits).astype(np.uint8).tobytes() + b"."

    def decode(self, payload, shape, model):
        model.check_shape(shape)
        count = int(np.prod(shape))
        if {condition}:
            raise CorruptPacket("wrong length or end")
        symbols = np.frombuffer(payload[:count], np.uint8).astype(np.int32).reshape(shape)
        return model.check_decoded(symbols)
"""
STRICT = "len(payload) != count + 1 or payload[-1:] != b'.'"
HEAD = """
import torch
from torch import nn
from splitreg.interfaces import Head
from acme_split.data import Number, Numbers

class NumberHead(Head):
    task = "number"
    needs = (32,)
    primary = "score"

    def __init__(self, features, labels):
        super().__init__()
        self.layer = nn.Linear(features[32].channels, 2)

    @classmethod
    def select(cls, available):
        return (max(available),)

    def forward(self, features, image_size):
        return self.layer(features[max(features)].mean((2, 3)))

    def loss(self, output, targets):
        return {"mse": (output[:, 0] - targets[0].no_such_field).square().mean()}

    def predict(self, output):
        return [Numbers(value=row.float().cpu().numpy()) for row in output]

    truth = metric = None
"""
DATA = """
from dataclasses import dataclass
import numpy as np
import torch
from torchvision import tv_tensors
from splitreg.errors import DataError
from splitreg.interfaces import Dataset
from splitreg.specs import TargetSpec
from splitreg.tasks import Prediction, Sample, Target

@dataclass(frozen=True, kw_only=True)
class Number(Target):
    value: float

@dataclass(frozen=True, kw_only=True)
class Numbers(Prediction):
    value: np.ndarray
    def restore(self, geometry): return self
    def draw(self, image): return image.copy()
    def to_json(self): return {"value": self.value.tolist()}
    def arrays(self): return {"value": self.value}

class NumberData(Dataset):
    targets = {"number": TargetSpec(task="number", labels=("one", "two"))}

    def __init__(self, root, split, *, count=4):
        if root is None or split != "train":
            raise DataError(f"no folder, or no split {split!r}")
        self.count = count

    @classmethod
    def describe(cls, root, count=4):
        if root is None:
            raise DataError("a folder is needed")
        return cls.targets

    def __len__(self): return self.count

    def __getitem__(self, index):
        if index >= self.count:
            raise IndexError(index)
        image = tv_tensors.Image(torch.full((3, 20, 30), index, dtype=torch.uint8))
        return Sample(image=image, targets={"number": Number(value=float(index))}, name=str(index))
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    def write(condition=STRICT, module="coding"):
        third_party.write_package(
            tmp_path,
            {"codec": CODEC.format(module=module, condition=condition), "head": HEAD, "data": DATA},
            {"codec": {"bytes": "codec:Bytes"}, "head": {"number": "head:NumberHead"},
             "dataset": {"numbers": "data:NumberData"}},
        )  # fmt: skip
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
        discover.cache_clear()

    yield write
    discover.cache_clear()
    third_party.forget()


def checks(kind, name, **options):
    return {result.name: result for result in run(kind, name, **options)}


def test_a_strict_codec_without_torch_passes(write):
    write()
    results = checks("codec", "bytes")
    assert not [(r.name, r.reason) for r in results.values() if not r.passed]
    assert not results["runs without torch"].reason


def test_a_codec_that_imports_torch_fails_on_a_device(write):
    write(module="interfaces")
    result = checks("codec", "bytes")["runs without torch"]
    assert not result.passed and "torch" in result.reason and "acme_split/codec.py:3" in result.reason


def test_a_codec_that_ignores_bytes_after_the_end_is_reported(write):
    write(condition="len(payload) <= count or payload[count:count + 1] != b'.'")
    result = checks("codec", "bytes")["payloads that it never writes"]
    assert not result.passed and "CorruptPacket" in result.reason


def test_a_codec_that_accepts_changed_payloads_is_remarked_on(write):
    write(condition="len(payload) != count + 1")
    result = checks("codec", "bytes")["payloads that it never writes"]
    assert result.passed and "never writes" in result.reason and not result.reason.startswith("skipped")


def test_a_broken_loss_of_a_new_task_fails_with_and_without_a_dataset(write, tmp_path):
    write()
    alone = checks("head", "number")["loss and gradients"]
    assert not alone.passed and "'number'" in alone.reason and "make_target" in alone.reason
    results = checks("head", "number", root=str(tmp_path))
    assert not results["loss and gradients"].passed and "no_such_field" in results["loss and gradients"].reason
    assert results["predictions"].passed, results["predictions"].reason


def test_check_passes_root_and_options_to_a_dataset(write, tmp_path):
    write()
    done = subprocess.run(
        [sys.executable, "-m", "splitreg", "check", "dataset:numbers", "--root", tmp_path, "--set", "count=2", "--json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(row["passed"] for row in json.loads(done.stdout))
