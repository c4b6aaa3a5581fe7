"""The edge half in 8-bit integers, made only where the heads hardly notice: ``edge.int8.onnx``."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitreg import imaging
from splitreg.assembly import testvectors
from splitreg.assembly.model import SplitModel
from splitreg.assembly.testvectors import SYMBOLS_THAT_MAY_DIFFER, share_different
from splitreg.data.loading import Source
from splitreg.edge import EdgeHalf
from splitreg.errors import BundleError, DataError, MissingExtra, SplitregError
from splitreg.evaluation.packets import EvalOptions, evaluate, spread
from splitreg.evaluation.report import Report
from splitreg.files import IMAGE_SUFFIXES, is_image
from splitreg.imaging import ImageLike
from splitreg.publishing.onnx_export import export_edge, run_graph
from splitreg.publishing.onnx_graph import onnx_library

#: A head's primary metric may get worse by this share of its value.
GATE = 0.01
#: Pictures that symbols are compared on.
COMPARED = 32
#: Operators with 8-bit kernels in onnxruntime; all others stay in float32.
OPERATORS = ("Conv", "Gemm", "MatMul", "Add", "Relu", "LeakyRelu", "MaxPool")


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Edge:
    """An edge half in 8-bit integers that passed the gate.

    Args:
        data: bytes of ``edge.int8.onnx``.
        model_id: of the model whose edge half it is.
        figures: what it costs, as ``config.json`` and ``metrics.json`` hold it.
        reports: the evaluations of the float32 edge half and of this one.
    """

    data: bytes
    model_id: int
    figures: Mapping[str, Any]
    reports: tuple[Report, ...] = ()


def quantise_edge(
    model: SplitModel,
    pictures: Iterable[ImageLike],
    source: Source,
    *,
    gate: float = GATE,
    dataset: str = "",
    limit: int | None = None,
    progress: bool = False,
) -> Int8Edge:
    """Quantise the edge half, and measure every head on the packets of both edge halves; the server half is the same.

    Args:
        model: with frozen tables.
        pictures: what the ranges of the activations are taken from; as the device will see them.
        source: the dataset that is measured on.
        gate: the largest loss of a head's primary metric, as a share of its float32 value.
        dataset: what to call the images in the reports.
        limit: only so many images, spread evenly.
        progress: show bars on stderr.

    Raises:
        BundleError: a head loses more than the gate, or the edge half cannot be exported.
        DataError: no picture to calibrate on, or nothing in the dataset that a head could be measured by.
        MissingExtra: onnx or onnxruntime is not installed.
    """
    pictures = list(pictures)
    if not pictures:
        raise DataError("there is no picture to calibrate the 8-bit edge half on")
    inputs = (imaging.prepare(imaging.read(picture), model.coding.preprocess)[0] for picture in pictures)
    data = quantised(export_edge(model.edge).data, inputs)
    edge = run_graph(model.edge, data, "edge.int8.onnx")
    options = EvalOptions(dataset=dataset, limit=limit, progress=progress)
    run = functools.partial(evaluate, model, source, options)
    before, after = run(), run(edge=edge, sent="packet, 8-bit edge")
    heads = _losses(model, before, after)
    if not heads:
        raise DataError(
            f"no head can be measured on {dataset or 'this dataset'}: it has no target of {', '.join(model.heads)}"
        )
    compared = [source[index].array() for index in spread(len(source), min(COMPARED, limit or COMPARED))]
    figures = {
        "gate": gate, "dataset": dataset, "images": after.images, "calibration_images": len(pictures), "heads": heads,
        "bytes": {"float32": before.bytes.mean, "int8": after.bytes.mean},
        "symbols_changed": float(np.mean([_changed(model.edge, edge, picture) for picture in compared])),
        # For `verify`: another processor may round 8 bits otherwise, but not half as far as float32 is from them.
        "symbols_limit": SYMBOLS_THAT_MAY_DIFFER + _changed(model.edge, edge, testvectors.image()) / 2,
    }  # fmt: skip
    worse = [name for name, found in heads.items() if not found["loss"] <= gate]
    if worse:
        raise BundleError(
            f"the 8-bit edge half is refused, {', '.join(worse)} beyond the gate of {gate:.2%}: {summary(figures)}; "
            "calibrate on more or other pictures, raise --gate, or publish without --int8"
        )
    return Int8Edge(data=data, model_id=model.coding.model_id, figures=figures, reports=(before, after))


def summary(figures: Mapping[str, Any]) -> str:
    """Say in one line what an 8-bit edge half costs."""
    heads = [
        f"{name} {found['metric']} {found['float32']:.4f} -> {found['int8']:.4f} ({found['loss']:+.2%} loss)"
        for name, found in figures["heads"].items()
    ]
    rate, images = figures["bytes"], f"{figures['images']} images of {figures['dataset'] or 'the dataset'}"
    return (
        f"{', '.join(heads)}; mean bytes {rate['float32']:.0f} -> {rate['int8']:.0f}, "
        f"{figures['symbols_changed']:.2%} of the symbols change, on {images}"
    )


def pictures_in(folder: str | Path) -> list[Path]:
    """Return the pictures in a folder and the folders in it, in the order of their names.

    Raises:
        DataError: there is none.
    """
    images = sorted(path for path in Path(folder).rglob("*") if is_image(path) and path.is_file())
    if not images:
        raise DataError(f"no image in {folder}: none of its files ends in {', '.join(IMAGE_SUFFIXES)}")
    return images


def quantised(graph: bytes, inputs: Iterable[NDArray[np.float32]]) -> bytes:
    """Return a graph with 8-bit weights (per channel, signed) and activations (unsigned), calibrated on (3, H, W) inputs.

    The convolution that gives the latent stays in float32: its rounding would be seen in the symbols at once. Depthwise ones
    do not, though they are the least exact: between 8-bit neighbours they would cost two changes of memory layout each.

    Raises:
        MissingExtra: onnx or onnxruntime is not installed.
        BundleError: onnxruntime cannot quantise this graph.
    """
    onnx = onnx_library()
    try:
        from onnxruntime import quantization
    except ModuleNotFoundError as cause:
        raise MissingExtra("8-bit graphs need onnxruntime; pip install 'splitreg[full]'") from cause
    model = onnx.load_from_string(graph)
    for index, node in enumerate(model.graph.node):
        if node.op_type == "Abs":  # leaky with slope -1 is the same, and has an 8-bit kernel: a table of 256 values
            leaky = onnx.helper.make_node("LeakyRelu", node.input, node.output, name=node.name, alpha=-1.0)
            model.graph.node[index].CopyFrom(leaky)
    # What onnxruntime's own preparation notes; without it each call prints advice to run that.
    onnx.helper.set_model_props(model, {"onnx.quant.pre_process": "onnxruntime.quant"})
    latent = {value.name for value in model.graph.output}
    last = [node.name for node in model.graph.node if node.op_type == "Conv" and latent.intersection(node.output)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "edge.int8.onnx"
        try:
            quantization.quantize_static(
                model, path, _Reader(inputs), quant_format=quantization.QuantFormat.QDQ, per_channel=True,
                op_types_to_quantize=list(OPERATORS), nodes_to_exclude=last,
                # Not the mean of the pictures' extremes: that is finer where all are alike, and clips where they are not.
                calibrate_method=quantization.CalibrationMethod.MinMax,
                activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8,
            )  # fmt: skip
        except SplitregError:  # a picture that cannot be read
            raise
        except Exception as cause:  # onnxruntime raises whatever its steps raise
            first = (str(cause).strip().splitlines() or [""])[0]
            raise BundleError(f"onnxruntime cannot quantise the edge half: {type(cause).__name__}: {first}") from cause
        made = onnx.load(path)
    del made.metadata_props[:]
    return bytes(made.SerializeToString(deterministic=True))


class _Reader:
    """The inputs, one at a time, as onnxruntime's calibration reads them."""

    def __init__(self, inputs: Iterable[NDArray[np.float32]]) -> None:
        self._rest = iter(inputs)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        image = next(self._rest, None)
        return None if image is None else {"image": image[None]}


def _losses(model: SplitModel, before: Report, after: Report) -> dict[str, dict[str, Any]]:
    """Return head -> primary metric, both values, and the loss as a share; heads without a finite value are left out."""
    found = {}
    for name in before.metrics:
        head = model.head(name)
        old, new = before.metrics[name][head.primary], after.metrics[name][head.primary]
        if np.isfinite(old):
            loss = (new - old) if head.lower_is_better else (old - new)
            found[name] = {"metric": head.primary, "float32": old, "int8": new, "loss": loss / (abs(old) or 1.0)}
    return found


def _changed(edge: EdgeHalf, other: EdgeHalf, picture: ImageLike) -> float:
    mine, theirs = (half.coding.tables.restore(half.latent_of(picture)[0]) for half in (edge, other))
    return share_different(mine, theirs)
