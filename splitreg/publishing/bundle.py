"""Save and load: both halves, or one of them without the other's files."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import splitreg
from splitreg.assembly.building import allocate
from splitreg.assembly.edge import EdgeModel
from splitreg.assembly.model import SplitModel, edge_state, server_state, wire_id
from splitreg.assembly.planned import Plan
from splitreg.assembly.planning import plan
from splitreg.assembly.server import ServerModel
from splitreg.coding import LatentModel, load_model
from splitreg.errors import BundleError, CodingError, PlanError, RecipeError, near
from splitreg.publishing import files, testvectors
from splitreg.publishing.card import write_card
from splitreg.publishing.int8 import Int8Edge
from splitreg.publishing.onnx_export import export_edge, run_graph
from splitreg.recipe import Recipe
from splitreg.registry import Registry
from splitreg.zoo import find_bundle


def save(
    model: SplitModel,
    path: str | Path,
    *,
    metrics: Mapping[str, Any] | None = None,
    images: Mapping[str, bytes] | None = None,
    onnx: bool = False,
    int8: Int8Edge | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a bundle, whole or not at all.

    Args:
        model: its tables are frozen first if they are not, or if the edge half has changed since.
        path: the folder to make.
        metrics: measured results for ``metrics.json`` and the card.
        images: file name -> PNG or JPEG for the card.
        onnx: write ``edge.onnx`` too; where an operator cannot be exported the config says so.
        int8: what goes into ``edge.int8.onnx``, beside ``edge.onnx``.
        overwrite: replace a bundle that is there.

    Returns:
        The folder.

    Raises:
        BundleError: the folder is taken, the 8-bit edge half is another model's, or the disk refuses; nothing is left
            behind.
    """
    path = Path(path)
    files.refuse_taken(path, replace=overwrite)
    if model.edge.symbols is None or model.edge.model_id != _edge_id(model.plan, model.edge.tables, edge_state(model)):
        model.freeze_tables()
    if int8 is not None and int8.model_id != model.edge.model_id:
        raise BundleError(
            f"the 8-bit edge half is of model {int8.model_id:08x}, this is {model.edge.model_id:08x}; quantise this one's"
        )
    tables = {f"tables.{name}": torch.from_numpy(a.copy()) for name, a in model.edge.tables.to_arrays().items()}
    with files.new_folder(path, replace=overwrite) as folder:
        files.write_tensors(folder / "edge.safetensors", {**edge_state(model), **tables})
        files.write_tensors(folder / "server.safetensors", {**server_state(model), **tables})
        for name, branch in model.branches.items():
            files.write_tensors(folder / "heads" / f"{name}.safetensors", branch.state_dict())
        testvectors.write(folder / "testvectors", model)
        edge, no_onnx = _write_onnx(folder, model, int8) if onnx or int8 else ({}, "not asked for")
        (folder / "metrics.json").write_text(json.dumps(metrics or {}, indent=1) + "\n", encoding="utf-8")
        for name, data in (images or {}).items():
            (folder / name).write_bytes(data)
        write_card(folder / "README.md", model, name=path.name, metrics=metrics or {}, images=tuple(images or ()))
        files.write_config(
            folder,
            {
                "model_id": f"{model.edge.model_id:08x}",
                "trained": model.trained,
                "plugins": _packages(model.plan),
                "without_onnx": no_onnx,
                **edge,
                "recipe": _portable(model.recipe).to_mapping(),
                "preprocess": {
                    "size": list(model.plan.preprocess.size), "mode": model.plan.preprocess.mode,
                    "mean": list(model.plan.preprocess.mean), "std": list(model.plan.preprocess.std),
                },
                "versions": {
                    "splitreg": splitreg.__version__, "torch": torch.__version__, "python": platform.python_version(),
                },
            },
        )  # fmt: skip
    return path


def load(path: str | Path, *, registry: Registry | None = None) -> SplitModel:
    """Load a whole bundle, from its folder or the zoo (``"zoo:camvid-small"``); needs no network and no dataset.

    Raises:
        BundleError: a file is missing, altered, or does not fit; every such tensor is named.
    """
    folder = find_bundle(path)
    config, planned = _planned(folder, None, registry)
    parts = allocate(planned, weights=False)
    model = SplitModel(
        planned, prefix=parts.prefix, bottleneck=parts.bottleneck, body=parts.body, branches=parts.branches
    )
    symbols = _load_edge(folder, config, parts.prefix, parts.bottleneck.encoder)
    _load_server(folder, config, parts.bottleneck, parts.body)
    _load_heads(folder, config, parts.branches)
    _check_id(folder, config, planned, symbols, edge_state(model))
    for half in (model.edge, model.server):
        half.symbols, half.model_id = symbols, int(config["model_id"], 16)
    model.trained = bool(config["trained"])
    return model.eval()


