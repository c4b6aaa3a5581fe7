"""The server half: packets in, predictions out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from splitreg.assembly.adapter import Branch
from splitreg.assembly.reading import Shaper, read_server
from splitreg.bundle import Bundle
from splitreg.coding import LatentCoding, Packet
from splitreg.errors import (
    CorruptPacket,
    ForeignPacket,
    RecipeError,
    ShapeMismatch,
    SplitregError,
    suggest,
)
from splitreg.imaging import MAX_PIXELS, Geometry
from splitreg.interfaces import Body, Bottleneck
from splitreg.recipe import PRECISIONS, check_precision
from splitreg.registry import Registry
from splitreg.tasks import Prediction

#: Coded sizes beyond this many pixels (or the model's own, if larger) are refused before anything is allocated; so many
#: pixels run together.
MAX_CODED_PIXELS = 4 * 1024 * 1024
#: So are those of so many times the model's own pixels: a packet of a few bytes may not cost more than that.
MAX_CODED_RATIO = 4
_HALVES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Images of one coded size behind the body.

    Args:
        images: their numbers in the request.
        originals: sizes of the original images.
        coded: (height, width) of the coded ones.
        features: stride -> (B, C, H/s, W/s).
    """

    images: tuple[int, ...]
    originals: tuple[tuple[int, int], ...]
    coded: tuple[int, int]
    features: Mapping[int, Tensor]


