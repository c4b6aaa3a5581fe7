import errno
import json
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splitreg.errors import TrainingError
from splitreg.training.checkpoint import Checkpoints, flatten, from_bytes, to_bytes, unflatten

LEAVES = st.one_of(st.none(), st.booleans(), st.integers(-(2**40), 2**40), st.floats(), st.text(max_size=5))
KEYS = st.one_of(st.text(max_size=4), st.integers(0, 9), st.just("$tensor"), st.just("$tuple"))
NESTED = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.lists(inner, max_size=3).map(tuple), st.dictionaries(KEYS, inner, max_size=3)
    ),
    max_leaves=8,
)


def state(value=1.0):
    weights = torch.arange(6.0).reshape(2, 3) * value
    return {
        "weights": weights, "again": weights, "view": weights.t(), "half": weights.bfloat16(), "count": torch.tensor(3),
        "none": torch.zeros(0, 4), "optimizer": {"state": {0: {"step": torch.tensor(2.0)}}, "betas": (0.9, 0.99)}, "x": value,
    }  # fmt: skip


@given(NESTED)
@settings(max_examples=100, deadline=None)
def test_any_plain_state_survives(value):
    tensors, rest = flatten(value)
    assert repr(unflatten(tensors, json.loads(json.dumps(rest, allow_nan=False)))) == repr(value)


def test_tensors_survive_bit_for_bit_even_where_they_share_memory():
    found = from_bytes(to_bytes(state()))
    for key in ("weights", "again", "view", "half", "count", "none"):
        assert found[key].dtype == state()[key].dtype and torch.equal(found[key], state()[key])
    assert found["optimizer"]["betas"] == (0.9, 0.99) and found["optimizer"]["state"][0]["step"] == 2
    assert found["x"] == 1.0 and found.keys() == state().keys()


def test_what_is_not_plain_is_refused_by_name():
    with pytest.raises(TrainingError, match="optimizer/hook.*function"):
        to_bytes({"optimizer": {"hook": test_what_is_not_plain_is_refused_by_name}})


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_damaged_byte_is_noticed(data):
    good = to_bytes(state())
    bad = bytearray(good)
    bad[data.draw(st.integers(0, len(good) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(TrainingError):
        from_bytes(bytes(bad))


@given(st.integers(0, 2000), st.binary(max_size=4))
@settings(max_examples=60, deadline=None)
def test_cut_short_lengthened_or_foreign_bytes_are_refused(length, more):
    good = to_bytes(state())
    for bad in (good[: min(length, len(good) - 1)], good + more + b"\0", more):
        with pytest.raises(TrainingError):
            from_bytes(bad)


def test_the_last_two_stay_and_a_damaged_one_gives_way_to_the_one_before(tmp_path):
    store = Checkpoints(tmp_path)
    for step in (1, 5, 20):
        store.save(step, state(step))
    assert [path.name for path in store.paths()] == ["step-00000005.safetensors", "step-00000020.safetensors"]
    newest = store.paths()[-1]
    newest.write_bytes(newest.read_bytes()[:-7])
    found, path, damaged = store.load()
    assert found["x"] == 5 and path.name == "step-00000005.safetensors"
    assert len(damaged) == 1 and "step-00000020.safetensors" in damaged[0]
    store.save(6, state(6))
    assert store.load()[0]["x"] == 6, "the damaged one must not hide what comes after"


def test_nothing_whole_is_an_error_that_says_so(tmp_path):
    store = Checkpoints(tmp_path)
    with pytest.raises(TrainingError, match="resume"):
        store.load()
    store.save(1, state()).write_bytes(b"")
    with pytest.raises(TrainingError, match="step-00000001.safetensors"):
        store.load()


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_is_a_typed_error_and_leaves_the_previous_checkpoint(tmp_path, monkeypatch, call):
    store = Checkpoints(tmp_path)
    store.save(1, state(1.0))

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, full)
        with pytest.raises(TrainingError, match="step-00000002.safetensors: No space left"):
            store.save(2, state(2.0))
    assert store.load()[0]["x"] == 1.0
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001.safetensors"], "no half-written file may stay"
