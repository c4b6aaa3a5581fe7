"""Publish: a checked copy of a bundle, with exports, measured results and images in its card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from splitreg.assembly import ExportedEdge, SplitModel, load, plan, save, testvectors
from splitreg.assembly.saving import freeze_if_changed
from splitreg.bundle import Bundle
from splitreg.errors import BundleError
from splitreg.publishing.int8 import Int8Edge
from splitreg.publishing.onnx_export import export_edge, run_graph
from splitreg.recipe import Part
from splitreg.registry import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishOptions:
    """What ``publish`` changes in the copy.

    Args:
        metrics: added to the bundle's own ``metrics.json``, e.g. ``{"evaluations": [...]}``.
        images: file name -> PNG or JPEG, shown in the card; the bundle's own by default.
        int8: an 8-bit edge half of this bundle, from ``quantise_edge``; the bundle's own by default. Its evaluations
            are used where ``metrics`` has none.
        codec: another codec for the packets, see ``recode``; results measured with the old codec are left out.
        overwrite: replace a bundle that is there.
    """

    metrics: Mapping[str, Any] | None = None
    images: Mapping[str, bytes] | None = None
    int8: Int8Edge | None = None
    codec: str | Mapping[str, Any] | None = None
    overwrite: bool = False


def recode(model: SplitModel, codec: str | Mapping[str, Any], *, registry: Registry | None = None) -> SplitModel:
    """Give a model another codec, in place: the weights stay, the packets and the model id change.

    Args:
        model: with its bundle's weights.
        codec: a name, or a table of name and options as in a recipe: ``{"name": "jpeg", "quality": 85}``.
        registry: the installed plugins, by default.

    Raises:
        RecipeError: neither a name nor such a table.
        PlanError: there is no such codec, or it cannot carry this model's symbols.
    """
    recipe = replace(model.recipe, codec=Part.parse(codec, "codec"), data=(), stages=(), sweep={}, augment={})
    planned = plan(recipe, registry=registry)
    resolved = replace(model.recipe, codec=planned.recipe.codec)
    model.plan = replace(model.plan, recipe=resolved, codec=planned.codec)
    model.coding = replace(model.coding, codec=planned.codec.create())
    model.freeze_tables()
    return model


def publish(
    bundle: str | Path,
    path: str | Path,
    options: PublishOptions | None = None,
    *,
    registry: Registry | None = None,
) -> Path:
    """Write a checked copy of a bundle with fresh test vectors and card, and the edge half as ``edge.onnx``.

    Args:
        bundle: the folder to read.
        path: the folder to create.
        options: what to change.
        registry: the installed plugins, by default.

    Raises:
        PlanError: there is no such codec, or it cannot carry this model's symbols.
        BundleError: the bundle is damaged, the 8-bit edge half is another model's, or the folder cannot be written.
    """
    options = options or PublishOptions()
    model, source = load(bundle, registry=registry), Bundle.open(bundle)
    metrics, int8 = json.loads(source.read("metrics.json")), options.int8
    if options.codec is not None:
        model = recode(model, options.codec, registry=registry)
        metrics = {key: value for key, value in metrics.items() if key not in ("evaluations", "int8")}
    if int8 is not None:
        metrics |= {"evaluations": [report.to_json() for report in int8.reports], "int8": dict(int8.figures)}
    elif options.codec is None:
        int8 = _own_int8(source, model)
    images = options.images
    if images is None:
        images = {name: source.read(name) for name in source.config.files if _is_card_image(name)}
    return save(
        model,
        path,
        metrics={**metrics, **(options.metrics or {})},
        images=images,
        exported=export(model, int8),
        overwrite=options.overwrite,
    )


def export(model: SplitModel, int8: Int8Edge | None = None) -> ExportedEdge:
    """Export the edge half as ONNX, in float32 and, where there is one, in 8-bit integers.

    Args:
        model: its tables are frozen first if the edge half has changed since.
        int8: the 8-bit edge half of this model.

    Returns:
        The files; or why the edge half cannot be written as ONNX.

    Raises:
        BundleError: the 8-bit edge half is another model's.
        MissingExtra: onnx or onnxruntime is not installed.
    """
    freeze_if_changed(model)
    if int8 is not None and int8.model_id != model.coding.model_id:
        raise BundleError(
            f"the 8-bit edge half is of model {int8.model_id:08x}, this is {model.coding.model_id:08x}; quantise this model"
        )
    try:
        graph = export_edge(model.edge)
    except BundleError as error:
        return ExportedEdge(without_onnx=str(error))
    files = {"edge.onnx": graph.data}
    if int8 is not None:
        packet = run_graph(model.edge, int8.data, "edge.int8.onnx").encode(testvectors.image())[0]
        files |= {"edge.int8.onnx": int8.data, "testvectors/packet.int8.bin": packet}
    return ExportedEdge(files=files, graph=graph.entry(None if int8 is None else int8.figures), without_onnx="")


def _own_int8(source: Bundle, model: SplitModel) -> Int8Edge | None:
    """Return the 8-bit edge half that a bundle has."""
    graph, name = source.config.graph, "edge.int8.onnx"
    if name not in source or graph is None or graph.int8 is None:
        return None
    return Int8Edge(data=source.read(name), model_id=model.coding.model_id, figures=graph.int8)


def _is_card_image(name: str) -> bool:
    """Whether a file of a bundle is one of its card's images."""
    return "/" not in name and name.endswith((".png", ".jpg"))
