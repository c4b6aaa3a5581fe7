"""``splitreg build --calibrate``: a bundle from images, without training."""

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from splitreg.assembly import load
from splitreg.cli.main import cli

SMALL = ["--backbone", "mobilenetv3_small_050", "--heads", "cls", "--input", "64x64", "--bottleneck", "calibrated"]


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "inner").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for index in range(6):
        pixels = generator.integers(0, 255, (8, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(pixels).save(folder / ("inner" if index % 2 else ".") / f"{index}.png")
    return folder


def test_it_writes_a_bundle_with_a_choice_of_rates(tmp_path, photos):
    output = tmp_path / "bundle"
    result = CliRunner().invoke(cli, ["build", *SMALL, "--calibrate", str(photos), "-o", str(output)])
    assert result.exit_code == 0, result.output
    model = load(output)
    image = np.asarray(Image.open(photos / "0.png"))
    sizes = [len(model.edge.encode([image], rate=rate)[0]) for rate in (0.0, 1.0)]
    assert sizes[0] < sizes[1]


def test_a_folder_without_images(tmp_path):
    (tmp_path / "empty").mkdir()
    result = CliRunner().invoke(cli, ["build", *SMALL, "--calibrate", str(tmp_path / "empty")])
    assert result.exit_code == 2 and "empty" in result.output
