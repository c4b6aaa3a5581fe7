"""Load a bundle: the whole model, or one half without the files of the other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from splitreg.assembly.building import allocate, assemble
from splitreg.assembly.edge import EdgeModel
from splitreg.assembly.model import SplitModel, edge_state, state_of, wire_id
from splitreg.assembly.planned import Plan
from splitreg.assembly.planning import plan
from splitreg.assembly.server import ServerModel
from splitreg.assembly.weights import assign, parse_tensors
from splitreg.bundle import Bundle
from splitreg.bundle.tables import PREFIX
from splitreg.coding import LatentCoding, LatentModel, load_model
from splitreg.errors import BundleError, CodingError, PlanError, RecipeError, suggest
from splitreg.recipe import Recipe
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
    planned = _plan(bundle, None, registry)
    model = assemble(planned, weights=False)
    tables = _load_edge(bundle, model.prefix, model.bottleneck.encoder)
    _load_server(bundle, model.bottleneck, model.body)
    _load_heads(bundle, dict(model.branches.items()))
    _check_id(bundle, planned, tables, edge_state(model))
    model.coding = replace(model.coding, frozen=tables, model_id=bundle.config.model_id)
    model.trained = bundle.config.trained
    return model.eval()


def load_edge(path: str | Path, *, registry: Registry | None = None) -> EdgeModel:
    """Load the edge half: ``config.json`` and ``edge.safetensors``; needs no plugin of a head.

    Args:
        path: the folder, or ``zoo:NAME``.
        registry: the installed plugins, by default.

    Raises:
        BundleError: as ``load``.
    """
    bundle = Bundle.open(path)
    planned = _plan(bundle, (), registry)
    parts = allocate(planned, weights=False)
    tables = _load_edge(bundle, parts.prefix, parts.bottleneck.encoder)
    state = state_of(parts.bottleneck.encoder, "encoder")
    if parts.prefix is not None:
        state |= state_of(parts.prefix.eval(), "prefix")
    _check_id(bundle, planned, tables, state)
    for name, _ in list(parts.bottleneck.named_children()):
        if name != "encoder":
            setattr(parts.bottleneck, name, None)  # the device needs no server weights
    return EdgeModel(parts.prefix, parts.bottleneck.eval(), _coding(bundle, planned, tables))


def load_server(
    path: str | Path, heads: Iterable[str] | None = None, *, registry: Registry | None = None
) -> ServerModel:
    """Load the server half: ``config.json``, ``server.safetensors`` and the files of the heads.

    Args:
        path: the folder, or ``zoo:NAME``.
        heads: names of the heads; None: all.
        registry: the installed plugins, by default.

    Raises:
        BundleError: as ``load``; or no such head.
    """
    bundle = Bundle.open(path)
    names = (heads,) if isinstance(heads, str) else heads
    planned = _plan(bundle, None if names is None else tuple(names), registry)
    parts = allocate(planned, weights=False)
    tables = _load_server(bundle, parts.bottleneck, parts.body)
    _load_heads(bundle, parts.branches)
    parts.bottleneck.encoder = nn.Identity()  # the server needs no device weights
    branches = {name: branch.eval() for name, branch in parts.branches.items()}
    coding = _coding(bundle, planned, tables)
    return ServerModel(parts.bottleneck.eval(), parts.body.eval(), branches, coding, planned.skeleton.shapes)


def _plan(bundle: Bundle, heads: tuple[str, ...] | None, registry: Registry | None) -> Plan:
    config = bundle.config
    try:
        recipe = Recipe.from_mapping(config.recipe)
        names = [head.name for head in recipe.heads]
        for name in heads or ():
            if name not in names:
                raise BundleError(
                    f"no head {name!r} in {bundle.folder}.{suggest(name, names)} Available: {', '.join(names)}"
                )
        requested = tuple(head for head in recipe.heads if heads is None or head.name in heads)
        planned = plan(replace(recipe, heads=requested, data=(), stages=(), sweep={}, augment={}), registry=registry)
        # Use the mean and std of training, even if the backbone's plugin has others by now.
        preprocess = replace(planned.preprocess, mean=config.preprocess.mean, std=config.preprocess.std)
    except (RecipeError, PlanError, ValueError) as cause:
        packages = ", ".join(sorted(set(config.plugins.values())))
        raise BundleError(
            f"cannot assemble the bundle {bundle.folder}, which has plugins of the packages {packages}: {cause}"
        ) from cause
    return replace(planned, recipe=replace(recipe, heads=planned.recipe.heads), preprocess=preprocess)


def _coding(bundle: Bundle, planned: Plan, tables: LatentModel) -> LatentCoding:
    return replace(planned.coding(), frozen=tables, model_id=bundle.config.model_id)


def _load_edge(bundle: Bundle, prefix: nn.Module | None, encoder: nn.Module) -> LatentModel:
    name = "edge.safetensors"
    weights, tables = _read(bundle, name)
    assign({"prefix": prefix, "encoder": encoder}, weights, str(bundle.folder / name))
    return tables


def _load_server(bundle: Bundle, bottleneck: nn.Module, body: nn.Module) -> LatentModel:
    name = "server.safetensors"
    weights, tables = _read(bundle, name)
    modules = {"bottleneck": bottleneck, "body": body}
    assign(modules, weights, str(bundle.folder / name), skip="bottleneck.encoder.")
    return tables


def _load_heads(bundle: Bundle, branches: Mapping[str, nn.Module]) -> None:
    for head, branch in branches.items():
        name = f"heads/{head}.safetensors"
        assign({"": branch}, parse_tensors(bundle.read(name), name), str(bundle.folder / name))


def _read(bundle: Bundle, name: str) -> tuple[dict[str, Tensor], LatentModel]:
    """Return the weights and the tables of a half."""
    tensors = parse_tensors(bundle.read(name), name)
    keys = [key for key in tensors if key.startswith(PREFIX)]
    arrays = {key.removeprefix(PREFIX): tensors.pop(key).numpy() for key in keys}
    try:
        return tensors, load_model(arrays)
    except CodingError as cause:
        raise BundleError(f"damaged tables in {bundle.folder / name}: {cause}") from cause


def _check_id(bundle: Bundle, planned: Plan, tables: LatentModel, state: Mapping[str, Tensor]) -> None:
    model_id = wire_id(planned.recipe, tables.digest(), state)
    if model_id != bundle.config.model_id:
        raise BundleError(
            f"the edge half of {bundle.folder} has model id {model_id:08x}, its config has {bundle.config.id}; copy the "
            "whole folder"
        )
