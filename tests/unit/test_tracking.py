"""Tracking: the assignment, the Kalman filter, and identities over frames."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from scipy.optimize import linear_sum_assignment

from splitreg.errors import RecipeError
from splitreg.predictions import Detections
from splitreg.tracking import Tracker, TrackerOptions, assign

NAMES = ("person", "car")


def detections(boxes, scores=None, labels=None):
    count = len(boxes)
    return Detections(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.array([0.9] * count if scores is None else scores, np.float32),
        labels=np.array([0] * count if labels is None else labels, np.int64),
        names=NAMES,
    )


def box(x, y=0.0, side=10.0):
    return [x, y, x + side, y + side]


def ids(result):
    return dict(zip(result.boxes[:, 0].tolist(), result.identities.tolist(), strict=True))


@given(st_numpy.arrays(np.float64, st.tuples(st.integers(0, 7), st.integers(0, 7)), elements=st.integers(0, 9)))
def test_the_assignment_is_as_cheap_as_scipys(cost):
    rows, columns = assign(cost)
    assert len(rows) == min(cost.shape) and (np.diff(rows) > 0).all() and len(set(columns.tolist())) == len(columns)
    assert cost[rows, columns].sum() == cost[linear_sum_assignment(cost)].sum()


@given(
    st_numpy.arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(1, 5)), elements=st.floats(0, 2)),
    st.floats(0.1, 2),
)
def test_leaving_out_a_pair_costs_the_limit(cost, limit):
    rows, columns = assign(cost, limit)
    assert (cost[rows, columns] < limit).all()
    padded = np.full((10, 10), limit / 2)  # the extended problem: everything may stay alone, for half the limit
    padded[: cost.shape[0], : cost.shape[1]] = cost
    padded[cost.shape[0] :, cost.shape[1] :] = 0
    best = padded[linear_sum_assignment(padded)].sum()
    alone = cost.shape[0] + cost.shape[1] - 2 * len(rows)
    assert cost[rows, columns].sum() + alone * limit / 2 == pytest.approx(best)


def test_two_objects_that_pass_each_other_keep_their_identities():
    tracker = Tracker()
    for step in range(40):
        result = tracker.update(detections([box(2 * step), box(100 - 2 * step, y=4)]))
        assert ids(result) == {2.0 * step: 1, 100.0 - 2 * step: 2}
    assert sorted(result.identities.tolist()) == [1, 2]


def test_an_object_is_reported_when_it_is_seen_twice():
    tracker = Tracker()
    assert ids(tracker.update(detections([box(0)]))) == {0: 1}, "the first frame is taken as it is"
    assert ids(tracker.update(detections([box(0), box(50)]))) == {0: 1}
    assert ids(tracker.update(detections([box(0), box(50)]))) == {0: 1, 50: 2}
    assert ids(tracker.update(detections([box(0), box(50), box(90)]))) == {0: 1, 50: 2}
    tracker.update(detections([box(0), box(50)]))
    assert ids(tracker.update(detections([box(0), box(50), box(90)]))) == {0: 1, 50: 2}, "not twice in a row"
    eager = Tracker(TrackerOptions(min_hits=1))
    eager.update(detections([]))
    assert ids(eager.update(detections([box(7)]))) == {7: 1}


def test_low_scores_continue_a_track_but_start_none():
    tracker = Tracker()
    tracker.update(detections([box(0)]))
    assert ids(tracker.update(detections([box(1), box(50)], [0.15, 0.4]))) == {1: 1}
    assert ids(tracker.update(detections([box(2), box(50)], [0.05, 0.4]))) == {}
    assert ids(tracker.update(detections([box(3), box(50)], [0.2, 0.4]))) == {}, "a lost track needs a high score"
    assert ids(tracker.update(detections([box(4), box(50)], [0.9, 0.55]))) == {4: 1}


@pytest.mark.parametrize(("gap", "same"), [(5, True), (20, True), (31, False)])
def test_an_object_that_returns_in_time_is_the_same(gap, same):
    tracker = Tracker()
    for step in range(5):
        tracker.update(detections([box(step)]))
    for _ in range(gap):
        assert not len(tracker.update(detections([])).boxes)
    for _ in range(2):
        result = tracker.update(detections([box(4 + 0.5 * gap, side=11)]))
    assert (result.identities.tolist() == [1]) is same and len(result.identities) == 1


def test_models_with_low_scores_are_tracked_too():
    tracker = Tracker(TrackerOptions(high_score=0.05, low_score=0.02, new_score=0.1))
    tracker.update(detections([box(0), box(50)], [0.12, 0.1]))
    assert ids(tracker.update(detections([box(1), box(50)], [0.1, 0.06]))) == {1: 1, 50: 2}


def test_dropped_frames_are_skipped_in_time():
    tracker, blind = Tracker(), Tracker()
    for step in range(10):
        for one in (tracker, blind):
            one.update(detections([box(4 * step)]))
    later = detections([box(4 * 14)])  # five frames later, 20 pixels further
    assert tracker.update(later, frames=5).identities.tolist() == [1]
    assert blind.update(later).identities.tolist() == []
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(RecipeError, match="frames"):
            tracker.update(later, frames=wrong)


def test_classes_are_apart_unless_told():
    for by_class, expected in ((True, []), (False, [1])):
        tracker = Tracker(TrackerOptions(by_class=by_class))
        tracker.update(detections([box(0)]))
        assert tracker.update(detections([box(0)], labels=[1])).identities.tolist() == expected


def test_a_reset_uses_no_identity_again():
    tracker = Tracker()
    tracker.update(detections([box(0)]))
    tracker.reset()
    assert tracker.update(detections([box(0)])).identities.tolist() == [2]


def test_boxes_that_are_none_are_left_out():
    tracker = Tracker()
    bad = [[0, 0, 0, 5], [5, 5, 1, 9], [np.nan, 0, 1, 1], [0, 0, np.inf, 9]]
    assert tracker.update(detections([*bad, box(3)])).boxes.tolist() == [box(3)]
    assert tracker.update(detections([box(3)], [np.nan])).identities.tolist() == []


@pytest.mark.parametrize(
    "wrong", [{"high_score": 1.5}, {"low_score": 0.7}, {"min_iou": -1}, {"max_lost": -1}, {"min_hits": 0}]
)
def test_options_out_of_range(wrong):
    with pytest.raises(RecipeError, match=next(iter(wrong))):
        TrackerOptions(**wrong)


FRAMES = st.lists(
    st.lists(
        st.tuples(
            st.floats(-20, 100, width=32), st.floats(-20, 100, width=32), st.floats(0, 60, width=32),
            st.floats(0, 60, width=32), st.floats(0, 1, width=32), st.integers(0, 1),
        ),
        max_size=6,
    ),
    max_size=8,
)  # fmt: skip


def from_rows(rows):
    table = np.array(rows, np.float32).reshape(-1, 6)
    corners = np.column_stack([table[:, :2], table[:, :2] + table[:, 2:4]])
    return detections(corners, table[:, 4], table[:, 5].astype(np.int64))


@given(FRAMES, st.integers(0, 3), st.integers(1, 3), st.booleans())
@settings(deadline=None)
def test_identities_are_unique_stable_and_increase(clip, max_lost, min_hits, by_class):
    options = TrackerOptions(max_lost=max_lost, min_hits=min_hits, by_class=by_class)
    one, other = Tracker(options), Tracker(options)
    largest = 0
    for rows in clip:
        before = from_rows(rows)
        boxes = before.boxes.copy()
        result = one.update(before)
        assert (before.boxes == boxes).all() and before.identities is None
        numbers = result.identities.tolist()
        assert len(set(numbers)) == len(numbers) == len(result.boxes) == len(result.scores) == len(result.labels)
        assert all(number >= 1 for number in numbers)
        new = sorted(number for number in numbers if number > largest)
        largest = max([largest, *numbers])
        assert new == [] or new[0] >= 1
        given_rows = {tuple(row) for row in before.boxes.tolist()}
        assert all(tuple(row) in given_rows for row in result.boxes.tolist())
        again = other.update(before)
        assert again.identities.tolist() == numbers and (again.boxes == result.boxes).all()
        state = [track.state for track in one._tracks]
        assert all(np.isfinite(values).all() and (values[[2, 4]] > 0).all() for values in state)
    assert len(one._tracks) <= sum(map(len, clip))


@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=7, unique=True),
    st.tuples(st.floats(-1.5, 1.5), st.floats(-1.5, 1.5)), st.randoms(),
)  # fmt: skip
@settings(deadline=None, max_examples=40)
def test_the_order_of_detections_does_not_matter(places, speed, random):
    tracker = Tracker()
    objects = [(60.0 * place, 40.0 * place) for place in places]
    first = None
    for step in range(12):
        boxes = [box(x + speed[0] * step, y + speed[1] * step, side=20) for x, y in objects]
        order = list(range(len(boxes)))
        random.shuffle(order)
        result = tracker.update(detections([boxes[i] for i in order]))
        numbers = {order[row]: n for row, n in enumerate(result.identities.tolist())}
        first = first or numbers
        assert numbers == first and len(numbers) == len(objects)


def test_tracked_detections_print_draw_and_filter():
    tracked = Tracker().update(detections([box(0), box(50)], [0.9, 0.7], [1, 0]))
    assert [item["id"] for item in tracked.to_json()["objects"]] == [1, 2]
    assert tracked.above(0.8).identities.tolist() == [1]
    assert tracked.arrays()["identities"].tolist() == [1, 2]
    plain = dataclasses.replace(tracked, identities=None)
    assert "id" not in plain.to_json()["objects"][0] and "identities" not in plain.arrays()
    canvas = np.zeros((260, 260, 3), np.uint8)
    assert (tracked.draw(canvas) != plain.draw(canvas)).any()


def test_a_device_needs_numpy_only():
    code = "import sys, splitreg.tracking; print({'torch', 'scipy', 'PIL'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
