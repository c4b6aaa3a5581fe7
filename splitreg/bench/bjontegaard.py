"""BD-rate: Bjøntegaard's mean difference of two rate-accuracy curves, with monotone cubic interpolation.

A curve is the log-rate as a function of accuracy. The mean difference of two curves over their common
accuracies is the logarithm of a mean ratio of rates.

Source: Bjøntegaard 2001, VCEG-M33; interpolation of Fritsch and Butland 1984 (PCHIP), which, unlike the
cubic polynomial of the original, does not overshoot between points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from splitreg.errors import SplitregError

Floats = NDArray[np.float64]

#: Number of points that a curve should have; with fewer, its shape is a guess.
RECOMMENDED = 4


class NoOverlap(SplitregError):
    """Two curves that cannot be compared: too few points, or no common accuracy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Log-rate as a function of accuracy.

    Args:
        accuracies: (n,) strictly increasing; errors (lower is better) are negated.
        log_rates: (n,) natural logarithms, strictly increasing.
        left_out: number of points that are no part of the curve, because a point with fewer bytes is as accurate.
    """

    accuracies: Floats
    log_rates: Floats
    left_out: int = 0

    @classmethod
    def through(cls, rates: Sequence[float], accuracies: Sequence[float], *, lower_is_better: bool = False) -> Curve:
        """Return the curve through some points in any order; points that another one dominates are left out.

        Args:
            rates: bytes of the points.
            accuracies: metric of the points.
            lower_is_better: whether the metric is an error.

        Raises:
            NoOverlap: there is no point, a rate is not positive, or a number is not finite.
        """
        sign = -1.0 if lower_is_better else 1.0
        points = sorted(
            ((float(r), sign * float(a)) for r, a in zip(rates, accuracies, strict=True)), key=lambda p: (p[0], -p[1])
        )
        if not points:
            raise NoOverlap("a curve needs points, got none")
        if not all(rate > 0 and math.isfinite(rate) and math.isfinite(accuracy) for rate, accuracy in points):
            raise NoOverlap("the rates of a curve must be above 0 and its accuracies finite")
        best: list[tuple[float, float]] = []
        for rate, accuracy in points:
            if not best or accuracy > best[-1][1]:
                best.append((rate, accuracy))
        return cls(
            accuracies=np.array([accuracy for _, accuracy in best]), log_rates=np.log([rate for rate, _ in best]),
            left_out=len(points) - len(best),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.accuracies)

    def rate_at(self, accuracy: float) -> float | None:
        """Return the rate at an accuracy (a negated error) by interpolation; None outside the curve."""
        if not self.accuracies[0] <= accuracy <= self.accuracies[-1]:
            return None
        if len(self) == 1:
            return float(np.exp(self.log_rates[0]))
        place = min(int(np.searchsorted(self.accuracies, accuracy, side="right")) - 1, len(self) - 2)
        return float(
            np.exp(np.polyval(_cubics(self.accuracies, self.log_rates)[place], accuracy - self.accuracies[place]))
        )

    def mean_log_rate(self, low: float, high: float) -> float:
        """Return the mean log-rate over the accuracies from ``low`` to ``high``, which are within the curve."""
        total = 0.0
        for start, end, cubic in zip(
            self.accuracies, self.accuracies[1:], _cubics(self.accuracies, self.log_rates), strict=False
        ):
            a, b = max(low, start) - start, min(high, end) - start
            if b > a:
                whole = np.polyint(cubic)
                total += float(np.polyval(whole, b) - np.polyval(whole, a))
        return total / (high - low)


def bd_rate(curve: Curve, anchor: Curve) -> float:
    """Return how much more rate a curve needs than the anchor at equal accuracy: -0.3 is 30 % less.

    Raises:
        NoOverlap: a curve has fewer than two distinct points, or they share no accuracies.
    """
    for name, one in (("the curve", curve), ("the anchor", anchor)):
        if len(one) < 2:
            raise NoOverlap(f"{name} has {len(one)} distinct point; a BD-rate needs 2, {RECOMMENDED} are recommended")
    low = max(curve.accuracies[0], anchor.accuracies[0])
    high = min(curve.accuracies[-1], anchor.accuracies[-1])
    if not low < high:
        raise NoOverlap(
            f"the curves have no common accuracies: one has {_span(curve)}, the anchor {_span(anchor)}; add points "
            "in between"
        )
    return math.expm1(curve.mean_log_rate(low, high) - anchor.mean_log_rate(low, high))


def overlap(curve: Curve, anchor: Curve) -> float:
    """Return the share of the accuracies of two curves that they have in common, 0 to 1."""
    low = max(curve.accuracies[0], anchor.accuracies[0])
    high = min(curve.accuracies[-1], anchor.accuracies[-1])
    whole = max(curve.accuracies[-1], anchor.accuracies[-1]) - min(curve.accuracies[0], anchor.accuracies[0])
    return float(max(0.0, high - low) / whole) if whole else 1.0


def _span(curve: Curve) -> str:
    ends = sorted(abs(float(end)) for end in (curve.accuracies[0], curve.accuracies[-1]))
    return f"{ends[0]:.4g} to {ends[1]:.4g}"


def _cubics(x: Floats, y: Floats) -> Floats:
    """Return the (n - 1, 4) coefficients of the interpolating cubics in x - x[i], highest power first."""
    steps, slopes = np.diff(x), np.diff(y) / np.diff(x)
    tangents = _tangents(steps, slopes)
    left, right = tangents[:-1], tangents[1:]
    cubic = (left + right - 2 * slopes) / steps**2
    square = (3 * slopes - 2 * left - right) / steps
    return np.stack([cubic, square, left, y[:-1]], axis=1)


def _tangents(steps: Floats, slopes: Floats) -> Floats:
    """Return (n,) derivatives at the points: weighted harmonic means, and a limited three-point formula at the ends."""
    if len(slopes) == 1:
        return np.repeat(slopes, 2)
    first, second = steps[:-1] + 2 * steps[1:], 2 * steps[:-1] + steps[1:]
    same = slopes[:-1] * slopes[1:] > 0
    safe = np.where(same[:, None], np.stack([slopes[:-1], slopes[1:]], axis=1), 1.0)
    inner = np.where(same, (first + second) / (first / safe[:, 0] + second / safe[:, 1]), 0.0)
    ends = [_end(steps[0], steps[1], slopes[0], slopes[1]), _end(steps[-1], steps[-2], slopes[-1], slopes[-2])]
    return np.concatenate([[ends[0]], inner, [ends[1]]])


def _end(step: float, next_step: float, slope: float, next_slope: float) -> float:
    tangent = ((2 * step + next_step) * slope - step * next_slope) / (step + next_step)
    if tangent * slope <= 0:
        return 0.0
    if slope * next_slope <= 0 and abs(tangent) > 3 * abs(slope):
        return 3 * slope
    return float(tangent)
