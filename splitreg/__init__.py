"""splitreg: assemble, train, publish and run models that are split between a device and a server.

The names below are imported on first use, so that ``import splitreg`` costs nothing.
"""

import sys
from typing import TYPE_CHECKING

# pip checks it, but not for a copied folder; this file is parsed by Python 3.6, too
if sys.version_info < (3, 10):  # noqa: UP036
    raise ImportError("splitreg needs Python 3.10 or later, this is Python %d.%d" % sys.version_info[:2])  # noqa: UP031

from splitreg.lazy import lazy_exports

__version__ = "0.1.0"

if TYPE_CHECKING:
    from splitreg import errors
    from splitreg.assembly import EdgeModel, ServerModel, SplitModel, build, load, plan, save
    from splitreg.edge import Client, EdgeEncoder
    from splitreg.evaluation import evaluate
    from splitreg.publishing import publish, verify
    from splitreg.recipe import Recipe
    from splitreg.registry import discover
    from splitreg.training import TrainOptions, train

__all__ = [
    "Client", "EdgeEncoder", "EdgeModel", "Recipe", "ServerModel", "SplitModel", "TrainOptions", "__version__", "build",
    "discover", "errors", "evaluate", "load", "plan", "publish", "save", "train", "verify",
]  # fmt: skip

__getattr__, __dir__ = lazy_exports(__name__, {
    "Client": "splitreg.edge", "EdgeEncoder": "splitreg.edge", "EdgeModel": "splitreg.assembly",
    "Recipe": "splitreg.recipe", "ServerModel": "splitreg.assembly", "SplitModel": "splitreg.assembly",
    "TrainOptions": "splitreg.training", "build": "splitreg.assembly", "discover": "splitreg.registry",
    "errors": "splitreg.errors", "evaluate": "splitreg.evaluation", "load": "splitreg.assembly",
    "plan": "splitreg.assembly", "publish": "splitreg.publishing", "save": "splitreg.assembly",
    "train": "splitreg.training", "verify": "splitreg.publishing",
})  # fmt: skip
