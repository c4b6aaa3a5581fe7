"""``edge.int8.onnx``: the edge half in 8-bit integers, if no head loses more than a gate."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitreg import imaging
from splitreg.assembly import testvectors
from splitreg.assembly.model import SplitModel
from splitreg.assembly.testvectors import MAX_SYMBOL_DIFFERENCE, symbol_difference
from splitreg.data.loading import Source
from splitreg.edge import EdgeHalf
from splitreg.errors import BundleError, DataError, MissingExtra, SplitregError
from splitreg.evaluation.packets import EvalOptions, Observed, evaluate, spread
from splitreg.evaluation.report import Report
from splitreg.files import IMAGE_SUFFIXES, is_image
from splitreg.imaging import ImageLike
from splitreg.publishing.onnx_export import export_edge, run_graph
from splitreg.publishing.onnx_graph import onnx_library
from splitreg.recipe import REFUSE

#: Largest accepted loss of a head's primary metric, as a share of its value.
GATE = 0.01
#: Number of images to compare symbols on.
COMPARED_IMAGES = 32
#: Operators with 8-bit kernels in onnxruntime; others stay in float32.
OPERATORS = ("Conv", "Gemm", "MatMul", "Add", "Relu", "LeakyRelu", "MaxPool")


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Edge:
    """An edge half in 8-bit integers that passed the gate.

    Args:
        data: bytes of ``edge.int8.onnx``.
        model_id: id of the model.
        figures: its measurements, as in ``config.json`` and ``metrics.json``.
        reports: evaluations with the float32 edge half and with this one.
    """

    data: bytes
    model_id: int
    figures: Mapping[str, Any]
    reports: tuple[Report, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Options:
    """How an 8-bit edge half is measured.

    Args:
        gate: largest accepted loss of a head's primary metric, as a share of its float32 value.
        dataset: name of the dataset in reports.
        limit: largest number of images, spread evenly over the dataset; None: all.
        progress: show progress bars on stderr.
        unknown_classes: see ``EvalOptions``.
        observer: see ``EvalOptions``; sees the images with the float32 edge half.
    """

    gate: float = GATE
    dataset: str = ""
    limit: int | None = None
    progress: bool = False
    unknown_classes: str = REFUSE
    observer: Callable[[Observed], None] | None = None


def quantise_edge(
    model: SplitModel, images: Iterable[ImageLike], source: Source, options: Int8Options | None = None
) -> Int8Edge:
    """Quantise the edge half, and measure every head with both edge halves and the same server half.

    Args:
        model: a model with frozen tables.
        images: calibration images for the ranges of the activations, as the device will see them.
        source: the dataset to measure on.
        options: gate, name of the dataset and more.

    Raises:
        BundleError: a head loses more than the gate, or the edge half cannot be exported.
        DataError: there is no calibration image, or the dataset has no target of any head.
        MissingExtra: onnx or onnxruntime is not installed.
    """
    options = options or Int8Options()
    images = list(images)
    if not images:
        raise DataError("no image to calibrate the 8-bit edge half on; give at least one")
    inputs = (imaging.prepare(imaging.read(image), model.coding.preprocess)[0] for image in images)
    data = quantise_graph(export_edge(model.edge).data, inputs)
    edge = run_graph(model.edge, data, "edge.int8.onnx")
    evaluation = EvalOptions(
        dataset=options.dataset, limit=options.limit, progress=options.progress,
        unknown_classes=options.unknown_classes,
    )  # fmt: skip
    run = functools.partial(evaluate, model, source, evaluation)
    first = replace(evaluation, observer=options.observer)
    before, after = evaluate(model, source, first), run(edge=edge, sent="packet, 8-bit edge")
    heads = _losses(model, before, after)
    if not heads:
        raise DataError(
            f"no head can be measured on {options.dataset or 'this dataset'}: it has no target for "
            f"{', '.join(model.heads)}"
        )
    compared = [source[i].array() for i in spread(len(source), min(COMPARED_IMAGES, options.limit or COMPARED_IMAGES))]
    figures = {
        "gate": options.gate, "dataset": options.dataset, "images": after.images, "calibration_images": len(images),
        "heads": heads, "bytes": {"float32": before.bytes.mean, "int8": after.bytes.mean},
        "symbols_changed": float(np.mean([_difference(model.edge, edge, image) for image in compared])),
        # For `verify`: another CPU may round 8 bits differently, but by less than half of the distance to float32.
        "symbols_limit": MAX_SYMBOL_DIFFERENCE + _difference(model.edge, edge, testvectors.image()) / 2,
    }  # fmt: skip
    failed = [name for name, figure in heads.items() if not figure["loss"] <= options.gate]
    if failed:
        raise BundleError(
            f"the 8-bit edge half is rejected: {', '.join(failed)} beyond the gate of {options.gate:.2%}: "
            f"{summary(figures)}; calibrate on more or other images, raise --gate, or publish without --int8"
        )
    return Int8Edge(data=data, model_id=model.coding.model_id, figures=figures, reports=(before, after))


def summary(figures: Mapping[str, Any]) -> str:
    """Return the measurements of an 8-bit edge half in one line."""
    heads = [
        f"{name} {head['metric']} {head['float32']:.4f} -> {head['int8']:.4f} ({head['loss']:+.2%} loss)"
        for name, head in figures["heads"].items()
    ]
    rate, images = figures["bytes"], f"{figures['images']} images of {figures['dataset'] or 'the dataset'}"
    return (
        f"{', '.join(heads)}; mean bytes {rate['float32']:.0f} -> {rate['int8']:.0f}, "
        f"{figures['symbols_changed']:.2%} of the symbols change, on {images}"
    )


def images_in(folder: str | Path) -> list[Path]:
    """Return the images in a folder and its subfolders, in the order of their names.

    Raises:
        DataError: there is none.
    """
    images = sorted(path for path in Path(folder).rglob("*") if is_image(path) and path.is_file())
    if not images:
        raise DataError(f"no image in {folder}: no file name ends in {', '.join(IMAGE_SUFFIXES)}")
    return images


def quantise_graph(graph: bytes, inputs: Iterable[NDArray[np.float32]]) -> bytes:
    """Quantise a graph: signed 8-bit weights per channel, unsigned 8-bit activations.

    The convolution that computes the latent stays in float32, because its rounding would change
    symbols directly. Depthwise convolutions are quantised, although they lose the most precision: in
    float32 between 8-bit neighbours, each would cost two changes of the memory layout.

    Args:
        graph: bytes of an ONNX file.
        inputs: (3, H, W) normalised calibration images.

    Raises:
        MissingExtra: onnx or onnxruntime is not installed.
        BundleError: onnxruntime cannot quantise this graph.
    """
    onnx = onnx_library()
    try:
        from onnxruntime import quantization
    except ModuleNotFoundError as cause:
        raise MissingExtra(
            "8-bit graphs need onnxruntime, which is not installed; pip install 'splitreg[full]'"
        ) from cause
    model = onnx.load_from_string(graph)
    for index, node in enumerate(model.graph.node):
        if node.op_type == "Abs":  # equal to LeakyRelu with slope -1, which has an 8-bit kernel
            leaky = onnx.helper.make_node("LeakyRelu", node.input, node.output, name=node.name, alpha=-1.0)
            model.graph.node[index].CopyFrom(leaky)
    # The mark of onnxruntime's own preparation; without it, each call prints advice to run it.
    onnx.helper.set_model_props(model, {"onnx.quant.pre_process": "onnxruntime.quant"})
    latent = {value.name for value in model.graph.output}
    last = [node.name for node in model.graph.node if node.op_type == "Conv" and latent.intersection(node.output)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "edge.int8.onnx"
        try:
            quantization.quantize_static(
                model, path, _Reader(inputs), quant_format=quantization.QuantFormat.QDQ, per_channel=True,
                op_types_to_quantize=list(OPERATORS), nodes_to_exclude=last,
                # Not a moving average, which clips the ranges of unusual images.
                calibrate_method=quantization.CalibrationMethod.MinMax,
                activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8,
            )  # fmt: skip
        except SplitregError:  # an image that cannot be read
            raise
        except Exception as cause:  # onnxruntime may raise anything
            first = (str(cause).strip().splitlines() or [""])[0]
            raise BundleError(f"onnxruntime cannot quantise the edge half: {type(cause).__name__}: {first}") from cause
        quantised = onnx.load(path)
    del quantised.metadata_props[:]
    return bytes(quantised.SerializeToString(deterministic=True))


class _Reader:
    """Inputs in the interface of onnxruntime's calibration."""

    def __init__(self, inputs: Iterable[NDArray[np.float32]]) -> None:
        self._inputs = iter(inputs)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        image = next(self._inputs, None)
        return None if image is None else {"image": image[None]}


def _losses(model: SplitModel, before: Report, after: Report) -> dict[str, dict[str, Any]]:
    """Return head -> primary metric, both values and the loss as a share, if the value is finite."""
    losses = {}
    for name in before.metrics:
        head = model.head(name)
        old, new = before.metrics[name][head.primary], after.metrics[name][head.primary]
        if np.isfinite(old):
            loss = (new - old) if head.lower_is_better else (old - new)
            losses[name] = {"metric": head.primary, "float32": old, "int8": new, "loss": loss / (abs(old) or 1.0)}
    return losses


def _difference(edge: EdgeHalf, other: EdgeHalf, image: ImageLike) -> float:
    """Return the share of an image's symbols that differ between two edge halves."""
    first, second = (half.coding.tables.restore(half.latent_of(image)[0]) for half in (edge, other))
    return symbol_difference(first, second)
