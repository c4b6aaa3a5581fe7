"""From a recipe to a model and back: ``plan`` checks, ``build`` allocates, ``save`` and ``load`` use bundles."""

import splitreg.python311  # noqa: F401
from splitreg.assembly.building import build
from splitreg.assembly.calibration import calibrate
from splitreg.assembly.edge import EdgeModel
from splitreg.assembly.loading import load, load_edge, load_server
from splitreg.assembly.model import SplitModel
from splitreg.assembly.planned import Plan
from splitreg.assembly.planning import plan
from splitreg.assembly.saving import ExportedEdge, save
from splitreg.assembly.server import ServerModel
from splitreg.assembly.trainable import ModelOutput, Trainable

__all__ = [
    "EdgeModel", "ExportedEdge", "ModelOutput", "Plan", "ServerModel", "SplitModel", "Trainable", "build", "calibrate",
    "load", "load_edge", "load_server", "plan", "save",
]  # fmt: skip
