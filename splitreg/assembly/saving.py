"""Save a model as a bundle."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

import splitreg
from splitreg.assembly import testvectors
from splitreg.assembly.card import card
from splitreg.assembly.model import SplitModel
from splitreg.assembly.planned import Plan
from splitreg.assembly.states import edge_state, server_state, wire_id
from splitreg.assembly.weights import write_tensors
from splitreg.bundle import BundleConfig, GraphEntry, PreprocessEntry, check_free, new_folder, write_config
from splitreg.bundle.config import NOT_REQUESTED
from splitreg.bundle.tables import PREFIX
from splitreg.files import dump_json
from splitreg.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedEdge:
    """The edge half in other formats, for a bundle.

    Args:
        files: relative name -> content, e.g. ``edge.onnx``.
        graph: properties of ``edge.onnx``; None if there is none.
        without_onnx: why there is none.
    """

    files: Mapping[str, bytes] = field(default_factory=dict)
    graph: GraphEntry | None = None
    without_onnx: str = NOT_REQUESTED


def save(
    model: SplitModel,
    path: str | Path,
    *,
    metrics: Mapping[str, Any] | None = None,
    images: Mapping[str, bytes] | None = None,
    exported: ExportedEdge | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a bundle; the folder appears complete or not at all.

    Args:
        model: the model. Its tables are frozen first if they are not, or if the edge half has
            changed since.
        path: the folder to create.
        metrics: results for ``metrics.json`` and the card.
        images: file name -> PNG or JPEG for the card.
        exported: the edge half in other formats, see ``splitreg.publishing.export``.
        overwrite: replace an existing bundle.

    Returns:
        The folder.

    Raises:
        BundleError: the path exists, or the disk is full or not writable.
    """
    path = Path(path)
    check_free(path, overwrite=overwrite)
    freeze_if_changed(model)
    exported = exported or ExportedEdge()
    arrays = model.coding.tables.to_arrays()
    tables = {PREFIX + name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    with new_folder(path, overwrite=overwrite) as folder:
        write_tensors(folder / "edge.safetensors", {**edge_state(model.prefix, model.bottleneck), **tables})
        write_tensors(folder / "server.safetensors", {**server_state(model.bottleneck, model.body), **tables})
        for name, branch in model.branches.items():
            write_tensors(folder / "heads" / f"{name}.safetensors", branch.state_dict())
        testvectors.write(folder / "testvectors", model)
        (folder / "metrics.json").write_text(dump_json(metrics or {}, indent=1) + "\n", encoding="utf-8")
        for name, data in {**exported.files, **(images or {})}.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        text = card(model, path.name, metrics or {}, tuple(images or ()))
        (folder / "README.md").write_text(text, encoding="utf-8")
        write_config(folder, _config(model, exported))
    return path


def freeze_if_changed(model: SplitModel) -> None:
    """Freeze the tables if they are not frozen, or if the edge half has changed since."""
    coding = model.coding
    state = edge_state(model.prefix, model.bottleneck)
    if coding.frozen is None or coding.model_id != wire_id(model.recipe, coding.frozen.digest(), state):
        model.freeze_tables()


def _config(model: SplitModel, exported: ExportedEdge) -> BundleConfig:
    preprocess = model.plan.preprocess
    return BundleConfig(
        model_id=model.coding.model_id, trained=model.trained, plugins=_packages(model.plan), graph=exported.graph,
        without_onnx=exported.without_onnx, recipe=_portable(model.recipe).to_mapping(),
        preprocess=PreprocessEntry(
            size=preprocess.size, mode=preprocess.mode, mean=preprocess.mean, std=preprocess.std
        ),
        versions={
            "splitreg": splitreg.__version__, "torch": torch.__version__, "python": platform.python_version(),
        },
    )  # fmt: skip


def _portable(recipe: Recipe) -> Recipe:
    """Return the recipe without folders and ``pretrained``, which other machines do not have."""
    return replace(
        recipe,
        backbone=replace(recipe.backbone, options=_without_weights(recipe.backbone.options)),
        heads=tuple(replace(head, options=_without_weights(head.options)) for head in recipe.heads),
        data=tuple(replace(data, root=None) for data in recipe.data),
        teacher=None if recipe.teacher is None else recipe.teacher.portable(),
    )


def _without_weights(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key != "pretrained"}


def _packages(plan: Plan) -> dict[str, str]:
    """Return plugin -> package, so that an error can name the package to install."""
    recipe = plan.recipe
    parts = [("backbone", recipe.backbone.name), ("bottleneck", recipe.bottleneck.name)]
    parts += [("codec", recipe.codec.name)] if recipe.codec else []
    parts += [("head", head.plugin) for head in recipe.heads]
    packages = {}
    for kind, name in parts:
        spec, _ = plan.registry.resolve(kind, name)
        packages[spec.key] = plan.registry[kind][spec.name].package
    return packages
