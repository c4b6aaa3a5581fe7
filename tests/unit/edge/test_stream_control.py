"""Budgets of a stream, on a simulated clock and link; motion."""

import numpy as np
import pytest

from splitreg.edge.stream_control import FRAME_OVERHEAD_BYTES, Budget, MotionGate, StreamController
from splitreg.errors import RecipeError


def simulate(controller, seconds, size, latency=lambda size: 0.05):
    """Send whenever allowed; return the times and sizes of the frames."""
    now, sent = 0.0, []
    while now < seconds:
        wait = controller.wait_s(now)
        if wait > 0:
            now += max(wait, 1e-6)
            continue
        packet = size(controller.rate)
        controller.sent(packet, now, key=not sent)
        controller.answered(latency(packet))
        sent.append((now, packet))
        now += 0.001
    return sent


def test_frames_per_second():
    sent = simulate(StreamController(Budget(fps=10), None), 20, lambda rate: 100)
    assert len(sent) == pytest.approx(200, abs=2)


@pytest.mark.parametrize("kbps", [5, 37.5, 400])
def test_bytes_stay_within_the_budget(kbps):
    sent = simulate(StreamController(Budget(kbps=kbps), None), 60, lambda rate: 300)
    used = sum(size + FRAME_OVERHEAD_BYTES for _, size in sent[:-1])
    assert 0.95 < used / (60 * kbps * 125) < 1.05


def test_the_rate_falls_until_the_frame_rate_fits_and_rises_when_there_is_room():
    controller = StreamController(Budget(fps=10, kbps=20), 0.5)
    simulate(controller, 30, lambda rate: int(40 + 800 * rate))
    assert controller.rate < 0.3
    controller = StreamController(Budget(fps=10, kbps=200), 0.5)
    simulate(controller, 60, lambda rate: int(40 + 800 * rate))
    assert controller.rate > 0.9


def test_a_budget_of_time_is_kept_by_the_rate():
    controller = StreamController(Budget(ms=200), 0.5)
    late = [
        latency_of(size) > 0.2 for _, size in simulate(controller, 60, lambda rate: int(50 + 2000 * rate), latency_of)
    ]
    assert np.mean(late[20:]) <= 0.05 and controller.rate > 0.1


def latency_of(size):
    return 0.08 + size / 5000


def test_where_the_rate_does_not_help_frames_become_fewer():
    controller = StreamController(Budget(ms=100, fps=20), None)
    sent = simulate(controller, 30, lambda rate: 200, latency=lambda size: 0.3)
    assert len(sent) < 300


def test_a_pause_of_the_link_makes_one_frame_late_and_changes_nothing_after_it():
    controller = StreamController(Budget(ms=300, fps=5), None)
    now, waiting, late, answered = 0.0, [], 0, 0
    while now < 30:  # a FIFO that delivers after 0.1 s, but nothing between seconds 10 and 13
        for sent in [sent for sent in waiting if now >= sent + 0.1 and not 10 <= now < 13]:
            waiting.remove(sent)
            controller.answered(now - sent)
            late, answered = late + (now - sent > 0.3), answered + 1
        if not controller.wait_s(now) and not (waiting and controller.overdue(now - waiting[0])):
            controller.sent(200, now, key=False)
            waiting.append(now)
        now += 0.01
    assert late == 1
    assert answered == pytest.approx(27 * 5, abs=3)


def test_without_a_budget_of_time_no_answer_is_overdue_and_nothing_is_probed():
    controller = StreamController(Budget(fps=5), None)
    controller.answered(60)
    assert not controller.overdue(60) and controller.steady and controller.probe_s == 0


def test_after_a_late_answer_frames_wait_for_a_probe_as_quick_as_the_quickest():
    controller = StreamController(Budget(ms=300), None)
    controller.answered(0.2)
    assert controller.steady
    controller.answered(0.4)
    assert not controller.steady
    assert controller.probed(0.05) and controller.probe_s == 0.05
    assert not controller.probed(0.3)
    assert controller.probed(0.09)
    for _ in range(200):
        controller.answered(0.2)
    assert controller.steady


def test_a_link_that_has_become_slower_is_used_all_the_same():
    controller = StreamController(Budget(ms=300), None)
    controller.answered(0.4)
    controller.probed(0.01)
    assert sum(not controller.probed(0.1) for _ in range(20)) <= 16  # each fifth probe at the latest


def test_probes_use_the_byte_budget():
    controller = StreamController(Budget(ms=300, kbps=1), None)
    controller.sent(40, 0.0, key=False)
    before = controller.wait_s(0.0)
    for _ in range(3):
        controller.probed(0.05)
    assert controller.wait_s(0.0) > before


@pytest.mark.parametrize("wrong", [{"fps": 0}, {"kbps": -1}, {"ms": float("nan")}, {"ms": float("inf")}], ids=str)
def test_wrong_budgets(wrong):
    with pytest.raises(RecipeError):
        Budget(**wrong)


def test_motion():
    image = np.random.default_rng(0).integers(0, 200, (120, 160, 3), np.uint8)
    gate = MotionGate(4)
    assert gate.moved(image)
    gate.sent()
    noise = np.random.default_rng(1).integers(-3, 4, image.shape)
    assert not gate.moved((image + noise).clip(0, 255).astype(np.uint8))
    moved = image.copy()
    moved[40:60, 50:70] = 255
    assert gate.moved(moved)
    assert not gate.moved(image)  # the moved one was not sent
    with pytest.raises(RecipeError):
        MotionGate(0)
