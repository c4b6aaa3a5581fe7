"""Choose between device, server and split from measured results and profiles of devices and links."""

from splitreg.choosing.choose import SERVICE_MS, Choice, ChooseOptions, Crossover, choose
from splitreg.choosing.plans import Costs, DeploymentPlan

__all__ = ["SERVICE_MS", "Choice", "ChooseOptions", "Costs", "Crossover", "DeploymentPlan", "choose"]
