"""``add_local_head``: train and calibrate a local head on a bundle's latents, and add it to a copy."""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from splitreg.assembly import SplitModel, load
from splitreg.bundle import Bundle
from splitreg.bundle.writing import new_folder, write_config
from splitreg.data.classes import match_heads
from splitreg.data.loading import Source
from splitreg.edge.escalation import CALIBRATION, GRAPH, VERSIONS, calibrated
from splitreg.errors import DataError, RecipeError
from splitreg.evaluation.packets import chunks, spread
from splitreg.parsing import check_name
from splitreg.progress import Progress
from splitreg.publishing.onnx_export import OPSET
from splitreg.publishing.onnx_graph import onnx_library, simplify
from splitreg.recipe import REFUSE
from splitreg.registry import Registry
from splitreg.tasks import ClassTarget, MultiLabelTarget, Target

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalHeadOptions:
    """How a local head is trained and calibrated.

    Args:
        head: the head for classes or labels of images that it stands for; None: the only one.
        max_loss: how much accuracy may be lost against sending everything, 0.01 is one point.
        width: channels of the first layer; the second has twice as many.
        epochs: passes over the training images.
        limit: largest number of images of each split.
        seed: of weights and order.
        overwrite: replace an existing bundle.
        progress: show bars on stderr.
    """

    head: str | None = None
    max_loss: float = 0.01
    width: int = 32
    epochs: int = 30
    limit: int | None = None
    seed: int = 0
    overwrite: bool = False
    progress: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalHeadResult:
    """A calibrated local head.

    Args:
        path: the new bundle.
        calibration: content of ``local.json``: ``temperature``, ``threshold``, and measured on images
            that were used for neither: ``accuracy`` (``local``, ``server``, ``escalated``), ``sent``
            (share of the images) and ``curve``. For labels, accuracy is the share of right labels.
    """

    path: Path
    calibration: dict[str, Any]


class LocalNetwork(nn.Module):
    """(batch, C, h, w) latent to (batch, K) logits: two convolutions, mean and maximum, one layer."""

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, classes: int, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("std", torch.ones(1, channels, 1, 1))
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU()
        )
        self.linear = nn.Linear(4 * width, classes)

    def forward(self, latent: Tensor) -> Tensor:
        """Return the logits of latents."""
        features = self.convolutions((latent - self.mean) / self.std).flatten(2)
        logits: Tensor = self.linear(torch.cat([features.mean(-1), features.amax(-1)], 1))
        return logits


def add_local_head(
    bundle: str | Path,
    path: str | Path,
    train: Source,
    val: Source,
    options: LocalHeadOptions | None = None,
    *,
    registry: Registry | None = None,
) -> LocalHeadResult:
    """Write a copy of a bundle with a local head; its other files and its packets stay the same.

    The network is trained on the latents of ``train``. Every second image of ``val`` sets temperature
    and threshold: the one that sends the fewest images and loses at most ``max_loss``. The others
    measure.

    Args:
        bundle: the folder, or ``zoo:NAME``.
        path: the folder to create.
        train: training images.
        val: validation images.
        options: head, size and so on.
        registry: the installed plugins, by default.

    Raises:
        RecipeError: no such head for classes or labels of images.
        DataError: too few labelled images, or other classes than the head's.
        BundleError: a bundle cannot be read or written.
    """
    options = options or LocalHeadOptions()
    onnx_library()
    model = load(bundle, registry=registry).eval()
    head = _head(model, options.head)
    fit = _collect(model, train, head, options, server=False)
    check = _collect(model, val, head, options, server=True)
    task = model.head(head).task
    network = _train(fit.latents, fit.truth, len(_labels(model, head)), options)
    with torch.inference_mode():
        logits = torch.cat([network(rows) for rows in torch.split(check.latents, 64)]).numpy().astype(np.float64)
    first, second = np.arange(0, len(logits), 2), np.arange(1, len(logits), 2)
    temperature = fit_temperature(*_decisions(logits[first], check.truth.numpy()[first]))
    probabilities, confidence = calibrated(logits, temperature, task)
    local = np.array([_share_right(*row) for row in zip(probabilities, check.truth.numpy(), strict=True)])
    server = check.server
    threshold = choose_threshold(confidence[first], local[first], server[first], options.max_loss)
    kept = confidence[second] >= threshold
    calibration = {
        "version": VERSIONS[task], "head": head, "labels": list(_labels(model, head)), "temperature": temperature,
        "threshold": threshold, "max_loss": options.max_loss, "images": {"train": len(fit.truth), "val": len(second)},
        "parameters": sum(p.numel() for p in network.parameters()),
        "accuracy": {
            "local": float(local[second].mean()), "server": float(server[second].mean()),
            "escalated": float(np.where(kept, local[second], server[second]).mean()),
        },
        "sent": float(1 - kept.mean()), "curve": curve(confidence[second], local[second], server[second]),
    }  # fmt: skip
    written = _write(Bundle.open(bundle), Path(path), _export(network, fit.latents[:1]), calibration, options.overwrite)
    return LocalHeadResult(path=written, calibration=calibration)


