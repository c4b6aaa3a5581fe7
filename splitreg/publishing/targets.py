"""Targets in a bundle: export them, and run them on the test vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from splitreg import imaging
from splitreg.assembly.edge import EdgeModel
from splitreg.assembly.model import SplitModel
from splitreg.assembly.testvectors import MAX_SYMBOL_DIFFERENCE, symbol_difference
from splitreg.bundle import Bundle
from splitreg.coding import Packet
from splitreg.edge import EdgeSource, ExportTarget
from splitreg.errors import BundleError
from splitreg.files import dump_json, parse_json
from splitreg.publishing.onnx_export import EdgeModule, export_edge
from splitreg.recipe import Part
from splitreg.registry import Registry, discover

#: Folder of targets in a bundle.
FOLDER = "targets"
_DESCRIPTION = "target.json"
_RECORDED = "testvectors/packet.bin"


def edge_source(model: SplitModel | EdgeModel, graph: bytes | None = None) -> EdgeSource:
    """Return what targets of a model are exported from.

    Args:
        model: a model with frozen tables, or its edge half.
        graph: bytes of ``edge.onnx``; exported if not given.

    Raises:
        BundleError: the edge half cannot be exported as ONNX, or the model has no tables.
        MissingExtra: onnx or onnxruntime is not installed.
    """
    if isinstance(model, SplitModel) and model.coding.frozen is None:
        model.freeze_tables()
    edge = model.edge if isinstance(model, SplitModel) else model
    data = export_edge(edge).data if graph is None else graph
    return EdgeSource(graph=data, coding=edge.coding, module=lambda: EdgeModule(edge).eval())


def export_targets(
    source: EdgeSource, targets: Sequence[str | Mapping[str, Any]], *, registry: Registry | None = None
) -> dict[str, bytes]:
    """Export an edge half to targets, as files of a bundle.

    Args:
        source: the edge half.
        targets: names, or names with options: ``{"name": "c", "size": [96, 96]}``.
        registry: the installed plugins, by default.

    Returns:
        Name in the bundle -> content.

    Raises:
        RegistryError: no such target.
        RecipeError: an invalid option.
        BundleError: a target cannot express this edge half.
        MissingExtra: a package that an export needs is not installed.
    """
    registry = discover() if registry is None else registry
    files: dict[str, bytes] = {}
    for entry in targets:
        part = Part.parse(entry, "target")
        target: ExportTarget = registry.create("target", part.name, options=part.options)
        exported = target.export(source)
        if target.at_root:
            files |= exported.files
            continue
        folder = f"{FOLDER}/{part.name}"
        description = {"target": part.name, "options": dict(part.options), "report": dict(exported.report)}
        files |= {f"{folder}/{name}": data for name, data in exported.files.items()}
        files[f"{folder}/{_DESCRIPTION}"] = (dump_json(description, indent=1) + "\n").encode()
    return files


def targets_of(bundle: Bundle) -> list[dict[str, Any]]:
    """Return the targets in a bundle below ``targets``: ``target``, ``options`` and ``report`` of each.

    Raises:
        BundleError: a description is damaged.
    """
    descriptions = []
    for name in sorted(bundle.config.files):
        path = PurePosixPath(name)
        if path.parts[0] == FOLDER and path.name == _DESCRIPTION:
            try:
                description = parse_json(bundle.read(name))
                descriptions.append({key: description[key] for key in ("target", "options", "report")})
            except (ValueError, KeyError, TypeError) as cause:
                raise BundleError(f"{name} of the bundle {bundle.folder} is not the description of a target") from cause
    return descriptions


def verify_target(
    bundle: Bundle, description: Mapping[str, Any], edge: EdgeModel, *, registry: Registry | None = None
) -> str:
    """Run a target of a bundle on the test image, and compare its packet with the recorded one.

    Raises:
        BundleError: it does not run, or too many symbols differ.
        MissingExtra: it cannot run on this machine.
    """
    registry = discover() if registry is None else registry
    name, options = description["target"], description["options"]
    target: ExportTarget = registry.create("target", name, options=options)
    prefix = f"{FOLDER}/{name}/"
    files = {n.removeprefix(prefix): bundle.read(n) for n in bundle.config.files if n.startswith(prefix)}
    source = EdgeSource(graph=bundle.read("edge.onnx"), coding=edge.coding)
    encode = target.open(files, source)
    image = imaging.read(bundle.folder / "testvectors" / "image.png")
    packet = encode(image)
    parsed, recorded = Packet.parse(packet), Packet.parse(bundle.read(_RECORDED))
    if parsed.coded != recorded.coded:  # exported at another size: compare with the graph at that size
        size = f"{parsed.coded[1]}x{parsed.coded[0]} pixels"
        return f"packet of {len(packet)} bytes at {size}; the test vectors have another size"
    shape = _latent_shape(edge, image)
    decoded, expected = (edge.coding.decode(p.streams, shape, context=p.context) for p in (parsed, recorded))
    difference = symbol_difference(decoded, expected)
    if difference > MAX_SYMBOL_DIFFERENCE:
        raise BundleError(
            f"{difference:.2%} of the test image's symbols differ from packet.bin, the limit is {MAX_SYMBOL_DIFFERENCE:.2%}"
        )
    return f"{difference:.3%} of the symbols differ from the recorded packet.bin"


def _latent_shape(edge: EdgeModel, image: np.ndarray[Any, Any]) -> tuple[int, int, int]:
    latent, _ = edge.latent_of(image)
    return latent.shape[0], latent.shape[1], latent.shape[2]
