"""Load a bundle: the whole model, or one half without the files of the other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from splitreg.assembly.allocation import allocate
from splitreg.assembly.edge import EdgeModel
from splitreg.assembly.model import SplitModel
from splitreg.assembly.reading import plan_bundle, read_model
from splitreg.assembly.server import ServerModel
from splitreg.bundle import Bundle
from splitreg.registry import Registry


def load(path: str | Path, *, registry: Registry | None = None) -> SplitModel:
    """Load a whole bundle, without network access and datasets.

    Args:
        path: the folder, or ``zoo:NAME``.
        registry: the installed plugins, by default.

    Raises:
        BundleError: a file is missing or altered, or tensors do not fit; names every such tensor.
    """
    bundle = Bundle.open(path)
    planned = plan_bundle(bundle, None, registry)
    parts = allocate(planned, weights=False)
    tables = read_model(bundle, parts, planned)
    model = SplitModel(planned, parts)
    model.coding = replace(model.coding, frozen=tables, model_id=bundle.config.model_id)
    model.trained = bundle.config.trained
    return model.eval()


def load_edge(path: str | Path, *, registry: Registry | None = None) -> EdgeModel:
    """Load the edge half; see ``EdgeModel.load``."""
    return EdgeModel.load(path, registry=registry)


def load_server(
    path: str | Path, heads: Iterable[str] | None = None, *, registry: Registry | None = None
) -> ServerModel:
    """Load the server half; see ``ServerModel.load``."""
    return ServerModel.load(path, heads, registry=registry)