def fit_temperature(logits: Floats, labels: NDArray[np.int64]) -> float:
    """Return the temperature with the smallest cross-entropy, by golden-section search in its logarithm."""

    def loss(power: float) -> float:
        scaled = logits / np.exp(power)
        scaled = scaled - scaled.max(1, keepdims=True)
        picked = scaled[np.arange(len(labels)), labels]
        return float(np.mean(np.log(np.exp(scaled).sum(1)) - picked))

    low, high, ratio = np.log(0.05), np.log(20.0), (np.sqrt(5) - 1) / 2
    for _ in range(60):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if loss(left) < loss(right) else (left, high)
    return float(np.exp((low + high) / 2))


def _decisions(logits: Floats, truth: NDArray[Any]) -> tuple[Floats, NDArray[np.int64]]:
    """Return logits and classes for ``fit_temperature``: of images, or of each known label as one of two classes."""
    if truth.ndim == 1:
        return logits, truth
    known = ~np.isnan(truth)
    return np.stack([np.zeros(int(known.sum())), logits[known]], 1), truth[known].astype(np.int64)


def _share_right(probabilities: NDArray[np.float32], truth: NDArray[Any]) -> float:
    """Return whether the class is right, or the share of the known labels that are."""
    if truth.ndim == 0:
        return float(probabilities.argmax() == truth)
    known = ~np.isnan(truth)
    return float(((probabilities >= 0.5) == (truth == 1))[known].mean())


def choose_threshold(confidence: Floats, local: NDArray[Any], server: NDArray[Any], max_loss: float) -> float:
    """Return the smallest threshold that loses at most ``max_loss`` accuracy against sending everything.

    Args:
        confidence: (N,) of the local head.
        local: (N,) whether the local head is right, or its share of right labels.
        server: (N,) the same of the server.
        max_loss: absolute loss of accuracy.

    Returns:
        A confidence; above 1 if no image may be answered locally.
    """
    order = np.argsort(-confidence, kind="stable")
    kept = np.cumsum(local[order].astype(np.float64) - server[order].astype(np.float64))
    allowed = np.flatnonzero(kept >= -max_loss * len(order) - 1e-9)
    ends = np.flatnonzero(np.append(np.diff(confidence[order]) != 0, True))  # equal confidences stay together
    allowed = np.intersect1d(allowed, ends)
    return float(confidence[order][allowed[-1]]) if len(allowed) else 1.1


def curve(confidence: Floats, local: NDArray[Any], server: NDArray[Any], points: int = 21) -> list[dict[str, float]]:
    """Return the accuracy by share of sent images: the least sure ones are sent first."""
    order, count = np.argsort(confidence, kind="stable"), len(confidence)
    rows = []
    for sent in sorted({round(count * step / (points - 1)) for step in range(points)}):
        right = np.concatenate([server[order][:sent], local[order][sent:]])
        threshold = 1.1 if sent == count else float(confidence[order][sent])
        rows.append({"threshold": threshold, "sent": sent / count, "accuracy": float(right.mean())})
    return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class _Collected:
    """Latents (N, C, h, w), classes (N,) or labels (N, K), and the server's share of right answers (N,) or none."""

    latents: Tensor
    truth: Tensor
    server: Floats


