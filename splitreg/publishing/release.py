"""``publish``: a checked copy of a bundle, with exports, results and example images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from splitreg.assembly import ExportedEdge, SplitModel, load, plan, save, testvectors
from splitreg.assembly.saving import freeze_if_changed
from splitreg.bundle import Bundle, check_free
from splitreg.errors import BundleError
from splitreg.files import parse_json
from splitreg.publishing.int8 import Int8Edge
from splitreg.publishing.measurement import Measurement, measure
from splitreg.publishing.onnx_export import export_edge, run_graph
from splitreg.publishing.targets import edge_source, export_targets, targets_of
from splitreg.recipe import Part
from splitreg.registry import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishOptions:
    """What ``publish`` changes in the copy.

    Args:
        measurement: measure the model, and put results and examples into the card; None: keep the
            results of the bundle.
        metrics: added to ``metrics.json``, e.g. ``{"evaluations": [...]}``.
        images: file name -> PNG or JPEG for the card; those of the measurement or the bundle by
            default.
        int8: an 8-bit edge half of this model, from ``quantise_edge``; that of the measurement or
            the bundle by default. Its evaluations are used if ``metrics`` has none.
        codec: another codec, see ``recode``; results with the old codec are removed.
        targets: further targets of the edge half: names, or names with options as in a recipe; those
            of the bundle by default. ``edge.onnx`` is always written.
        overwrite: replace an existing bundle.
    """

    measurement: Measurement | None = None
    metrics: Mapping[str, Any] | None = None
    images: Mapping[str, bytes] | None = None
    int8: Int8Edge | None = None
    codec: str | Mapping[str, Any] | None = None
    targets: Sequence[str | Mapping[str, Any]] | None = None
    overwrite: bool = False


def recode(model: SplitModel, codec: str | Mapping[str, Any], *, registry: Registry | None = None) -> SplitModel:
    """Replace the codec of a model in place; the weights stay, the packets and the model id change.

    Args:
        model: the model.
        codec: a name, or name and options as in a recipe: ``{"name": "jpeg", "quality": 85}``.
        registry: the installed plugins, by default.

    Returns:
        The model.

    Raises:
        RecipeError: neither a name nor such a table.
        PlanError: no such codec, or it cannot code this model's symbols.
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
    """Write a checked copy of a bundle with new test vectors and card, and the edge half as ONNX.

    Args:
        bundle: the folder to read, or ``zoo:NAME``.
        path: the folder to create.
        options: what to measure and to change.
        registry: the installed plugins, by default.

    Returns:
        The new folder.

    Raises:
        PlanError: no such codec, or it cannot code this model's symbols.
        BundleError: the bundle is damaged, the 8-bit edge half is of another model or loses more
            than the gate, or the folder cannot be written.
        DataError: nothing can be measured.
    """
    options = options or PublishOptions()
    check_free(Path(path), overwrite=options.overwrite)
    model, source = load(bundle, registry=registry), Bundle.open(bundle)
    metrics, int8, images = parse_json(source.read("metrics.json")), options.int8, options.images
    if options.codec is not None:
        model = recode(model, options.codec, registry=registry)
        metrics = {key: value for key, value in metrics.items() if key not in ("evaluations", "int8")}
    if options.measurement is not None:
        measured = measure(model, options.measurement)
        metrics |= measured.metrics
        int8 = int8 or measured.int8
        images = measured.images if images is None else images
    if int8 is not None:
        metrics |= {"evaluations": [report.to_json() for report in int8.reports], "int8": dict(int8.figures)}
    elif options.codec is None:
        int8 = _own_int8(source, model)
    if images is None:
        images = {name: source.read(name) for name in source.config.files if _is_card_image(name)}
    return save(
        model,
        path,
        metrics={**metrics, **(options.metrics or {})},
        images=images,
        exported=_with_targets(export(model, int8), model, source, options.targets, registry),
        overwrite=options.overwrite,
    )


def export(model: SplitModel, int8: Int8Edge | None = None) -> ExportedEdge:
    """Export the edge half as ONNX, in float32 and, if given, in 8-bit integers.

    Args:
        model: its tables are frozen first if the edge half has changed since.
        int8: the 8-bit edge half of this model.

    Returns:
        The files; or why the edge half cannot be exported.

    Raises:
        BundleError: the 8-bit edge half is of another model.
        MissingExtra: onnx or onnxruntime is not installed.
    """
    freeze_if_changed(model)
    if int8 is not None and int8.model_id != model.coding.model_id:
        raise BundleError(
            f"the 8-bit edge half is of model {int8.model_id:08x}, this is {model.coding.model_id:08x}; quantise the edge "
            "half of this model"
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


def _with_targets(
    exported: ExportedEdge,
    model: SplitModel,
    source: Bundle,
    targets: Sequence[str | Mapping[str, Any]] | None,
    registry: Registry | None,
) -> ExportedEdge:
    """Add the files of further targets: the given ones, or those that the bundle has.

    Raises:
        BundleError: there is no ``edge.onnx``, from which targets are exported.
    """
    if targets is None:
        targets = [{"name": entry["target"], **entry["options"]} for entry in targets_of(source)]
    if not targets:
        return exported
    if "edge.onnx" not in exported.files:
        raise BundleError(f"targets are exported from edge.onnx, which cannot be written: {exported.without_onnx}")
    graphs = {name: exported.files.get(f"edge{name}.onnx") for name in ("", ".int8")}
    exported_from = replace(edge_source(model, graphs[""]), int8=graphs[".int8"])
    return replace(exported, files={**exported.files, **export_targets(exported_from, targets, registry=registry)})


def _own_int8(source: Bundle, model: SplitModel) -> Int8Edge | None:
    """Return the 8-bit edge half of a bundle, if it has one."""
    graph, name = source.config.graph, "edge.int8.onnx"
    if name not in source or graph is None or graph.int8 is None:
        return None
    return Int8Edge(data=source.read(name), model_id=model.coding.model_id, figures=graph.int8)


def _is_card_image(name: str) -> bool:
    """Whether a file of a bundle is an image of its card."""
    return "/" not in name and name.endswith((".png", ".jpg"))
