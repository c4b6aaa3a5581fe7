"""Charts as SVG: bytes or cost on a logarithmic axis, one line and one marker per series. No library."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

# After Okabe and Ito 2008, distinguishable with every kind of colour vision; darker, so that the contrast with white
# is at least 4.5. Series differ in their markers, too.
COLOURS = ("#0072b2", "#b34700", "#00735a", "#99487a", "#8a6100", "#35789f", "#000000")
_WIDTH, _MIN_HEIGHT = 820, 480
_LEFT, _TOP, _RIGHT, _BOTTOM = 76, 48, 590, 420  # of the plotting area
_MAX_NAME = 26  # characters of a name in the legend


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One series of (bytes or cost, metric, label) points. Points of 0 bytes are drawn as a dashed level."""

    name: str
    points: Sequence[tuple[float, float, str]]


def chart(
    title: str,
    y_label: str,
    traces: Sequence[Trace],
    x_label: str = "bytes",
    *,
    logarithmic: bool = True,
    log_y: bool = False,
) -> str:
    """Draw the chart.

    Args:
        title: title above the chart.
        y_label: name of the metric.
        traces: at least one with a point.
        x_label: unit of the horizontal axis, per image if only that axis is logarithmic.
        logarithmic: whether the horizontal axis is.
        log_y: draw the metric, which must be above 0, on a logarithmic axis.
    """
    sent = [x for trace in traces for x, _, _ in trace.points if x > 0] or [1.0]
    heights = [y for trace in traces for _, y, _ in trace.points]
    scale = math.log10 if logarithmic else float
    least = 0.15 if logarithmic else 0.5
    x_low, x_high = _widened(scale(min(sent)), scale(max(sent)), 0.06, least)
    if log_y:
        heights = [math.log10(y) for y in heights]
    y_low, y_high = _widened(min(heights), max(heights), 0.08, 0.02 * max(abs(max(heights)), 1e-3))

    def x_at(value: float) -> float:
        return _LEFT + (scale(value) - x_low) / (x_high - x_low) * (_RIGHT - _LEFT)

    def y_at(value: float) -> float:
        value = math.log10(value) if log_y else value
        return _BOTTOM - (value - y_low) / (y_high - y_low) * (_BOTTOM - _TOP)

    height = max(_MIN_HEIGHT, _TOP + 24 * (len(traces) + 1))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        'font-family="Helvetica, Arial, sans-serif" font-size="13" fill="#222">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="{_LEFT}" y="28" font-size="16" font-weight="bold">{escape(title)}</text>',
    ]
    for value in _log_ticks(x_low, x_high) if logarithmic else _ticks(x_low, x_high):
        x = x_at(value)
        parts.append(f'<path d="M{x:.1f} {_TOP}V{_BOTTOM}" stroke="#e4e4e4"/>')
        parts.append(f'<text x="{x:.1f}" y="{_BOTTOM + 19}" text-anchor="middle">{_short(value)}</text>')
    for value, text in _y_ticks(y_low, y_high, log_y):
        y = y_at(value)
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{_RIGHT}" stroke="#e4e4e4"/>')
        parts.append(f'<text x="{_LEFT - 9}" y="{y + 4.5:.1f}" text-anchor="end">{text}</text>')
    unit = "" if log_y or not logarithmic else " per image"
    below = f"{escape(x_label)}{unit}{' (logarithmic)' if logarithmic else ''}"
    parts += [
        f'<path d="M{_LEFT} {_TOP}V{_BOTTOM}H{_RIGHT}" fill="none" stroke="#444"/>',
        f'<text x="{(_LEFT + _RIGHT) / 2}" y="{_BOTTOM + 44}" text-anchor="middle">{below}</text>',
        f'<text transform="translate(20 {(_TOP + _BOTTOM) / 2}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>',
    ]
    parts += _curves(traces, x_at, y_at, x_label)
    return "\n".join([*parts, "</svg>", ""])


