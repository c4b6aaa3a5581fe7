"""BD-rates against closed forms, and against figures that another implementation gave."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitreg.bench import Curve, NoOverlap, bd_rate
from splitreg.bench.bjontegaard import overlap

RATES, QUALITIES = [85.95, 157.11, 309.58, 686.76], [31.42, 34.24, 37.18, 40.28]
OTHER_RATES, OTHER_QUALITIES = [112.75, 204.93, 407.8, 893.34], [31.24, 34.17, 37.21, 40.39]

# a thousandth apart at least, so that rounding stays far below what is compared
curves = st.lists(
    st.tuples(st.integers(1, 1_000_000), st.integers(1, 1000)),
    min_size=2,
    max_size=9,
    unique_by=(lambda p: p[0], lambda p: p[1]),
).map(lambda points: (sorted(r for r, _ in points), sorted(a / 1000 for _, a in points)))


@given(curves, st.floats(0.05, 20))
def test_a_curve_times_k_needs_k_minus_1_more(points, factor):
    rates, accuracies = points
    curve = Curve.through(rates, accuracies)
    assert bd_rate(curve, curve) == 0
    shifted = Curve.through([factor * rate for rate in rates], accuracies)
    assert bd_rate(shifted, curve) == pytest.approx(factor - 1, rel=1e-6, abs=1e-6)
    assert (1 + bd_rate(shifted, curve)) * (1 + bd_rate(curve, shifted)) == pytest.approx(1, rel=1e-9)


@given(curves)
def test_the_interpolation_passes_its_points_and_never_overshoots(points):
    rates, accuracies = points
    curve = Curve.through(rates, accuracies)
    for rate, accuracy in zip(rates, accuracies, strict=True):
        assert curve.rate_at(accuracy) == pytest.approx(rate, rel=1e-6)
    between = [curve.rate_at(a) for a in np.linspace(accuracies[0], accuracies[-1], 60)]
    assert all(b >= a * (1 - 1e-9) for a, b in itertools.pairwise(between))
    assert curve.rate_at(accuracies[0] - 1e-3) is None


def test_exponential_curves_have_a_closed_form():
    """log-rate linear in accuracy: the mean difference over [0.2, 0.8] is that of the lines at 0.5."""
    one = Curve.through([math.exp(1 + 2 * a) for a in (0.0, 0.3, 0.8)], [0.0, 0.3, 0.8])
    two = Curve.through([math.exp(3 * a) for a in (0.2, 0.5, 1.0)], [0.2, 0.5, 1.0])
    assert bd_rate(one, two) == pytest.approx(math.exp(1 + 2 * 0.5 - 3 * 0.5) - 1, rel=1e-12)
    assert overlap(one, two) == pytest.approx(0.6)


def test_known_values():
    """The usual example of two video codecs; the first figure is also what the package bjontegaard 1.3.0 gives (pchip)."""
    one, two = Curve.through(RATES, QUALITIES), Curve.through(OTHER_RATES, OTHER_QUALITIES)
    assert bd_rate(two, one) == pytest.approx(0.31379878202397627, rel=1e-12)
    assert bd_rate(one, two) == pytest.approx(-0.2388484342636945, rel=1e-12)


def test_the_interpolation_is_scipys():
    interpolate = pytest.importorskip("scipy.interpolate")
    generator = np.random.default_rng(3)
    for count in (2, 3, 4, 7):
        accuracies, logs = np.sort(generator.random(count)), np.sort(generator.random(count)) * 5
        curve = Curve(accuracies=accuracies, log_rates=logs)
        theirs = interpolate.PchipInterpolator(accuracies, logs)
        low, high = np.sort(generator.uniform(accuracies[0], accuracies[-1], 2))
        assert curve.mean_log_rate(low, high) == pytest.approx(theirs.integrate(low, high) / (high - low), rel=1e-9)


def test_errors_are_better_when_lower():
    curve = Curve.through([100, 200, 400], [0.5, 0.4, 0.2], lower_is_better=True)
    half = Curve.through([50, 100, 200], [0.5, 0.4, 0.2], lower_is_better=True)
    assert len(curve) == 3 and bd_rate(half, curve) == pytest.approx(-0.5)


def test_points_that_a_cheaper_one_matches_are_left_out():
    curve = Curve.through([300, 100, 200, 100], [0.5, 0.3, 0.3, 0.2])
    assert len(curve) == 2 and curve.left_out == 2 and curve.rate_at(0.3) == pytest.approx(100)


@pytest.mark.parametrize(
    ("points", "facts"),
    [
        (([10, 20], [0.8, 0.9]), "0.8 to 0.9.*anchor.* 0.1 to 0.3"),
        (([10], [0.2]), "1 distinct point"),
        (([10, 20], [0.3, 0.4]), "0.3 to 0.4"),
    ],
)
def test_curves_that_cannot_be_compared_say_why(points, facts):
    with pytest.raises(NoOverlap, match=facts):
        bd_rate(Curve.through(*points), Curve.through([10, 20, 30], [0.1, 0.2, 0.3]))


@pytest.mark.parametrize("points", [([0, 10], [0.1, 0.2]), ([], []), ([10], [math.nan])])
def test_what_is_no_curve_is_refused(points):
    with pytest.raises(NoOverlap):
        Curve.through(*points)
