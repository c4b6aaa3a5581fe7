"""Sweeps: every point of a recipe's sweep trained in its own folder, on this machine or a Ray cluster."""

from splitreg.sweep.point import Outcome
from splitreg.sweep.run import SweepPoint, finished, run

__all__ = ["Outcome", "SweepPoint", "finished", "run"]
