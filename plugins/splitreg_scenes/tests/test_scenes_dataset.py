import subprocess
import sys

import numpy as np
import pytest
import torch
from splitreg_scenes.dataset import Scenes
from splitreg_scenes.rendering import FACTORS, KINDS, factors_of, grid_indexes

from splitreg.data.loading import Loader, LoaderOptions
from splitreg.errors import DataError
from splitreg.imaging import Preprocess
from splitreg.registry import discover
from splitreg.tasks import IGNORE


@pytest.fixture(scope="module")
def multi(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPLITREG_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        return Scenes(None, "val", size=32, count=40)


def test_specs_import_no_torch():
    code = "import sys, splitreg_datasets.specs; print('torch' in sys.modules, 'numpy' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False False"


def test_every_reader_is_found_and_loads():
    registry = discover()
    for name in ("scenes", "shapes3d", "coco", "voc", "camvid", "folder"):
        spec = registry.spec("dataset", name)
        assert spec.target.startswith("splitreg_scenes." if name == "scenes" else "splitreg_datasets.")
        assert registry.load(spec).__doc__


def test_targets_agree_with_each_other(multi):
    assert len(multi) == 40
    seen = torch.zeros(len(KINDS))
    for index in range(40):
        targets = multi[index].targets
        assert targets.keys() == multi.targets.keys()
        boxes, mask = targets["detection"], targets["segmentation"].mask
        present = set(boxes.labels.tolist())
        assert targets["multilabel"].present.tolist() == [float(kind in present) for kind in range(len(KINDS))]
        areas = boxes.masks.sum((1, 2))
        assert targets["classification"].index == int(boxes.labels[areas.argmax()])
        for label, area in zip(boxes.masks, boxes.labels, strict=True):
            assert (mask[label] == 2 + area).all()
        assert IGNORE not in mask
        assert (targets["depth"].depth > 0).all()
        seen += targets["multilabel"].present
    assert (seen > 0).all()


def test_the_single_mode_shows_the_six_factors():
    dataset = Scenes(None, "test", mode="single", size=16, count=6)
    assert dataset.targets.keys() == FACTORS.keys()
    assert [len(spec.labels) for spec in dataset.targets.values()] == list(FACTORS.values())
    for index in range(6):
        factors = {name: target.index for name, target in dataset[index].targets.items()}
        assert factors == factors_of(int(grid_indexes("test")[index]))


def test_noise_is_the_same_each_time_and_of_the_size_asked():
    plain = Scenes(None, "train", mode="single", size=32, count=6)
    noisy = Scenes(None, "train", mode="single", size=32, count=6, noise=0.3)
    changed = []
    for index in range(6):
        one, other = noisy[index].array(), plain[index].array()
        assert (one == noisy[index].array()).all()
        different = (one != other).any(-1)
        assert np.isin(one[different], [0, 255]).all()
        changed.append(different)
    assert np.mean(changed) == pytest.approx(0.3, abs=0.03)
    assert (changed[0] != changed[1]).any()


def test_defaults_of_describe_and_options_that_make_no_sense():
    assert "depth" in Scenes.describe(None)
    assert "scale" in Scenes.describe(None, mode="single", size=64)
    with pytest.raises(DataError, match="'single'"):
        Scenes.describe(None, mode="singel")
    with pytest.raises(DataError, match="noise"):
        Scenes(None, "train", size=16, count=1, noise=2)
    with pytest.raises(DataError, match="'vla'.*'val'"):
        Scenes(None, "vla", size=16, count=1)


def test_a_loader_with_workers_reads_it(multi):
    batches = Loader(multi, Preprocess(size=(32, 48)), LoaderOptions(batch_size=16, workers=1))
    assert sum(len(batch) for batch in batches) == 40


def test_every_split_may_have_its_own_count(tmp_path, monkeypatch):
    monkeypatch.setenv("SPLITREG_CACHE", str(tmp_path))
    options = {"size": 16, "mode": "single", "count": {"train": 3, "test": 2}}
    assert [len(Scenes(None, split, **options)) for split in ("train", "test")] == [3, 2]
    with pytest.raises(DataError, match="'tset'.*'test'"):
        Scenes(None, "train", size=16, count={"tset": 3})
    for wrong in ("x", 2.5, -1, True, {"train": "x"}):
        with pytest.raises(DataError, match="count"):
            Scenes(None, "train", size=16, count=wrong)
