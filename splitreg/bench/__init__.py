"""Bench: bundles and baselines as rate-accuracy curves, with BD-rates and charts."""

from splitreg.bench.bjontegaard import Curve, NoOverlap, bd_rate
from splitreg.bench.points import Point, Sent, packets, pictures
from splitreg.bench.report import Result
from splitreg.bench.run import run

__all__ = ["Curve", "NoOverlap", "Point", "Result", "Sent", "bd_rate", "packets", "pictures", "run"]
