import subprocess
import sys

import numpy as np
import pytest
import torch
from splitreg_scenes.dataset import Scenes
from splitreg_scenes.rendering import FACTORS, KINDS, factors_of, grid_indexes, rendering, video_clip

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


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPLITREG_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        return Scenes(None, "val", mode="video", size=48, count=150)


@pytest.mark.integration
def test_clips_of_a_video(video):
    assert [(clip.name, len(clip.frames), clip.rate) for clip in video.clips] == [
        ("val-00000", 64, 10.0), ("val-00001", 64, 10.0), ("val-00002", 22, 10.0),
    ]  # fmt: skip
    assert [video[index].name for index in (0, 63, 64)] == ["val-00000-00", "val-00000-63", "val-00001-00"]
    assert Scenes(None, "val", mode="multi", size=16, count=1).clips == ()


def test_identities_masks_and_depth_of_a_video_are_exact(video):
    kinds = {}
    for index in range(len(video)):
        targets = video[index].targets
        boxes, mask, depth = targets["detection"], targets["segmentation"].mask, targets["depth"].depth
        assert len(set(boxes.identities.tolist())) == len(boxes.labels)
        assert (depth > 0).all()
        covered = torch.zeros_like(mask, dtype=torch.bool)
        for box, pixels, label, number, crowd in zip(
            boxes.boxes.tolist(), boxes.masks, boxes.labels, boxes.identities.tolist(), boxes.crowd, strict=True
        ):
            assert kinds.setdefault((index // 64, number), int(label)) == label, "a solid keeps its class"
            x0, y0, x1, y1 = map(int, box)
            assert pixels[y0:y1, x0:x1].sum() == pixels.sum() > 0
            assert pixels[y0].any() and pixels[y1 - 1].any() and pixels[:, x0].any() and pixels[:, x1 - 1].any()
            assert (mask[pixels] == 2 + label).all()
            assert bool(crowd) == (pixels.sum() < 0.002 * mask.numel())
            covered |= pixels
        assert ((mask >= 2) == covered).all(), "every visible solid has a box"
        certain = set(boxes.labels[~boxes.crowd].tolist())
        assert {k for k, p in enumerate(targets["multilabel"].present.tolist()) if p == 1} == certain


def test_a_video_moves_smoothly(video):
    for clip in video.clips:
        before = {}
        for index in clip.frames:
            boxes = video[index].targets["detection"]
            centres = (boxes.boxes[:, :2] + boxes.boxes[:, 2:]) / 2
            now = dict(zip(boxes.identities.tolist(), centres, strict=True))
            for number in now.keys() & before.keys():
                assert (now[number] - before[number]).abs().max() < 8, "pixels of 48"
            before = now
    moved = np.abs(video[0].array().astype(int) - video[30].array()).mean()
    assert moved > 1


def test_a_clip_depends_on_its_key_alone():
    one, other = (rendering("video", "train", 70, size=(24, 24), seed=seed).image for seed in (0, 1))
    assert (one != other).any()
    for position in (200, 70):
        again = rendering("video", "train", position, size=(24, 24))
    assert (again.image == one).all()


def test_solids_of_a_clip_never_touch_and_stay_away_from_the_camera():
    for seed in range(12):
        clip = video_clip(np.random.default_rng(seed))
        assert len(clip.motions) == len(clip.start.solids) >= 2
        eyes = clip.eyes()[:, [0, 2]]
        places = [m.positions(s) for m, s in zip(clip.motions, clip.start.solids, strict=True)]
        for i, one in enumerate(places):
            assert np.hypot(*(one - eyes).T).min() > 0.8
            assert (np.abs(one) < 5.4).all(), "inside the smallest room"
            for other in places[:i]:
                assert np.hypot(*(one - other).T).min() > 0.05
        scene = clip.scene(40)
        assert scene.solids[0].centre[[0, 2]] == pytest.approx(places[0][40], abs=1e-4)


def test_cameras_move_in_some_clips():
    moving = [np.ptp(video_clip(np.random.default_rng(seed)).eyes(), axis=0).max() > 0.01 for seed in range(20)]
    assert 4 < sum(moving) < 16
