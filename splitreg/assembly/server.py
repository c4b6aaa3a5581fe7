"""``ServerModel``: the server half, packets to predictions."""

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
from splitreg.assembly.server_stream import ServerStream
from splitreg.bundle import Bundle
from splitreg.coding import LatentCoding, Packet, StreamFormat
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

#: Packets whose coded image has more pixels (or more than the model's own, if larger) are rejected;
#: also the largest number of coded pixels that run together.
MAX_CODED_PIXELS = 4 * 1024 * 1024
#: Packets whose coded image has more times the model's own pixels are rejected: a packet of a few
#: bytes must not be expensive.
MAX_CODED_RATIO = 4
_AUTOCAST_TYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureBatch:
    """Features of B images of one coded size, the input of the heads.

    Args:
        images: positions of the images in the request.
        originals: (height, width) of the original images.
        coded: (height, width) of the coded images.
        features: stride -> (B, C, H/s, W/s).
        resolutions: of masks and other maps, per image; empty: ``"full"``.
    """

    images: tuple[int, ...]
    originals: tuple[tuple[int, int], ...]
    coded: tuple[int, int]
    features: Mapping[int, Tensor]
    resolutions: tuple[str, ...] = ()


class ServerModel:
    """Coding, decoder, body and heads.

    Args:
        bottleneck: only its ``synthesise`` is used.
        body: the backbone after the cut.
        branches: name -> head.
        coding: preprocessing, tables and codec; the edge half has the same.
        shapes: coded size -> shapes of the latent and of the feature at the cut.

    Attributes:
        max_coded_pixels: packets with a larger coded image are rejected.
        max_original_pixels: packets with a larger original image are rejected, because predictions
            have its size.
        max_mask_pixels: masks and other maps of larger images are scaled down to this many pixels, or to those of the
            coded image; None returns every pixel.
        device: the device of the weights.
        precision: one of ``splitreg.recipe.PRECISIONS``.
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
        """Load the server half: ``config.json``, ``server.safetensors`` and the files of the heads.

        Args:
            path: the folder, or ``zoo:NAME``.
            heads: names of the heads; None: all.
            registry: the installed plugins, by default.

        Raises:
            BundleError: a file is missing or altered, tensors do not fit, or no such head.
        """
        parts, coding, shapes = read_server(Bundle.open(path), heads, registry)
        server = cls(parts.bottleneck, parts.body, parts.branches, coding, shapes)
        for module in (server.bottleneck, *server.modules().values()):
            module.to(memory_format=torch.channels_last)  # convolutions of few images are faster
        return server

    def place(self, device: str = "cpu", precision: str = PRECISIONS[0]) -> ServerModel:
        """Move the model to a device and set its precision; return the model.

        Args:
            device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...
            precision: ``"32-true"``, ``"bf16-mixed"`` or ``"16-mixed"`` (autocast). Packets are
                decoded in integers with every precision.

        Raises:
            RecipeError: no such device or precision.
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
        self,
        packets: bytes | Sequence[bytes],
        heads: Iterable[str] | None = None,
        *,
        resolutions: str | Sequence[str] = "full",
    ) -> list[dict[str, Prediction]]:
        """Run heads on packets; images of one coded size run together, up to ``MAX_CODED_PIXELS``.

        Args:
            packets: packets of ``EdgeModel.encode``, or one of them.
            heads: names of the heads; None: all.
            resolutions: size of masks and other maps, one of ``imaging.RESOLUTIONS``, of all packets
                or per packet.

        Returns:
            For each image, head -> prediction in pixels of the original image; packet by packet, and
            image by image within a packet.

        Raises:
            CorruptPacket: a packet is damaged, cut short or not valid.
            ForeignPacket: a packet was written by another model.
            RecipeError: no such head.
        """
        names = self._requested(heads)
        several = [bytes(packets)] if isinstance(packets, bytes | bytearray | memoryview) else list(packets)
        results: dict[int, dict[str, Prediction]] = {}
        if isinstance(resolutions, str):
            resolutions = [resolutions] * len(several)
        for batch in self.feature_batches(several, resolutions):
            results |= self.predict(batch, names)
        return [results[i] for i in range(len(results))]

    def stream(self, stream: StreamFormat) -> ServerStream:
        """Return the server's side of an ``EdgeStream``, for its ``format``.

        Raises:
            ForeignPacket: the stream is of another model.
        """
        return ServerStream(self.coding, stream, self.infer)

    def feature_batches(self, packets: Iterable[bytes], resolutions: Sequence[str] = ()) -> Iterator[FeatureBatch]:
        """Yield the input of the heads: features of images of one coded size.

        Args:
            packets: as ``infer``.
            resolutions: per packet; empty: ``"full"``.

        Raises:
            CorruptPacket: as ``infer``.
            ForeignPacket: as ``infer``.
        """
        parsed: list[Packet] = []
        sizes: list[str] = []
        for number, data in enumerate(packets):
            images = self._images(Packet.parse(bytes(data)))
            parsed += images
            sizes += [resolutions[number] if resolutions else "full"] * len(images)
        latents = [self.decode(image) for image in parsed]
        for coded in dict.fromkeys(image.coded for image in parsed):
            same_size = [i for i, image in enumerate(parsed) if image.coded == coded]
            batch_size = max(1, MAX_CODED_PIXELS // (coded[0] * coded[1]))
            for start in range(0, len(same_size), batch_size):
                rows = same_size[start : start + batch_size]
                with self._error_context(coded):
                    features = self.features(torch.from_numpy(np.stack([latents[i] for i in rows])), coded)
                yield FeatureBatch(
                    images=tuple(rows),
                    originals=tuple(parsed[i].original for i in rows),
                    coded=coded,
                    features=features,
                    resolutions=tuple(sizes[i] for i in rows),
                )

    def predict(self, batch: FeatureBatch, heads: Sequence[str]) -> dict[int, dict[str, Prediction]]:
        """Run heads on features.

        Returns:
            Position of the image -> head -> prediction in pixels of the original image.

        Raises:
            CorruptPacket: the model does not run on that size.
        """
        results: dict[int, dict[str, Prediction]] = {image: {} for image in batch.images}
        limit = self.max_mask_pixels
        limit = None if limit is None else max(limit, batch.coded[0] * batch.coded[1])
        with self._error_context(batch.coded), torch.inference_mode(), self._autocast():
            for name in heads:
                branch = self.branches[name].eval()
                predictions = branch.head.predict(branch(batch.features, batch.coded))
                for row, (image, prediction) in enumerate(zip(batch.images, predictions, strict=True)):
                    geometry = Geometry(
                        original=batch.originals[row],
                        coded=batch.coded,
                        mode=self.coding.preprocess.mode,
                        max_mask_pixels=limit,
                        resolution=batch.resolutions[row] if batch.resolutions else "full",
                    )
                    results[image][name] = prediction.restore(geometry)
        return results

    def decode(self, packet: Packet) -> NDArray[np.float32]:
        """Return the (C, h, w) float32 latent of a packet of one image; see ``Packet.images``.

        Raises:
            CorruptPacket: an image exceeds the limits, or the payload is not valid for this model.
            ForeignPacket: the packet was written by another model.
            BundleError: the model has no tables yet.
        """
        coding = self.coding
        if coding.frozen is not None and packet.model_id != coding.model_id:
            raise ForeignPacket(
                f"the packet was written by model {packet.model_id:08x}, this is {coding.model_id:08x}; load the bundle "
                "that wrote it"
            )
        for name, (height, width), limit in (
            ("coded", packet.coded, self.max_coded_pixels),
            ("original", packet.original, self.max_original_pixels),
        ):
            if height * width > limit:
                raise CorruptPacket(
                    f"the packet's {name} image has {width}x{height} pixels, this server's limit is {limit} in all"
                )
        with self._error_context(packet.coded):
            shape = self.shapes(packet.coded).latent
        latent = coding.decode(packet.streams, shape, context=packet.context)
        if not np.isfinite(latent).all():
            raise CorruptPacket("the packet decodes to NaN or infinite values; it was not written by this model")
        return latent

    def _images(self, packet: Packet) -> tuple[Packet, ...]:
        """Split a batch into packets of one image; its original pixels have the limit of one image."""
        pixels = sum(height * width for height, width in packet.originals)
        if packet.others and pixels > self.max_original_pixels:
            raise CorruptPacket(
                f"the packet's {len(packet.originals)} original images have {pixels} pixels in all, this server's limit is "
                f"{self.max_original_pixels}; send fewer images at once"
            )
        return packet.images

    def features(self, latents: Tensor, coded: tuple[int, int]) -> dict[int, Tensor]:
        """(B, C, h, w) latents -> stride -> (B, C, H/s, W/s), the input of the heads."""
        weight = next(self._parameters(), None)
        decoder, body = self.bottleneck.eval(), self.body.eval()
        with torch.no_grad(), self._autocast():  # not inference mode: late heads train on these features
            restored = decoder.synthesise(latents if weight is None else latents.to(weight.device))
            features: dict[int, Tensor] = body(crop(restored, self.shapes(coded).feature))
        return {stride: feature.float() for stride, feature in features.items()}

    def modules(self) -> dict[str, nn.Module]:
        """Return name -> module with the server's weights."""
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
                    f"no head {name!r}.{suggest(name, self.heads)} Available: {', '.join(self.heads) or 'none'}"
                )
        return names

    def _autocast(self) -> AbstractContextManager[object]:
        dtype = _AUTOCAST_TYPES.get(self.precision)
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype)

    @contextmanager
    def _error_context(self, coded: tuple[int, int]) -> Iterator[None]:
        """Report a size that the model does not support as an error of the packet."""
        try:
            yield
        except SplitregError:
            raise
        except Exception as cause:  # a backbone may raise anything at an unsupported size
            if coded == self.coding.preprocess.size:
                raise
            raise CorruptPacket(f"the model does not support coded images of {coded[1]}x{coded[0]} pixels") from cause


def check_device(device: str) -> None:
    """Check that a device exists.

    Raises:
        RecipeError: it does not.
    """
    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    available = ["cpu", *(["cuda"] if gpus else []), *gpus]
    if device not in available:
        raise RecipeError(f"no device {device!r}.{suggest(device, available)} Available: {', '.join(available)}")


def crop(feature: Tensor, size: tuple[int, int]) -> Tensor:
    """Crop (B, C, h', w') to (h, w), at the right and the bottom.

    Raises:
        ShapeMismatch: the feature is smaller.
    """
    if feature.shape[-2] < size[0] or feature.shape[-1] < size[1]:
        raise ShapeMismatch(
            f"the bottleneck's decoder must restore at least the feature at the cut, {size}; it restored "
            f"{tuple(feature.shape[-2:])}"
        )
    return feature[..., : size[0], : size[1]] if feature.shape[-2:] != size else feature
