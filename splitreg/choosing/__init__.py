"""Choose between device, server and split from measured results and profiles of devices and links."""

from splitreg.choosing.choose import Choice, ChooseOptions, Crossover, choose
from splitreg.choosing.plans import Costs, Plan

__all__ = ["Choice", "ChooseOptions", "Costs", "Crossover", "Plan", "choose"]