def load_edge(path: str | Path, *, registry: Registry | None = None) -> EdgeModel:
    """Load the edge half: reads ``config.json`` and ``edge.safetensors``, and needs no plugin of a head.

    Raises:
        BundleError: as ``load``.
    """
    folder = find_bundle(path)
    config, planned = _planned(folder, (), registry)
    parts = allocate(planned, weights=False)
    symbols = _load_edge(folder, config, parts.prefix, parts.bottleneck.encoder)
    state = {f"encoder.{key}": value for key, value in parts.bottleneck.encoder.state_dict().items()}
    if parts.prefix is not None:
        state |= {f"prefix.{key}": value for key, value in parts.prefix.state_dict().items()}
    _check_id(folder, config, planned, symbols, state)
    for name, _ in list(parts.bottleneck.named_children()):
        if name != "encoder":
            setattr(parts.bottleneck, name, None)  # the device keeps no server weights
    if parts.prefix is not None:
        parts.prefix.eval()
    parts.bottleneck.eval()
    return EdgeModel(
        prefix=parts.prefix, bottleneck=parts.bottleneck, codec=planned.make_codec(), preprocess=planned.preprocess,
        symbols=symbols, model_id=int(config["model_id"], 16),
    )  # fmt: skip


def load_server(
    path: str | Path, heads: Iterable[str] | None = None, *, registry: Registry | None = None
) -> ServerModel:
    """Load the server half: reads ``config.json``, ``server.safetensors`` and the requested heads' files.

    Raises:
        BundleError: as ``load``; or no such head.
    """
    folder = find_bundle(path)
    names = (heads,) if isinstance(heads, str) else heads
    config, planned = _planned(folder, None if names is None else tuple(names), registry)
    parts = allocate(planned, weights=False)
    symbols = _load_server(folder, config, parts.bottleneck, parts.body)
    _load_heads(folder, config, parts.branches)
    parts.bottleneck.encoder = nn.Identity()  # the server keeps no device weights
    return ServerModel(
        bottleneck=parts.bottleneck.eval(), body=parts.body.eval(), branches={k: b.eval() for k, b in parts.branches.items()},
        codec=planned.make_codec(), preprocess=planned.preprocess, shapes=planned.skeleton.shapes, symbols=symbols,
        model_id=int(config["model_id"], 16),
    )  # fmt: skip


def _write_onnx(folder: Path, model: SplitModel, int8: Int8Edge | None) -> tuple[dict[str, Any], str]:
    """Write the edge half as ONNX; return what the config says of it, and why that is not possible, or nothing."""
    try:
        graph = export_edge(model.edge)
    except BundleError as error:
        return {}, str(error)
    (folder / "edge.onnx").write_bytes(graph.data)
    found = graph.to_config()
    if int8 is not None:
        (folder / "edge.int8.onnx").write_bytes(int8.data)
        packet = run_graph(model.edge, int8.data, "edge.int8.onnx").encode(testvectors.picture())[0]
        (folder / "testvectors" / "packet.int8.bin").write_bytes(packet)
        found["int8"] = dict(int8.figures)
    return {"edge": found}, ""


def _portable(recipe: Recipe) -> Recipe:
    """Take off what only the machine that trained it has: folders, and the wish for pretrained weights."""
    options = {key: value for key, value in recipe.backbone.options.items() if key != "pretrained"}
    return replace(
        recipe,
        backbone=replace(recipe.backbone, options=options),
        data=tuple(replace(data, root=None) for data in recipe.data),
        teacher=None if recipe.teacher is None else recipe.teacher.portable(),
    )


def _packages(planned: Plan) -> dict[str, str]:
    """Return plugin -> package, so that a machine that lacks one can be told what to install."""
    recipe = planned.recipe
    parts = [("backbone", recipe.backbone.name), ("bottleneck", recipe.bottleneck.name)]
    parts += [("codec", recipe.codec.name)] if recipe.codec else []
    parts += [("head", head.plugin) for head in recipe.heads]
    found = {}
    for kind, name in parts:
        spec, _ = planned.registry.resolve(kind, name)
        found[spec.key] = planned.registry[kind][spec.name].package
    return found


