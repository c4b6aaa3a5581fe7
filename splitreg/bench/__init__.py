"""Benchmarks: rate-accuracy curves of bundles and baselines, with BD-rates and charts."""

from splitreg.bench.bjontegaard import Curve, NoOverlap, bd_rate
from splitreg.bench.compare import Tolerances, compare_files
from splitreg.bench.points import Point, Sent, image_points, packet_points
from splitreg.bench.report import BenchResult
from splitreg.bench.run import BenchOptions, run
from splitreg.bench.speed import SpeedOptions, measure_speed

__all__ = [
    "BenchOptions", "BenchResult", "Curve", "NoOverlap", "Point", "Sent", "SpeedOptions", "Tolerances", "bd_rate",
    "compare_files", "image_points", "measure_speed", "packet_points", "run",
]  # fmt: skip
