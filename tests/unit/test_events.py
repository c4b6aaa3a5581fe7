"""Events: zones, delays, counts."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitreg.errors import RecipeError
from splitreg.events import COUNT, ENTER, LEAVE, EventLog, EventOptions, Zone
from splitreg.predictions import Detections

AT_ONCE = {"enter_s": 0.0, "leave_s": 0.0, "margin": 0.0}


def tracked(*objects):
    """(identity, x, y of the bottom's middle, label) per object."""
    return Detections(
        boxes=np.array([[x - 5, y - 10, x + 5, y] for _, x, y, *_ in objects], np.float32).reshape(-1, 4),
        scores=np.ones(len(objects), np.float32),
        labels=np.array([rest[0] if rest else 0 for _, _, _, *rest in objects], np.int64),
        names=("person", "car"),
        identities=np.array([identity for identity, *_ in objects], np.int64),
    )


def short(events):
    return [(e.kind, e.zone, e.label, e.count if e.kind == COUNT else e.identity) for e in events]


def test_an_object_enters_and_leaves_a_zone():
    log = EventLog(EventOptions(zones=(Zone.parse("door=0,0,50,100"),), **AT_ONCE))
    assert short(log.update(tracked((7, 60, 50)), 0.0)) == []
    assert short(log.update(tracked((7, 40, 50)), 0.1)) == [
        (ENTER, "door", "person", 7), (COUNT, "door", "person", 1),
    ]  # fmt: skip
    assert short(log.update(tracked((7, 30, 50), (8, 20, 20, 1)), 0.2)) == [
        (ENTER, "door", "car", 8), (COUNT, "door", "car", 1),
    ]  # fmt: skip
    assert log.counts == {("door", "person"): 1, ("door", "car"): 1}
    events = log.update(tracked((8, 20, 20, 1), (7, 70, 50)), 0.3)
    assert short(events) == [(LEAVE, "door", "person", 7), (COUNT, "door", "person", 0)]
    assert events[0].stayed_s == pytest.approx(0.1) and events[0].box == (25, 40, 35, 50), "where it was seen last"
    assert short(log.finish()) == [(LEAVE, "door", "car", 8), (COUNT, "door", "car", 0)]
    assert log.finish() == [] and log.counts == {}


def test_events_wait_until_an_object_stays():
    log = EventLog(EventOptions(zones=(Zone.parse("a=0,0,50,100"),), enter_s=0.25, leave_s=0.5, margin=5))

    def run(*steps):
        return [short(log.update(tracked(*([(1, x, 50)] if x is not None else [])), t)) for t, x in steps]

    assert run((0.0, 40), (0.1, 60), (0.2, 40), (0.3, 45)) == [[]] * 4, "it was outside in between"
    assert run((0.5, 45))[0][0] == (ENTER, "a", "person", 1)
    assert run((0.6, 54), (1.5, 54)) == [[]] * 2, "within the margin"
    assert run((1.6, 60), (2.0, None)) == [[]] * 2
    assert run((2.1, None))[0] == [(LEAVE, "a", "person", 1), (COUNT, "a", "person", 0)]
    assert run((2.2, 54), (3.0, 54)) == [[]] * 2, "the margin lets nobody in"


def test_without_zones_the_whole_image_counts():
    log = EventLog(EventOptions(labels=("car",), **AT_ONCE))
    assert short(log.update(tracked((1, -900, 5), (2, 900, 5, 1)), 0)) == [
        (ENTER, "image", "car", 2), (COUNT, "image", "car", 1),
    ]  # fmt: skip


def test_the_anchor_decides():
    zone = Zone.parse("a=0,0,100,50")
    for anchor, count in (("bottom", 0), ("centre", 1)):
        log = EventLog(EventOptions(zones=(zone,), anchor=anchor, **AT_ONCE))
        log.update(tracked((1, 50, 54)), 0)
        assert sum(log.counts.values()) == count


def test_events_as_json():
    log = EventLog(EventOptions(**AT_ONCE))
    events = log.update(tracked((3, 10, 20)), 1.23456)
    assert [json.loads(json.dumps(event.to_json())) for event in events] == [
        {"event": "enter", "time": 1.235, "zone": "image", "label": "person", "id": 3, "box": [5.0, 10.0, 15.0, 20.0]},
        {"event": "count", "time": 1.235, "zone": "image", "label": "person", "count": 1},
    ]


def test_what_makes_no_sense():
    log = EventLog()
    log.update(tracked(), 5)
    with pytest.raises(RecipeError, match="time"):
        log.update(tracked(), 4)
    with pytest.raises(RecipeError, match="time"):
        log.update(tracked(), float("nan"))
    plain = Detections(
        boxes=np.zeros((0, 4), np.float32), scores=np.zeros(0, np.float32), labels=np.zeros(0, np.int64), names=()
    )
    with pytest.raises(RecipeError, match="identities"):
        log.update(plain, 6)
    for wrong in ({"enter_s": -1}, {"leave_s": float("inf")}, {"margin": float("nan")}, {"anchor": "top"}):
        with pytest.raises(RecipeError, match=next(iter(wrong))):
            EventOptions(**wrong)
    with pytest.raises(RecipeError, match="one name"):
        EventOptions(zones=(Zone(name="a"), Zone.parse("a=1,2,3,4")))


@pytest.mark.parametrize(
    "text", ["", "a", "a=", "a=1,2,3", "a=1,2,3,x", "a=1,2,3,4,5", "=1,2,3,4", "a=1,1,1,9", "a/b=1,2,3,4", "a=nan,1,2,3",
             "a=1,2,1e9,4", "a=0,0,1,1,2,2"],
)  # fmt: skip
def test_texts_that_are_no_zone(text):
    with pytest.raises(RecipeError, match="zone"):
        Zone.parse(text)


@given(st.text(max_size=30))
def test_any_text_is_a_zone_or_refused(text):
    try:
        assert len(Zone.parse(text).points) >= 3
    except RecipeError as error:
        assert "\n" not in str(error).replace(text[:80], "")


CORNERS = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=3, max_size=8, unique=True)
POINT = st.tuples(st.floats(-5, 25), st.floats(-5, 25))


