"""Benchmarks: rate-accuracy curves of bundles and baselines, with BD-rates and charts."""

from splitreg.bench.bjontegaard import Curve, NoOverlap, bd_rate
from splitreg.bench.points import Point, Sent, image_points, packet_points
from splitreg.bench.report import BenchResult
from splitreg.bench.run import BenchOptions, run

__all__ = [
    "BenchOptions", "BenchResult", "Curve", "NoOverlap", "Point", "Sent", "bd_rate", "image_points", "packet_points",
    "run",
]  # fmt: skip
