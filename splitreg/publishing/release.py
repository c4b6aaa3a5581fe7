"""Publish: a bundle again, checked, with its measured results and pictures in the card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from splitreg.assembly import SplitModel, plan
from splitreg.publishing import files
from splitreg.publishing.bundle import load, save
from splitreg.publishing.int8 import Int8Edge
from splitreg.recipe import Part
from splitreg.registry import Registry
from splitreg.zoo import find_bundle


def recode(model: SplitModel, codec: str | Mapping[str, Any], *, registry: Registry | None = None) -> SplitModel:
    """Give a model another codec, in place: the weights stay, the packets and the model id are others.

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
    model.plan = replace(model.plan, recipe=resolved, make_codec=planned.make_codec)
    model.edge.codec = model.server.codec = planned.make_codec()
    model.freeze_tables()
    return model


def publish(
    bundle: str | Path,
    path: str | Path,
    *,
    metrics: Mapping[str, Any] | None = None,
    images: Mapping[str, bytes] | None = None,
    int8: Int8Edge | None = None,
    codec: str | Mapping[str, Any] | None = None,
    overwrite: bool = False,
    registry: Registry | None = None,
) -> Path:
    """Write a checked copy of a bundle with fresh test vectors and card, and the edge half as ``edge.onnx``.

    Args:
        bundle: the folder to read.
        path: the folder to make.
        metrics: added to what the bundle's own ``metrics.json`` holds, e.g. ``{"evaluations": [...]}``.
        images: file name -> PNG or JPEG, shown in the card; the bundle's own by default.
        int8: an 8-bit edge half of this bundle, from ``quantise_edge``; the bundle's own by default. Its evaluations
            are the bundle's where ``metrics`` has none.
        codec: another codec for the packets, see ``recode``; what was measured with the old one is left out.
        overwrite: replace a bundle that is there.
        registry: the installed plugins, by default.

    Raises:
        PlanError: there is no such codec, or it cannot carry this model's symbols.
        BundleError: the bundle is damaged, the 8-bit edge half is another model's, or the folder cannot be written.
    """
    model = load(bundle, registry=registry)
    folder = find_bundle(bundle)
    config = files.read_config(folder)
    hashes = config["files"]
    known = json.loads(files.read_checked(folder, "metrics.json", hashes))
    if codec is not None:
        model = recode(model, codec, registry=registry)
        known = {key: value for key, value in known.items() if key not in ("evaluations", "int8")}
    if int8 is not None:
        known |= {"evaluations": [report.to_json() for report in int8.reports], "int8": dict(int8.figures)}
    elif "edge.int8.onnx" in hashes and codec is None:
        data = files.read_checked(folder, "edge.int8.onnx", hashes)
        int8 = Int8Edge(data=data, model_id=model.edge.model_id, figures=config["edge"]["int8"])
    shown = {name: files.read_checked(folder, name, hashes) for name in hashes if _is_picture(name)}
    return save(
        model,
        path,
        metrics={**known, **(metrics or {})},
        images=shown if images is None else images,
        onnx=True,
        int8=int8,
        overwrite=overwrite,
    )


def _is_picture(name: str) -> bool:
    """Whether a file of a bundle is one of its card's pictures."""
    return "/" not in name and name.endswith((".png", ".jpg"))
