"""Read weights of a bundle into the modules of its plan: all, or those of one half."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from torch import Tensor, nn

from splitreg.assembly.allocation import Parts, allocate
from splitreg.assembly.planned import Plan
from splitreg.assembly.planning import plan
from splitreg.assembly.shapes import Shapes
from splitreg.assembly.states import edge_state, wire_id
from splitreg.assembly.weights import assign, parse_tensors
from splitreg.bundle import Bundle
from splitreg.bundle.tables import PREFIX
from splitreg.coding import LatentCoding, LatentModel, load_model
from splitreg.errors import BundleError, CodingError, PlanError, RecipeError, suggest
from splitreg.interfaces import Bottleneck
from splitreg.recipe import Recipe
from splitreg.registry import Registry

#: Coded size (height, width) -> shapes of the latent and of the feature at the cut.
Shaper = Callable[[tuple[int, int]], Shapes]


def read_model(bundle: Bundle, parts: Parts, planned: Plan) -> LatentModel:
    """Read all weights of a bundle into the modules of a plan, and return the tables.

    Raises:
        BundleError: a file is missing or altered, or tensors do not fit; names every such tensor.
    """
    tables = _read_edge_weights(bundle, parts)
    _read_server_weights(bundle, parts)
    _check_id(bundle, planned, tables, parts)
    return tables


def read_edge(bundle: Bundle, registry: Registry | None) -> tuple[nn.Module | None, Bottleneck, LatentCoding]:
    """Read the edge half: prefix, bottleneck with its encoder only, coding; see ``EdgeModel.load``.

    Raises:
        BundleError: as ``read_model``.
    """
    planned = plan_bundle(bundle, (), registry)
    parts = allocate(planned, weights=False)
    tables = _read_edge_weights(bundle, parts)
    _check_id(bundle, planned, tables, parts)
    for name, _ in list(parts.bottleneck.named_children()):
        if name != "encoder":
            setattr(parts.bottleneck, name, None)  # the device needs no server weights
    if parts.prefix is not None:
        parts.prefix.eval()
    return parts.prefix, parts.bottleneck.eval(), coding_of(bundle, planned, tables)


def read_server(
    bundle: Bundle, heads: Iterable[str] | None, registry: Registry | None
) -> tuple[Parts, LatentCoding, Shaper]:
    """Read the server half with these heads, or all; see ``ServerModel.load``.

    Raises:
        BundleError: as ``read_model``; or no such head.
    """
    names = (heads,) if isinstance(heads, str) else heads
    planned = plan_bundle(bundle, None if names is None else tuple(names), registry)
    parts = allocate(planned, weights=False)
    tables = _read_server_weights(bundle, parts)
    parts.bottleneck.encoder = nn.Identity()  # the server needs no device weights
    for module in (parts.bottleneck, parts.body, *parts.branches.values()):
        module.eval()
    return parts, coding_of(bundle, planned, tables), planned.skeleton.shapes


def plan_bundle(bundle: Bundle, heads: tuple[str, ...] | None, registry: Registry | None) -> Plan:
    """Plan the model of a bundle with these heads, or all; needs no dataset.

    Raises:
        BundleError: no such head, or the parts do not fit together with the installed plugins.
    """
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


def coding_of(bundle: Bundle, planned: Plan, tables: LatentModel) -> LatentCoding:
    """Return the coding of a bundle's model."""
    return replace(planned.coding(), frozen=tables, model_id=bundle.config.model_id)


def _read_edge_weights(bundle: Bundle, parts: Parts) -> LatentModel:
    name = "edge.safetensors"
    weights, tables = _read(bundle, name)
    modules = {"prefix": parts.prefix, "encoder": parts.bottleneck.encoder}
    assign(modules, weights, str(bundle.folder / name))
    return tables


def _read_server_weights(bundle: Bundle, parts: Parts) -> LatentModel:
    name = "server.safetensors"
    weights, tables = _read(bundle, name)
    modules = {"bottleneck": parts.bottleneck, "body": parts.body}
    assign(modules, weights, str(bundle.folder / name), skip="bottleneck.encoder.")
    for head, branch in parts.branches.items():
        name = f"heads/{head}.safetensors"
        assign({"": branch}, parse_tensors(bundle.read(name), name), str(bundle.folder / name))
    return tables


def _read(bundle: Bundle, name: str) -> tuple[dict[str, Tensor], LatentModel]:
    """Return the weights and the tables of a half."""
    tensors = parse_tensors(bundle.read(name), name)
    keys = [key for key in tensors if key.startswith(PREFIX)]
    arrays = {key.removeprefix(PREFIX): tensors.pop(key).numpy() for key in keys}
    try:
        return tensors, load_model(arrays)
    except CodingError as cause:
        raise BundleError(f"damaged tables in {bundle.folder / name}: {cause}") from cause


def _check_id(bundle: Bundle, planned: Plan, tables: LatentModel, parts: Parts) -> None:
    model_id = wire_id(planned.recipe, tables.digest(), edge_state(parts.prefix, parts.bottleneck))
    if model_id != bundle.config.model_id:
        raise BundleError(
            f"the edge half of {bundle.folder} has model id {model_id:08x}, its config has {bundle.config.id}; copy the "
            "whole folder"
        )