def _planned(folder: Path, heads: tuple[str, ...] | None, registry: Registry | None) -> tuple[dict[str, Any], Plan]:
    config = files.read_config(folder)
    try:
        recipe = Recipe.from_mapping(config["recipe"])
        names = [head.name for head in recipe.heads]
        for name in heads or ():
            if name not in names:
                raise BundleError(f"no head {name!r} in {folder}.{near(name, names)} There are: {', '.join(names)}")
        wanted = tuple(head for head in recipe.heads if heads is None or head.name in heads)
        planned = plan(replace(recipe, heads=wanted, data=(), stages=(), sweep={}, augment={}), registry=registry)
        # Another version of the backbone's plugin may say other means: what the weights were trained with counts.
        mean, std = _triple(config["preprocess"]["mean"]), _triple(config["preprocess"]["std"])
        preprocess = replace(planned.preprocess, mean=mean, std=std)
    except (RecipeError, PlanError, KeyError, TypeError, ValueError) as cause:
        made = ", ".join(sorted(set(config["plugins"].values())))
        raise BundleError(
            f"the bundle {folder} cannot be assembled here; it was made with plugins of the packages {made}: {cause}"
        ) from cause
    return config, replace(planned, recipe=replace(recipe, heads=planned.recipe.heads), preprocess=preprocess)


def _triple(values: Iterable[float]) -> tuple[float, float, float]:
    red, green, blue = map(float, values)
    return red, green, blue


def _load_edge(folder: Path, config: dict[str, Any], prefix: nn.Module | None, encoder: nn.Module) -> LatentModel:
    name = "edge.safetensors"
    tensors = files.parse_tensors(files.read_checked(folder, name, config["files"]), name)
    symbols = _tables(tensors, name)
    _assign({"prefix": prefix, "encoder": encoder}, tensors, folder / name)
    return symbols


def _load_server(folder: Path, config: dict[str, Any], bottleneck: nn.Module, body: nn.Module) -> LatentModel:
    name = "server.safetensors"
    tensors = files.parse_tensors(files.read_checked(folder, name, config["files"]), name)
    symbols = _tables(tensors, name)
    _assign({"bottleneck": bottleneck, "body": body}, tensors, folder / name, without="bottleneck.encoder.")
    return symbols


def _load_heads(folder: Path, config: dict[str, Any], branches: Mapping[str, nn.Module]) -> None:
    for head, branch in branches.items():
        name = f"heads/{head}.safetensors"
        tensors = files.parse_tensors(files.read_checked(folder, name, config["files"]), name)
        _assign({"": branch}, tensors, folder / name)


def _tables(tensors: dict[str, Tensor], name: str) -> LatentModel:
    arrays = {
        key.removeprefix("tables."): tensors.pop(key).numpy() for key in list(tensors) if key.startswith("tables.")
    }
    try:
        return load_model(arrays)
    except CodingError as cause:
        raise BundleError(f"the tables in {name} are damaged: {cause}") from cause


def _assign(
    modules: Mapping[str, nn.Module | None], tensors: dict[str, Tensor], file: Path, without: str = "-"
) -> None:
    """Load tensors into modules by prefix; every missing, unexpected or misshapen one is named."""
    wanted = {
        f"{prefix}.{key}" if prefix else key: (module, key, value)
        for prefix, module in modules.items()
        if module is not None
        for key, value in module.state_dict(keep_vars=True).items()
    }
    wanted = {name: found for name, found in wanted.items() if not name.startswith(without)}
    problems = [f"lacks {name}" for name in wanted if name not in tensors]
    problems += [f"has an unexpected {name}" for name in tensors if name not in wanted]
    problems += [
        f"has {name} of shape {tuple(tensors[name].shape)} {tensors[name].dtype}, wanted {tuple(value.shape)} {value.dtype}"
        for name, (_, _, value) in wanted.items()
        if name in tensors and (tensors[name].shape != value.shape or tensors[name].dtype != value.dtype)
    ]
    if problems:
        raise BundleError(f"{file} does not fit the model: it " + "; ".join(problems))
    with torch.no_grad():
        for name, (_, _, value) in wanted.items():
            value.copy_(tensors[name])


def _edge_id(planned: Plan, symbols: LatentModel, state: Mapping[str, Tensor]) -> int:
    return wire_id(planned.recipe, symbols.digest(), state)


def _check_id(
    folder: Path, config: dict[str, Any], planned: Plan, symbols: LatentModel, state: Mapping[str, Tensor]
) -> None:
    found = f"{_edge_id(planned, symbols, state):08x}"
    if found != config["model_id"]:
        raise BundleError(f"the edge weights of {folder} make model {found}, its config says {config['model_id']}")
