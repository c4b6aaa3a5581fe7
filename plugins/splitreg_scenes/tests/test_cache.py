import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from splitreg_scenes import cache as caching
from splitreg_scenes.cache import SHARD, SceneCache, SceneReader
from splitreg_scenes.rendering import rendering

from splitreg.errors import DataError

pytestmark = pytest.mark.integration


def small(count=5, **options):
    return SceneCache(mode="multi", split="train", size=(16, 16), count=count, **options)


def test_the_cache_holds_what_is_rendered():
    cache = small(SHARD + 2)
    cache.fill(workers=1)
    reader = SceneReader(cache)
    for position in (0, 1, SHARD, SHARD + 1):
        direct, stored = rendering("multi", "train", position, size=(16, 16)), reader[position]
        assert (stored.image == direct.image).all()
        assert (stored.surface == direct.surface).all()
        assert (stored.kinds == direct.kinds).all()
        assert np.abs(stored.depth - direct.depth).max() <= 0.00051
    with pytest.raises(IndexError):
        reader[SHARD + 2]


def test_a_filled_cache_is_not_rendered_again(monkeypatch):
    small().fill()
    monkeypatch.setattr(caching, "rendering", None)
    cache = small(3)  # another count, the same shards
    cache.fill()
    assert SceneReader(cache)[2].image.shape == (16, 16, 3)


def test_another_seed_size_or_split_is_another_folder():
    homes = {small().home, small(seed=1).home, SceneCache(mode="multi", split="val", size=(16, 16), count=5).home}
    assert len(homes) == 3


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "foreign"])
def test_a_damaged_shard_is_rendered_again(damage):
    cache = small()
    cache.fill()
    before = SceneReader(cache)[4].image
    shard = cache.home / "00000.npy"
    data = bytearray(shard.read_bytes())
    if damage == "flipped":
        record = (len(data) - 128) // SHARD
        data[len(data) - record * (SHARD - 4) + 100] ^= 255  # within the image of record 4
        assert (np.load(shard)["image"][4] == before).all()
    damaged = {"cut": data[: len(data) // 2], "flipped": data, "empty": b"", "foreign": b"\x93NUMPY nothing"}[damage]
    shard.write_bytes(damaged)
    reader = SceneReader(cache)
    assert (reader[4].image == before).all()
    assert (np.load(shard)["image"][4] == before).all(), "the file is whole again"


def test_two_processes_may_fill_it_at_once():
    code = (
        "from splitreg_scenes.cache import SceneCache\n"
        "SceneCache(mode='multi', split='train', size=(16, 16), count=130).fill(workers=2)"
    )
    running = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [process.wait() for process in running] == [0, 0]
    cache = small(130)
    assert sorted(path.name for path in cache.home.iterdir()) == [f"{i:05d}.npy" for i in range(3)]
    reader = SceneReader(cache)
    assert (reader[129].image == rendering("multi", "train", 129, size=(16, 16)).image).all()


def test_helpers_render_shards():
    cache = small(4 * SHARD)
    with cache._helpers(2):
        for _ in range(3000):
            if cache.open(3) is not None:  # a helper begins at the end
                break
            time.sleep(0.01)
        assert cache.open(3) is not None
    assert not list(cache.home.glob(".*")), "a helper that is stopped leaves no partial file"


@pytest.mark.parametrize(("shards", "workers"), [(1, 1), (7, 1), (7, 2), (10, 3), (2, 4)])
def test_every_worker_goes_through_all_shards_in_an_order_of_its_own(shards, workers):
    orders = [caching._order(shards, worker, workers) for worker in range(workers)]
    assert all(sorted(order) == list(range(shards)) for order in orders)
    assert len({order[0] for order in orders}) == min(shards, workers)


def test_a_cache_that_cannot_be_written_says_what_to_do(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(DataError, match="SPLITREG_CACHE"):
        small(folder=blocked).fill()


def test_progress_goes_to_stderr_on_a_terminal_only(capfd, monkeypatch):
    small().fill()
    assert capfd.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    small(seed=1).fill(progress=False)
    assert capfd.readouterr() == ("", "")
    small(seed=2).fill()
    out, err = capfd.readouterr()
    assert out == ""
    assert "rendering" in err


def test_a_reader_can_be_pickled():
    cache = small()
    cache.fill()
    reader = SceneReader(cache)
    before = reader[0].image
    assert (pickle.loads(pickle.dumps(reader))[0].image == before).all()


@pytest.mark.parametrize(
    "wrong", [{"count": 0}, {"size": (4, 16)}, {"seed": -1}, {"split": "tests"}, {"mode": "single", "count": 400_000}]
)
def test_options_that_make_no_sense(wrong):
    with pytest.raises(DataError):
        SceneCache(**{"mode": "multi", "split": "train", "size": (16, 16), "count": 5, **wrong})


def test_the_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("SPLITREG_CACHE", str(tmp_path / "elsewhere"))
    assert small().home.is_relative_to(tmp_path / "elsewhere")
    monkeypatch.delenv("SPLITREG_CACHE")
    assert caching.cache_folder() == Path.home() / ".cache" / "splitreg"
