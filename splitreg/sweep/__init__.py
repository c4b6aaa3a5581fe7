"""Sweeps: one training run per point of a recipe's sweep, on this machine or on a Ray cluster."""

from splitreg.sweep.outcome import Outcome
from splitreg.sweep.run import SweepOptions, SweepPoint, finished, run

__all__ = ["Outcome", "SweepOptions", "SweepPoint", "finished", "run"]