def _curves(
    traces: Sequence[Trace], x_at: Callable[[float], float], y_at: Callable[[float], float], x_label: str
) -> list[str]:
    """Return lines, markers and legend; later elements cover earlier ones."""
    levels, lines, markers, legend = list[str](), list[str](), list[str](), list[str]()
    for number, trace in enumerate(traces):
        colour = COLOURS[number % len(COLOURS)]
        points = sorted(trace.points)
        places = [(x_at(x), y_at(y), f"{label}: {x:,.0f} {x_label}, {y:.4g}") for x, y, label in points if x > 0]
        if len(places) > 1:
            way = "L".join(f"{x:.1f} {y:.1f}" for x, y, _ in places)
            lines.append(f'<path d="M{way}" fill="none" stroke="{colour}" stroke-width="2" stroke-linejoin="round"/>')
        for _, y, label in points[: len(points) - len(places)]:
            levels.append(
                f'<path d="M{_LEFT} {y_at(y):.1f}H{_RIGHT}" stroke="{colour}" stroke-width="2" stroke-dasharray="7 5">'
                f"<title>{escape(f'{label}: nothing sent, {y:.4g}')}</title></path>"
            )
        markers += [_marker(number, x, y, colour, text) for x, y, text in places]
        legend += _legend(number, trace.name, colour, line=len(places) > 1, level=not places)
    return [*levels, *lines, *markers, *legend]


def _marker(number: int, x: float, y: float, colour: str, text: str = "") -> str:
    """Return a circle, square, triangle or diamond by number, with a white outline."""
    paint = f'fill="{colour}" stroke="#fff" stroke-width="1.2"'
    inner = f"<title>{escape(text)}</title>" if text else ""
    shapes = (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5.5" {paint}>{inner}</circle>',
        f'<path d="M{x - 5:.1f} {y - 5:.1f}h10v10h-10z" {paint}>{inner}</path>',
        f'<path d="M{x:.1f} {y - 6.5:.1f}l6 11h-12z" {paint}>{inner}</path>',
        f'<path d="M{x:.1f} {y - 7:.1f}l7 7l-7 7l-7 -7z" {paint}>{inner}</path>',
    )
    return shapes[number % len(shapes)]


def _legend(number: int, name: str, colour: str, *, line: bool, level: bool) -> Iterator[str]:
    x, y = _RIGHT + 22, _TOP + 12 + 24 * number
    if line or level:
        dash = ' stroke-dasharray="7 5"' if level else ""
        yield f'<path d="M{x} {y}h28" stroke="{colour}" stroke-width="2"{dash}/>'
    if not level:
        yield _marker(number, x + 14, y, colour)
    label = name if len(name) <= _MAX_NAME else name[: _MAX_NAME - 1] + "…"
    yield f'<text x="{x + 36}" y="{y + 4.5}"><title>{escape(name)}</title>{escape(label)}</text>'


def _y_ticks(low: float, high: float, log_y: bool) -> list[tuple[float, str]]:
    """Return the ticks of the vertical axis with their texts."""
    if log_y:
        return [(value, f"{value:,.6g}") for value in _log_ticks(low, high)]
    step = _nice_step(high - low)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    numbers = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    if digits > 4:  # longer texts would cover the name of the axis
        return [(number * step, f"{number * step:.4g}") for number in numbers]
    return [(number * step, f"{number * step:.{digits}f}") for number in numbers]


def _widened(low: float, high: float, share: float, least: float) -> tuple[float, float]:
    pad = max((high - low) * share, least)
    return low - pad, high + pad


def _nice_step(span: float, ticks: int = 8) -> float:
    """Return 1, 2 or 5 times a power of ten, so that at most ``ticks`` of them fill the span."""
    power = 10.0 ** math.floor(math.log10(span / ticks))
    return next(power * m for m in (1, 2, 5, 10) if span / (power * m) <= ticks)


def _short(value: float) -> str:
    """Return a number that fits below a tick: 20,000 or 20 M."""
    return f"{value:,.0f}" if value < 1e6 else f"{value / 1e6:,.15g} M"


def _ticks(low: float, high: float) -> list[float]:
    """Return round numbers, at most eight."""
    step = _nice_step(high - low)
    return [step * number for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Return round numbers, at most eight: fewer per decade if there are more decades."""
    decades = range(math.floor(low), math.ceil(high) + 1)
    for digits in ((1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        ticks = [m * 10.0**d for d in decades for m in digits if low <= math.log10(m * 10.0**d) <= high]
        if len(ticks) <= 8:
            break
    return ticks
