"""Benchmarks: rate-accuracy curves of bundles and baselines, with BD-rates and charts."""

from typing import TYPE_CHECKING

from splitreg.lazy import lazy_exports

if TYPE_CHECKING:
    from splitreg.bench.bjontegaard import Curve, NoOverlap, bd_rate
    from splitreg.bench.compare import Tolerances, compare_files
    from splitreg.bench.measuring import BenchOptions, run
    from splitreg.bench.points import Point, Sent, image_points, packet_points
    from splitreg.bench.report import BenchResult
    from splitreg.bench.speed import SpeedOptions, measure_speed

__all__ = [
    "BenchOptions", "BenchResult", "Curve", "NoOverlap", "Point", "Sent", "SpeedOptions", "Tolerances", "bd_rate",
    "compare_files", "image_points", "measure_speed", "packet_points", "run",
]  # fmt: skip

# Charts and comparisons of results are made without torch.
__getattr__, __dir__ = lazy_exports(__name__, {
    "BenchOptions": "splitreg.bench.measuring", "BenchResult": "splitreg.bench.report", "Curve": "splitreg.bench.bjontegaard",
    "NoOverlap": "splitreg.bench.bjontegaard", "Point": "splitreg.bench.points", "Sent": "splitreg.bench.points",
    "SpeedOptions": "splitreg.bench.speed", "Tolerances": "splitreg.bench.compare",
    "bd_rate": "splitreg.bench.bjontegaard", "compare_files": "splitreg.bench.compare",
    "image_points": "splitreg.bench.points", "measure_speed": "splitreg.bench.speed",
    "packet_points": "splitreg.bench.points", "run": "splitreg.bench.measuring",
})  # fmt: skip