class ServerModel:
    """Coding, decoder, body and heads.

    Args:
        bottleneck: only its ``decoder`` (and what else ``synthesise`` uses) is needed.
        body: the backbone after the cut.
        branches: heads by name.
        coding: what the packets are; the edge half holds the same.
        shapes: coded size -> shapes of the latent and of the feature at the cut.

    Attributes:
        max_coded_pixels: packets whose coded image has more are refused.
        max_original_pixels: packets whose original image has more are refused: predictions are as large as that.
        max_mask_pixels: masks and other maps of larger images are scaled down to this many pixels, or to those of the
            coded image; None returns every pixel.
        device: where it computes.
        precision: in what arithmetic, one of ``splitreg.recipe.PRECISIONS``.
    """

    def __init__(
        self,
        bottleneck: Bottleneck,
        body: Body,
        branches: Mapping[str, Branch],
        coding: LatentCoding,
        shapes: Shaper,
    ) -> None:
        self.bottleneck = bottleneck
        self.body = body
        self.branches = branches
        self.coding = coding
        self.shapes = shapes
        own = coding.preprocess.size[0] * coding.preprocess.size[1]
        self.max_coded_pixels = max(own, min(MAX_CODED_PIXELS, MAX_CODED_RATIO * own))
        self.max_original_pixels = MAX_PIXELS
        self.max_mask_pixels: int | None = None
        self.device = torch.device("cpu")
        self.precision = PRECISIONS[0]

    @classmethod
    def load(
        cls, path: str | Path, heads: Iterable[str] | None = None, *, registry: Registry | None = None
    ) -> ServerModel:
        """Load the server half: reads ``config.json``, ``server.safetensors`` and the requested heads' files.

        Args:
            path: the folder, or ``zoo:NAME``.
            heads: names of the heads; None for all of them.
            registry: the installed plugins, by default.

        Raises:
            BundleError: a file is missing, altered, or does not fit; or no such head.
        """
        parts, coding, shapes = read_server(Bundle.open(path), heads, registry)
        return cls(parts.bottleneck, parts.body, parts.branches, coding, shapes)

    def place(self, device: str = "cpu", precision: str = PRECISIONS[0]) -> ServerModel:
        """Choose where this computes, and in what arithmetic; return it.

        Args:
            device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...
            precision: ``"32-true"``; ``"bf16-mixed"`` or ``"16-mixed"``: layers that bear it in 16 bits, with other last
                digits. Packets are decoded in integers whatever it is.

        Raises:
            RecipeError: no such device here, or no such precision.
        """
        check_precision(precision)
        check_device(device)
        self.device, self.precision = torch.device(device), precision
        for module in (self.bottleneck, *self.modules().values()):
            module.to(self.device)
        return self

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the heads."""
        return tuple(self.branches)

    def infer(
        self, packets: bytes | Sequence[bytes], heads: Iterable[str] | None = None
    ) -> list[dict[str, Prediction]]:
        """Run the requested heads on packets; images of one coded size run together, so many as memory allows.

        Args:
            packets: what ``EdgeModel.encode`` returned; or one of them.
            heads: names of the heads; None for all of them.

        Returns:
            For each image, head -> prediction in the pixels of the original image: packet by packet, and image by image
            within a packet of several. Packets of one image give one entry each.

        Raises:
            CorruptPacket: a packet is damaged, cut short, or not one.
            ForeignPacket: a packet was written by another model.
            RecipeError: no such head.
        """
        names = self._requested(heads)
        several = [bytes(packets)] if isinstance(packets, bytes | bytearray | memoryview) else list(packets)
        results: dict[int, dict[str, Prediction]] = {}
        for block in self.blocks(several):
            results |= self.predict(block, names)
        return [results[i] for i in range(len(results))]

    def blocks(self, packets: Iterable[bytes]) -> Iterator[Block]:
        """Give what the heads read: the features of images of one coded size, so many as memory allows.

        Raises:
            CorruptPacket: as ``infer``.
            ForeignPacket: as ``infer``.
        """
        parsed = [image for data in packets for image in self._images(Packet.parse(bytes(data)))]
        latents = [self.decode(image) for image in parsed]
        for coded in dict.fromkeys(image.coded for image in parsed):
            same = [i for i, image in enumerate(parsed) if image.coded == coded]
            most = max(1, MAX_CODED_PIXELS // (coded[0] * coded[1]))
            for rows in (same[i : i + most] for i in range(0, len(same), most)):
                with self._error_context(coded):
                    features = self.features(torch.from_numpy(np.stack([latents[i] for i in rows])), coded)
                yield Block(
                    images=tuple(rows),
                    originals=tuple(parsed[i].original for i in rows),
                    coded=coded,
                    features=features,
                )

    def predict(self, block: Block, heads: Sequence[str]) -> dict[int, dict[str, Prediction]]:
        """Run heads on a block: number of the image -> head -> prediction in the pixels of the original image.

        Raises:
            CorruptPacket: the model does not run on that size.
        """
        results: dict[int, dict[str, Prediction]] = {image: {} for image in block.images}
        limit = self.max_mask_pixels
        limit = None if limit is None else max(limit, block.coded[0] * block.coded[1])
        with self._error_context(block.coded), torch.inference_mode(), self._arithmetic():
            for name in heads:
                branch = self.branches[name].eval()
                found = branch.head.predict(branch(block.features, block.coded))
                for image, original, prediction in zip(block.images, block.originals, found, strict=True):
                    mode = self.coding.preprocess.mode
                    geometry = Geometry(original=original, coded=block.coded, mode=mode, max_mask_pixels=limit)
                    results[image][name] = prediction.restore(geometry)
        return results

    def decode(self, packet: Packet) -> NDArray[np.float32]:
        """Return the (C, h, w) float32 latent of a packet of one image (``Packet.images`` gives those of a batch).

        Raises:
            CorruptPacket: sizes beyond the limits, or a payload that is not one of this model's.
            ForeignPacket: another model wrote the packet.
            BundleError: the model has no tables yet.
        """
        coding = self.coding
        if coding.frozen is not None and packet.model_id != coding.model_id:
            raise ForeignPacket(
                f"the packet is for model {packet.model_id:08x}, this is {coding.model_id:08x}; load the bundle that "
                "wrote it"
            )
        for what, (height, width), limit in (
            ("coded", packet.coded, self.max_coded_pixels),
            ("original", packet.original, self.max_original_pixels),
        ):
            if height * width > limit:
                raise CorruptPacket(
                    f"the packet's {what} image has {width}x{height} pixels, beyond this server's limit of {limit}"
                )
        with self._error_context(packet.coded):
            shape = self.shapes(packet.coded).latent
        latent = coding.decode(packet.streams, shape)
        if not np.isfinite(latent).all():
            raise CorruptPacket("the packet decodes to values that are not finite; it was not written by this model")
        return latent

    def _images(self, packet: Packet) -> tuple[Packet, ...]:
        """Cut a batch into packets of one image; one packet may not ask for more original pixels than one image may."""
        pixels = sum(height * width for height, width in packet.originals)
        if packet.others and pixels > self.max_original_pixels:
            raise CorruptPacket(
                f"the packet's {len(packet.originals)} original images have {pixels} pixels together, beyond the limit of "
                f"{self.max_original_pixels} here; send fewer at once"
            )
        return packet.images

    def features(self, latents: Tensor, coded: tuple[int, int]) -> dict[int, Tensor]:
        """(B, C, h, w) latents -> stride -> (B, C, H/s, W/s), what every head reads."""
        weight = next(self._parameters(), None)
        decoder, body = self.bottleneck.eval(), self.body.eval()
        with torch.no_grad(), self._arithmetic():  # not inference mode: late heads train on these features
            restored = decoder.synthesise(latents if weight is None else latents.to(weight.device))
            features: dict[int, Tensor] = body(crop(restored, self.shapes(coded).feature))
        return {stride: feature.float() for stride, feature in features.items()}

    def modules(self) -> dict[str, nn.Module]:
        """What holds the server's weights, by name."""
        return {"body": self.body, **{f"heads.{name}": branch for name, branch in self.branches.items()}}

    def _parameters(self) -> Iterator[nn.Parameter]:
        yield from self.bottleneck.decoder.parameters()
        yield from self.body.parameters()
        for branch in self.branches.values():
            yield from branch.parameters()

    def _requested(self, heads: Iterable[str] | None) -> tuple[str, ...]:
        names = self.heads if heads is None else tuple([heads] if isinstance(heads, str) else heads)
        for name in names:
            if name not in self.branches:
                raise RecipeError(
                    f"no head {name!r} here.{suggest(name, self.heads)} There are: {', '.join(self.heads)}"
                )
        return names

    def _arithmetic(self) -> AbstractContextManager[object]:
        half = _HALVES.get(self.precision)
        return nullcontext() if half is None else torch.autocast(self.device.type, half)

    @contextmanager
    def _error_context(self, coded: tuple[int, int]) -> Iterator[None]:
        """Say that it is the packet's doing where the model does not run on a size that is not its own."""
        try:
            yield
        except SplitregError:
            raise
        except Exception as cause:  # a backbone may raise anything at a size that it was not made for
            if coded == self.coding.preprocess.size:
                raise
            raise CorruptPacket(f"this model does not run on a coded image of {coded[1]}x{coded[0]} pixels") from cause


def check_device(device: str) -> None:
    """Refuse a device that is not here.

    Raises:
        RecipeError: there is no such device.
    """
    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    there = ["cpu", *(["cuda"] if gpus else []), *gpus]
    if device not in there:
        raise RecipeError(f"there is no device {device!r} to serve on; here are: {', '.join(there)}")


def crop(feature: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut (B, C, h', w') to the (h, w) of the feature at the cut, at the right and the bottom.

    Raises:
        ShapeMismatch: the feature is smaller than that.
    """
    if feature.shape[-2] < size[0] or feature.shape[-1] < size[1]:
        raise ShapeMismatch(
            f"the bottleneck restored {tuple(feature.shape[-2:])}, the feature at the cut is {size}: its decoder must "
            "return at least that"
        )
    return feature[..., : size[0], : size[1]] if feature.shape[-2:] != size else feature
