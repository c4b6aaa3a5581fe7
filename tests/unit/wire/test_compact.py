"""Compact answers: what returns, what it costs, and damaged bytes."""

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.wire.test_answers import predictions

from splitreg.errors import CorruptAnswer
from splitreg.predictions import Classification, Detections, GenericPrediction, Segmentation
from splitreg.wire.compact import CompactReader, CompactWriter

NAMES = tuple("abcdefghij")


def detections(seed, count=6, moved=0.0):
    random = np.random.default_rng(seed)
    corners = random.uniform(0, 400, (count, 2))
    boxes = np.concatenate([corners, corners + random.uniform(8, 80, (count, 2))], axis=1) + moved
    scores = np.sort(random.uniform(0.3, 1, count))[::-1]
    return Detections(
        boxes=boxes.astype(np.float32),
        scores=scores.astype(np.float32),
        labels=random.integers(0, 10, count),
        names=NAMES,
    )


def same(restored, original):
    assert list(restored) == list(original)
    for head, prediction in original.items():
        arrays = restored[head].arrays()
        for name, array in prediction.arrays().items():
            if name == "mask" or head == "strange":
                np.testing.assert_array_equal(arrays[name], array)
            elif name == "depth":
                np.testing.assert_allclose(arrays[name], np.where(array > 0, array.clip(0.01, 400), 0), rtol=0.022)
            elif name == "image":
                np.testing.assert_array_equal(arrays[name], array)


def test_every_kind_returns():
    writer, reader = CompactWriter(), CompactReader()
    for seed in range(3):
        original = predictions(seed)
        same(reader.read(writer.write(original)), original)


def test_boxes_and_scores_are_within_half_a_step():
    original = detections(1)
    restored = CompactReader().read(CompactWriter().write({"det": original}))["det"]
    assert (
        np.abs(restored.boxes - original.boxes).max() <= 0.25
        and np.abs(restored.scores - original.scores).max() <= 0.5 / 63
    )
    np.testing.assert_array_equal(restored.labels, original.labels)
    assert restored.names == NAMES and restored.threshold == original.threshold


def test_the_order_of_the_best_classes_is_kept():
    for seed in range(20):
        probabilities = np.random.default_rng(seed).dirichlet(np.full(10, 0.3)).astype(np.float32)
        answer = Classification(probabilities=probabilities, names=NAMES)
        restored = CompactReader().read(CompactWriter().write({"cls": answer}))["cls"]
        assert restored.index == answer.index and restored.probabilities.sum() == pytest.approx(1, abs=1e-5)
        best = np.argsort(-probabilities)[:5]
        assert np.abs(restored.probabilities - probabilities)[best].max() < 0.01


def test_what_does_not_change_costs_four_bytes_per_head():
    writer, reader = CompactWriter(), CompactReader()
    answer = {"det": detections(2), "seg": Segmentation(mask=np.eye(40, dtype=np.uint8), names=NAMES)}
    first, second = writer.write(answer), writer.write(answer)
    assert len(second) <= 2 + 4 * 2 < len(first)
    same(reader.read(first), answer)
    same(reader.read(second), answer)


def test_moved_boxes_cost_less_than_new_ones():
    writer, reader = CompactWriter(), CompactReader()
    first = writer.write({"det": detections(3)})
    second = writer.write({"det": detections(3, moved=1.0)})
    assert len(second) < 0.75 * len(CompactWriter(zlib.crc32(b"")).write({"det": detections(3, moved=1.0)}))
    reader.read(first)
    assert np.abs(reader.read(second)["det"].boxes - detections(3, moved=1.0).boxes).max() <= 0.25


def test_known_tables_are_not_sent():
    reader = CompactReader()
    reader.read(CompactWriter().write({"det": detections(1)}))
    known = zlib.crc32(reader.tables)
    data = CompactWriter(known).write({"det": detections(2)})
    assert len(data) < len(CompactWriter().write({"det": detections(2)})) - 30
    assert CompactReader(reader.tables).read(data)["det"].names == NAMES
    with pytest.raises(CorruptAnswer):
        CompactReader().read(data)
    other = CompactWriter(known).write({"seg": Segmentation(mask=np.eye(3, dtype=np.uint8), names=NAMES)})
    assert list(CompactReader(reader.tables).read(other)) == ["seg"]


def test_a_head_that_appears_later_is_added():
    writer, reader = CompactWriter(), CompactReader()
    for heads in ({"det": detections(1)}, {"det": detections(2), "more": detections(3)}, {"more": detections(4)}):
        assert list(reader.read(writer.write(heads))) == list(heads)


@given(data=st.binary(max_size=80), follows=st.booleans())
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_an_answer_or_one_error(data, follows):
    reader = CompactReader()
    if follows:
        reader.read(CompactWriter().write(predictions()))
    try:
        reader.read(data)
    except CorruptAnswer:
        pass


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=200, deadline=None)
def test_damaged_answers_are_an_answer_or_one_error(seed):
    random = np.random.default_rng(seed)
    writer, reader = CompactWriter(), CompactReader()
    if random.random() < 0.5:
        reader.read(writer.write(predictions(1)))
    data = bytearray(writer.write(predictions(2)))
    for _ in range(random.integers(1, 4)):
        data[random.integers(len(data))] = random.integers(256)
    try:
        for prediction in reader.read(bytes(data[: random.integers(len(data) + 1)])).values():
            assert isinstance(prediction, GenericPrediction) or prediction.meta()
    except CorruptAnswer:
        pass
