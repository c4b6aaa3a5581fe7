"""``audit``: train an attacker on packets and images, and measure its reconstructions."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from splitreg import imaging
from splitreg.assembly import SplitModel, load
from splitreg.audit.attacker import Attacker
from splitreg.audit.similarity import multi_scale_ssim
from splitreg.bench.tables import markdown_table
from splitreg.coding import Packet
from splitreg.data.loading import Source
from splitreg.errors import DataError, TrainingError
from splitreg.evaluation.packets import EvalOptions, Transmission, measure, spread
from splitreg.evaluation.report import hardware
from splitreg.files import disk_errors, write_atomic, write_json
from splitreg.imaging import Geometry
from splitreg.progress import Progress
from splitreg.recipe import REFUSE
from splitreg.registry import Registry
from splitreg.tasks import Prediction, Sample

Pixels = NDArray[np.uint8]
#: Images of the table of pictures.
_SHOWN = 6
#: Scales at which JPEG is tried for few bytes; it is enlarged again after decoding.
_SCALES = (1.0, 0.75, 0.5, 0.35, 0.25, 0.18, 0.125)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditOptions:
    """Size of the attack, and what is measured.

    Args:
        train_images: largest number of packet-image pairs that the attacker is trained on; None: all.
        val_images: largest number of images that are measured; None: all.
        width: channels of the attacker, see ``Attacker``.
        blocks: its residual blocks.
        steps: its updates.
        batch_size: pairs per update.
        rate: rate of the packets, for a model with several.
        seed: of weights and batches.
        unknown_classes: ``"refuse"`` or ``"ignore"`` classes of the dataset that a head lacks.
        progress: show bars on stderr.
    """

    train_images: int | None = None
    val_images: int | None = None
    width: int = 96
    blocks: int = 4
    steps: int = 2000
    batch_size: int = 16
    rate: float | None = None
    seed: int = 0
    unknown_classes: str = REFUSE
    progress: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconstruction:
    """Quality of one kind of reconstruction, in the pixels of the network's input.

    Args:
        name: ``"original"``, ``"packets"``, ``"jpeg"`` or ``"mean image"``.
        bytes: mean bytes per image.
        psnr_db: mean peak signal-to-noise ratio.
        distance: mean of 1 - MS-SSIM (Wang et al. 2003): 0 for equal images.
        metrics: head -> metric -> value of the model on the reconstructions, without packets.
    """

    name: str
    bytes: float
    psnr_db: float
    distance: float
    metrics: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditResult:
    """Result of an audit.

    Args:
        reconstructions: original, packets, JPEG at equal bytes, and the mean training image.
        attacker: its ``parameters``, ``steps``, ``train_images`` and ``train_error``.
        images: number of measured images.
        hardware: of this machine.
        picture: PNG with a row per image: original, from the packet, JPEG at equal bytes.
    """

    reconstructions: tuple[Reconstruction, ...]
    attacker: Mapping[str, float]
    images: int
    hardware: str
    picture: bytes

    def to_json(self) -> dict[str, Any]:
        """Return plain data without the picture."""
        return {key: value for key, value in asdict(self).items() if key != "picture"}

    def markdown(self) -> str:
        """Return a table, and what the attacker was."""
        names = list(dict.fromkeys(f"{h} {m}" for r in self.reconstructions for h, v in r.metrics.items() for m in v))
        rows = [
            [r.name, f"{r.bytes:,.0f}", f"{r.psnr_db:.2f}", f"{r.distance:.3f}",
             *(f"{r.metrics.get(name.split(' ')[0], {}).get(name.split(' ')[1], math.nan):.4f}" for name in names)]
            for r in self.reconstructions
        ]  # fmt: skip
        table = markdown_table(["seen by the model", "bytes", "PSNR (dB)", "1 - MS-SSIM", *names], rows)
        attack = self.attacker
        return (
            f"{self.images} images. Attacker: {attack['parameters']:,.0f} weights, {attack['steps']:,.0f} updates on "
            f"{attack['train_images']:,.0f} pairs of packet and image.\n\n{table}\n"
        )


def audit(
    bundle: str | Path,
    output: str | Path,
    train: Source,
    val: Source,
    options: AuditOptions | None = None,
    *,
    registry: Registry | None = None,
) -> AuditResult:
    """Measure what an attacker who has the bundle and its packets can reconstruct.

    The attacker knows the model and its tables, so that it decodes packets to latents; it is trained
    on packets and images of ``train`` and measured on ``val``.

    Args:
        bundle: the folder, or ``zoo:NAME``.
        output: folder for ``audit.json``, ``audit.md`` and ``audit.png``.
        train: images of the attacker.
        val: images that are measured.
        options: size of the attack.
        registry: the installed plugins, by default.

    Raises:
        DataError: there is no image, or the dataset has other classes than the model.
        BundleError: the bundle cannot be read.
        TrainingError: the folder cannot be written.
    """
    options = options or AuditOptions()
    model = load(bundle, registry=registry).eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        attacker, facts, mean = _attack(model, train, options)
    views = {
        "original": lambda image, packet: (image, 0),
        "packets": lambda image, packet: (_reconstruct(model, attacker, packet), len(packet)),
        "jpeg": lambda image, packet: jpeg_within(image, len(packet)),
        "mean image": lambda image, packet: (mean, 0),
    }
    rows = {name: _measure(model, val, name, view, options) for name, view in views.items()}
    shown = [rows[name][1] for name in ("original", "packets", "jpeg")]
    result = AuditResult(
        reconstructions=tuple(row[0] for row in rows.values()), attacker=facts, images=rows["original"][2],
        hardware=hardware(), picture=_sheet(list(zip(*shown, strict=True))),
    )  # fmt: skip
    folder = Path(output)
    with disk_errors(folder, TrainingError, "free some space, or choose another folder"):
        write_json(folder / "audit.json", result.to_json())
        write_atomic(folder / "audit.png", result.picture)
        text = f"{result.markdown()}\n![original, from the packet, JPEG at equal bytes](audit.png)\n"
        write_atomic(folder / "audit.md", text.encode())
    return result


def jpeg_within(image: Pixels, size: int) -> tuple[Pixels, int]:
    """Compress an image as JPEG of at most ``size`` bytes, with the best PSNR over scales and qualities.

    Args:
        image: (H, W, 3) uint8.
        size: largest number of bytes; if no JPEG is as small, the smallest one is used.

    Returns:
        The decoded image at the original size, and the bytes of the file.
    """
    height, width = image.shape[:2]
    best: tuple[float, Pixels, int] | None = None
    smallest: tuple[int, Pixels] | None = None
    for scale in _SCALES:
        small = Image.fromarray(image).resize(
            (max(8, round(width * scale)), max(8, round(height * scale))), Image.Resampling.LANCZOS
        )
        low, high, fitting = 1, 95, None
        while low <= high:
            middle = (low + high) // 2
            data = _jpeg(small, middle)
            if smallest is None or len(data) < smallest[0]:
                smallest = (len(data), _enlarged(data, (width, height)))
            if len(data) <= size:
                fitting, low = data, middle + 1
            else:
                high = middle - 1
        if fitting is not None:
            decoded = _enlarged(fitting, (width, height))
            value = psnr(decoded, image)
            if best is None or value > best[0]:
                best = (value, decoded, len(fitting))
    if best is not None:
        return best[1], best[2]
    assert smallest is not None  # at least one JPEG was written
    return smallest[1], smallest[0]


def psnr(image: Pixels, original: Pixels) -> float:
    """Return the peak signal-to-noise ratio in dB, at most 100."""
    error = float(np.mean((image.astype(np.float64) - original) ** 2))
    return min(100.0, 10 * math.log10(255.0**2 / error)) if error else 100.0


def _jpeg(image: Image.Image, quality: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality, optimize=True)
    return stream.getvalue()


def _enlarged(data: bytes, size: tuple[int, int]) -> Pixels:
    with Image.open(io.BytesIO(data)) as opened:
        return np.asarray(opened.convert("RGB").resize(size, Image.Resampling.BICUBIC))


def _inputs(model: SplitModel, sample: Sample) -> tuple[Pixels, Geometry]:
    """Return the (H, W, 3) pixels of the network's input, and their geometry."""
    original, preprocess = sample.array(), model.plan.preprocess
    geometry = Geometry(original=(original.shape[0], original.shape[1]), coded=preprocess.size, mode=preprocess.mode)
    return imaging.letterbox(original, geometry), geometry