def _head(model: SplitModel, name: str | None) -> str:
    names = [one for one in model.heads if model.head(one).task in VERSIONS]
    if name is not None:
        check_name(name, names, "head for classes or labels of images")
        return name
    if len(names) != 1:
        raise RecipeError(
            f"a local head stands for one head for classes or labels, this bundle has {len(names)}: "
            f"{', '.join(names) or 'none'}; name one with head (--head)"
        )
    return names[0]


def _labels(model: SplitModel, head: str) -> tuple[str, ...]:
    return tuple(next(planned.labels for planned in model.plan.heads if planned.name == head))


def _collect(model: SplitModel, source: Source, head: str, options: LocalHeadOptions, *, server: bool) -> _Collected:
    planned = [one for one in model.plan.heads if one.name == head]
    mapping = match_heads(planned, source.targets, REFUSE)[head]
    latents, truths, scores = [], list[Tensor](), list[float]()
    indexes = spread(len(source), options.limit)
    title = "local head: validation" if server else "local head: training images"
    for batch in Progress(options.progress).track(chunks(indexes, 16), -(-len(indexes) // 16), title):
        rows = [(source[index], None) for index in batch]
        for sample, _ in rows:
            truth = _truth(mapping.apply(sample.targets.get(mapping.target)))
            if truth is None:
                continue
            image = sample.array()
            latents.append(model.edge.latent_of(image)[0].copy())
            truths.append(truth)
            if server:
                answer: Any = model.server.infer(model.edge.encode(image), [head])[0][head]
                scores.append(_share_right(answer.probabilities, truth.numpy()))
    if len(truths) < 4:
        raise DataError(f"a local head needs labelled images in both splits, one has {len(truths)}")
    return _Collected(
        latents=torch.from_numpy(np.stack(latents)), truth=torch.stack(truths), server=np.array(scores, np.float64)
    )


def _truth(target: Target | None) -> Tensor | None:
    """Return the class, or the labels (K,) with NaN for unknown ones; None if nothing is known."""
    if isinstance(target, ClassTarget):
        return torch.tensor(target.index)
    if isinstance(target, MultiLabelTarget) and not bool(target.present.isnan().all()):
        return target.present.float()
    return None


def _loss(logits: Tensor, truth: Tensor) -> Tensor:
    if truth.ndim == 1:
        return functional.cross_entropy(logits, truth)
    known = ~truth.isnan()
    return functional.binary_cross_entropy_with_logits(logits[known], truth[known])


def _train(latents: Tensor, truth: Tensor, classes: int, options: LocalHeadOptions) -> LocalNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        network = LocalNetwork(latents.shape[1], classes, options.width).train()
        network.mean.copy_(latents.mean((0, 2, 3), keepdim=True))
        network.std.copy_(latents.std((0, 2, 3), keepdim=True).clamp(min=1e-6))
        steps = options.epochs * -(-len(truth) // 32)
        optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.02)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=max(2, steps))
        for _ in Progress(options.progress).track(range(options.epochs), options.epochs, "local head"):
            for rows in torch.split(torch.randperm(len(truth)), 32):
                batch = latents[rows]
                flipped = torch.rand(len(rows)) < 0.5
                batch = torch.where(flipped[:, None, None, None], batch.flip(-1), batch)
                optimizer.zero_grad()
                _loss(network(batch), truth[rows]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
    return network.eval()


def _export(network: LocalNetwork, example: Tensor) -> bytes:
    axes = {"latent": {0: "batch", 2: "height", 3: "width"}, "logits": {0: "batch"}}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
        file = Path(folder) / GRAPH
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (example,), str(file), input_names=["latent"], output_names=["logits"], opset_version=OPSET,
            dynamic_axes=axes, dynamo=False,
        )  # fmt: skip
        return simplify(file.read_bytes())


def _write(source: Bundle, path: Path, graph: bytes, calibration: dict[str, Any], overwrite: bool) -> Path:
    names: Sequence[str] = [name for name in source.config.files if name not in (GRAPH, CALIBRATION)]
    with new_folder(path, overwrite=overwrite) as folder:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source.check(name), folder / name)
        (folder / GRAPH).write_bytes(graph)
        (folder / CALIBRATION).write_text(json.dumps(calibration, indent=1) + "\n", encoding="utf-8")
        write_config(folder, source.config)
    return path
