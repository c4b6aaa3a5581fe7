"""From a recipe to a model: ``plan`` finds every mismatch, ``build`` allocates weights, the two halves run apart."""

from splitreg.assembly.building import build
from splitreg.assembly.edge import EdgeModel
from splitreg.assembly.model import ModelOutput, SplitModel
from splitreg.assembly.planned import Plan
from splitreg.assembly.planning import plan
from splitreg.assembly.server import ServerModel

__all__ = ["EdgeModel", "ModelOutput", "Plan", "ServerModel", "SplitModel", "build", "plan"]