def _packet(model: SplitModel, sample: Sample, rate: float | None) -> bytes:
    image = sample.array()
    return (model.edge.encode(image) if rate is None else model.edge.encode(image, rate=rate))[0]


def _attack(model: SplitModel, train: Source, options: AuditOptions) -> tuple[Attacker, dict[str, float], Pixels]:
    """Return a trained attacker, its facts, and the mean image."""
    latents, images = [], []
    indexes = spread(len(train), options.train_images)
    if not indexes:
        raise DataError("an attacker needs images to train on, the dataset is empty")
    for index in Progress(options.progress).track(indexes, len(indexes), "packets of the attacker"):
        sample = train[index]
        latents.append(model.server.decode(Packet.parse(_packet(model, sample, options.rate))))
        images.append(_inputs(model, sample)[0])
    pairs = torch.from_numpy(np.stack(latents)), torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    _, channels, height, width = pairs[0].shape
    attacker = Attacker(
        channels, (height, width), model.plan.preprocess.size, width=options.width, blocks=options.blocks
    )
    error = attacker.fit(*pairs, steps=options.steps, batch_size=options.batch_size, progress=options.progress)
    mean = pairs[1].float().mean(0).round().to(torch.uint8).permute(1, 2, 0).numpy()
    facts = {
        "parameters": attacker.parameters_count, "steps": options.steps, "train_images": len(indexes),
        "train_error": error,
    }  # fmt: skip
    return attacker, facts, mean


