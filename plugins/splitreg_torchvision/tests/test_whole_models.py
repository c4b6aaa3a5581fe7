"""Whole models of torchvision become bundles, and only a new bottleneck is trained."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from splitreg_torchvision.tests.test_parity import CLASSES, SIZE, answer, detector, normalised, predict, same, save
from torchvision import models

from splitreg.assembly import load
from splitreg.cli.import_ import command
from splitreg.errors import CheckpointError
from splitreg.interop import import_checkpoint
from splitreg.recipe import Recipe
from splitreg.training import TrainOptions, train

pytestmark = pytest.mark.integration

INPUT = {"size": list(SIZE), "mode": "resize"}