@given(CORNERS, st.lists(POINT, min_size=1, max_size=5))
def test_zones_agree_with_pillow(corners, points):
    """The polygon drawn at 16 pixels per unit, by another library; points near the border may differ."""
    from PIL import Image, ImageDraw

    try:
        zone = Zone(name="a", points=tuple(corners))
    except RecipeError:
        return
    canvas = Image.new("1", (20 * 16 + 1, 20 * 16 + 1))
    ImageDraw.Draw(canvas).polygon([(16 * x, 16 * y) for x, y in corners], fill=1, outline=1)
    distances = zone.distances(np.array(points))
    sides = list(zip(corners, [*corners[1:], corners[0]], strict=True))
    for (x, y), distance in zip(points, distances, strict=True):
        border = min(_to_side(x, y, side) for side in sides)
        if border < 0.15:
            assert distance <= border + 1e-9
        else:
            inside = 0 <= x <= 20 and 0 <= y <= 20 and canvas.getpixel((round(16 * x), round(16 * y)))
            assert (distance == 0) == bool(inside)
            assert distance in (0, pytest.approx(border, abs=0.02))


def _to_side(x, y, side):
    (x0, y0), (x1, y1) = side
    steps = np.linspace(0, 1, 2001)
    return float(np.hypot(x0 + steps * (x1 - x0) - x, y0 + steps * (y1 - y0) - y).min())


STEPS = st.lists(
    st.tuples(st.floats(0, 2), st.lists(st.tuples(st.integers(1, 4), st.integers(0, 99), st.integers(0, 99)), max_size=4, unique_by=lambda o: o[0])),
    max_size=12,
)  # fmt: skip


@given(STEPS, st.floats(0, 1), st.floats(0, 2), st.floats(0, 20))
@settings(deadline=None)
def test_events_are_consistent(steps, enter_s, leave_s, margin):
    zones = (Zone.parse("left=0,0,50,100"), Zone.parse("corner=30,30,99,30,99,99"))
    log = EventLog(EventOptions(zones=zones, enter_s=enter_s, leave_s=leave_s, margin=margin))
    now, inside, counts = 0.0, set(), {}
    for number, (pause, objects) in enumerate(steps):
        now += pause
        check(log.update(tracked(*[(i, x, y, i % 2) for i, x, y in objects]), now), inside, counts)
        expected = {}
        for zone, label, _ in inside:
            expected[zone, label] = expected.get((zone, label), 0) + 1
        assert log.counts == expected == {key: count for key, count in counts.items() if count}, number
    check(log.finish(), inside, counts)
    assert not inside and not any(counts.values())


def check(events, inside, counts):
    """Objects enter when they are outside and leave when they are inside; counts follow."""
    for event in events:
        key = (event.zone, event.label, event.identity)
        if event.kind == ENTER:
            assert key not in inside
            inside.add(key)
        elif event.kind == LEAVE:
            inside.remove(key)
            assert event.stayed_s >= 0
        else:
            assert counts.get(key[:2], 0) != event.count >= 0
            counts[key[:2]] = event.count


def test_a_device_needs_numpy_only():
    code = "import sys, splitreg.events; print({'torch', 'scipy', 'PIL', 'paho'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
