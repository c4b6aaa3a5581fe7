"""``fit_context``: a context network for a trained model: smaller packets, the same answers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from splitreg import imaging
from splitreg.assembly import SplitModel, plan
from splitreg.assembly.building import assemble
from splitreg.coding import RansCodec
from splitreg.data.loading import Source
from splitreg.errors import RecipeError, TrainingError
from splitreg.progress import Progress
from splitreg.registry import Registry, discover

#: Units of all channels together, and most and fewest units of one, if the options do not say it.
UNITS, MAX_UNITS, MIN_UNITS = 512, 8, 2
#: Smallest part of an image's side in a view.
SMALLEST = 0.6


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextOptions:
    """Size of the network and of its training.

    Args:
        width: units around a position, see ``ContextNetwork``.
        units: units of each channel; None: ``MAX_UNITS``, and fewer for more than ``UNITS / MAX_UNITS`` channels.
        steps: updates.
        batch_size: images per update.
        lr: largest learning rate; it falls to 0 (cosine).
        images: largest number of images, spread evenly over the source.
        views: how often an image is read: whole, then random parts of it, every other one mirrored.
        seed: of weights, rates and batches.
        progress: show a bar on stderr.
    """

    width: int = 64
    units: int | None = None
    steps: int = 2000
    batch_size: int = 8
    lr: float = 3e-3
    images: int = 600
    views: int = 5
    seed: int = 0
    progress: bool = False


def fit_context(
    model: SplitModel, source: Source, options: ContextOptions | None = None, *, registry: Registry | None = None
) -> SplitModel:
    """Return the model with a context network, fitted to the latents of images and of parts of them.

    Everything else is unchanged, so decoded latents and predictions are the same, bit for bit. A context network that the model
    already has is replaced. Its packets have another model id.

    Args:
        model: trained; its bottleneck needs an option ``context``, as ``fp``.
        source: images like those that will be sent; no label is read.
        options: size of the network and of its training.
        registry: the installed plugins, by default.

    Raises:
        RecipeError: the bottleneck has no context network, or the codec uses none.
        TrainingError: the loss is not finite.
    """
    options = options or ContextOptions()
    model = _with_context(model, options, registry or discover())
    progress = Progress(options.progress)
    latents = torch.stack(list(_latents(model, source, options, progress)))
    context = model.parts()["context"]
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in context.parameters():
        parameter.requires_grad_(True)
    _train(model, context, latents, options, progress)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    model.eval()
    model.freeze_tables()
    return model


def _with_context(model: SplitModel, options: ContextOptions, registry: Registry) -> SplitModel:
    """Return a copy of the model whose bottleneck has a context network with new weights."""
    part = model.recipe.bottleneck
    if "context" not in registry.component("bottleneck", part.name).options:
        having = [
            name for name in registry["bottleneck"] if "context" in registry.component("bottleneck", name).options
        ]
        raise RecipeError(
            f"bottleneck {part.name} has no option 'context', so it cannot have a context network; those that have: "
            f"{', '.join(having)}"
        )
    if not isinstance(model.coding.codec, RansCodec):
        raise RecipeError(
            f"codec {type(model.coding.codec).__name__} does not use a context network; write the model with codec rans "
            "first: splitreg publish BUNDLE --codec rans -o NEW"
        )
    units = options.units or min(MAX_UNITS, max(MIN_UNITS, UNITS // model.bottleneck.latent.channels))
    bottleneck = replace(part, options={**part.options, "context": options.width, "context_units": units})
    recipe = replace(model.recipe, bottleneck=bottleneck)
    planned = plan(replace(recipe, data=(), stages=(), sweep={}, augment={}), registry=registry)
    torch.manual_seed(options.seed)
    copy = assemble(replace(planned, recipe=recipe, preprocess=model.plan.preprocess), weights=False)
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("bottleneck.context.")}
    missing, unexpected = copy.load_state_dict(state, strict=False)
    assert not unexpected and all(name.startswith("bottleneck.context.") for name in missing)
    copy.trained = model.trained
    return copy.eval()


@torch.no_grad()
def _latents(model: SplitModel, source: Source, options: ContextOptions, progress: Progress) -> Iterator[Tensor]:
    """Yield the (C, h, w) latents of all views of all images."""
    rng = np.random.default_rng(options.seed)
    chosen = np.linspace(0, len(source) - 1, min(len(source), options.images)).round().astype(int)
    with progress.bar("latents", total=len(chosen)) as bar:
        for done, number in enumerate(chosen.tolist(), 1):
            image = source[number].array()
            for view in range(options.views):
                part = _part(image, rng) if view else image
                pixels, _ = imaging.prepare(part[:, ::-1] if view % 2 else part, model.coding.preprocess)
                yield model.edge.latent(torch.from_numpy(pixels)[None])[0].float()
            bar.update(done)


def _part(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return a random part of an (H, W, 3) image, with ``SMALLEST`` to all of each side."""
    size = rng.uniform(SMALLEST, 1)
    height, width = (max(1, round(side * size)) for side in image.shape[:2])
    top, left = rng.integers(image.shape[0] - height + 1), rng.integers(image.shape[1] - width + 1)
    return image[top : top + height, left : left + width]


def _train(model: SplitModel, context: nn.Module, latents: Tensor, options: ContextOptions, progress: Progress) -> None:
    generator = torch.Generator().manual_seed(options.seed)
    optimizer = torch.optim.AdamW(context.parameters(), lr=options.lr, weight_decay=0.05)
    batches = _batches(len(latents), options, generator)
    context.train()
    model.bottleneck.training = True  # so that it draws rates
    with progress.bar("context", total=options.steps) as bar:
        for step, batch in enumerate(batches):
            part = (step + 1) / options.steps
            for group in optimizer.param_groups:
                group["lr"] = options.lr * min(1, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * part))
            bits = model.bottleneck.rate(latents[batch])
            loss = bits.log().mean()  # so that all rates count the same
            if not torch.isfinite(loss):
                raise TrainingError("the loss of the context network is not finite; try a smaller learning rate")
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(context.parameters(), 1.0)
            optimizer.step()
            bar.update(step + 1, f"loss {loss.item():.3f}")


def _batches(count: int, options: ContextOptions, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield indexes of images, each image once before any of them again."""
    waiting = torch.empty(0, dtype=torch.long)
    for _ in range(options.steps):
        while len(waiting) < options.batch_size:
            waiting = torch.cat([waiting, torch.randperm(count, generator=generator)])
        yield waiting[: options.batch_size]
        waiting = waiting[options.batch_size :]


def packet_sizes(
    model: SplitModel, source: Source, *, limit: int | None = None, progress: bool = False
) -> dict[float | None, float]:
    """Return the mean ``len(packet)`` of images: at five rates, or under None for a model with one rate.

    Args:
        model: with frozen tables.
        source: of images.
        limit: largest number of images; None: all.
        progress: show a bar on stderr.
    """
    rates: list[float | None] = [0.0, 0.25, 0.5, 0.75, 1.0] if model.coding.has_rates else [None]
    totals = dict.fromkeys(rates, 0)
    count = len(source) if limit is None else min(len(source), limit)
    with Progress(progress).bar("packets", total=count) as bar:
        for number in range(count):
            latent, geometry = model.edge.latent_of(source[number].array())
            for rate in rates:
                totals[rate] += len(model.edge.encode_latent(latent, geometry, rate=rate))
            bar.update(number + 1)
    return {rate: total / count for rate, total in totals.items()}