def _reconstruct(model: SplitModel, attacker: Attacker, packet: bytes) -> Pixels:
    latent = torch.from_numpy(model.server.decode(Packet.parse(packet))[None])
    with torch.inference_mode():
        image: Tensor = attacker(latent)[0]
    return (255 * image).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


_View = Callable[[Pixels, bytes], tuple[Pixels, int]]


def _measure(
    model: SplitModel, source: Source, name: str, view: _View, options: AuditOptions
) -> tuple[Reconstruction, list[Pixels], int]:
    """Return the quality of a kind of reconstruction, the first of them, and the number of images."""
    ratios, distances, shown = list[float](), list[float](), list[Pixels]()

    def send(samples: Sequence[Sample], heads: Sequence[str]) -> Transmission:
        sizes, batch, geometries = [], [], []
        for sample in samples:
            pixels, geometry = _inputs(model, sample)
            image, size = view(pixels, _packet(model, sample, options.rate))
            ratios.append(psnr(image, pixels))
            distances.append(1 - multi_scale_ssim(image, pixels))
            if len(shown) < _SHOWN:
                shown.append(image)
            sizes.append(size)
            geometries.append(geometry)
            batch.append(imaging.normalise(image, model.plan.preprocess))
        predictions = list(_predict(model, np.stack(batch), geometries, heads))
        return Transmission(sizes=sizes, headers=[0] * len(sizes), predictions=predictions)

    evaluation = EvalOptions(
        limit=options.val_images, progress=options.progress, unknown_classes=options.unknown_classes
    )
    report = measure(model, source, send, name, evaluation)
    reconstruction = Reconstruction(
        name=name, bytes=report.bytes.mean, psnr_db=float(np.mean(ratios)), distance=float(np.mean(distances)),
        metrics={h: {model.head(h).primary: v[model.head(h).primary]} for h, v in report.metrics.items()},
    )  # fmt: skip
    return reconstruction, shown, report.images


def _predict(
    model: SplitModel, images: NDArray[np.float32], geometries: Sequence[Geometry], heads: Sequence[str]
) -> Iterator[dict[str, Prediction]]:
    with torch.inference_mode():
        outputs = model(torch.from_numpy(images), dict.fromkeys(heads)).outputs
    predictions = {name: model.head(name).predict(outputs[name]) for name in heads}
    for row, geometry in enumerate(geometries):
        yield {name: predictions[name][row].restore(geometry) for name in heads}


def _sheet(rows: Sequence[Sequence[Pixels]], gap: int = 4) -> bytes:
    """Return a PNG with a row per image."""
    lines = [
        np.concatenate([np.pad(image, ((0, gap), (0, gap), (0, 0)), constant_values=255) for image in row], 1)
        for row in rows
    ]
    stream = io.BytesIO()
    Image.fromarray(np.concatenate(lines)).save(stream, "PNG", optimize=True)
    return stream.getvalue()
