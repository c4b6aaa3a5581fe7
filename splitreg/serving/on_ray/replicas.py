"""What the replicas do: a body turns packets into features, a head turns features into pieces of answers (no Ray here)."""

from __future__ import annotations

import contextlib
import faulthandler
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from splitreg.assembly.adapter import Branch
from splitreg.assembly.server import FeatureBatch, ServerModel
from splitreg.bundle import Bundle
from splitreg.errors import BundleError, ServiceError, SplitregError
from splitreg.predictions import Prediction
from splitreg.recipe import PRECISIONS
from splitreg.serving.on_ray.asks import Ask, Piece
from splitreg.serving.on_ray.tensors import Stored, restore, store
from splitreg.serving.worker import describe
from splitreg.wire import error_body


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """What a body made of several requests.

    Args:
        blocks: of all images, numbered through all requests.
        errors: number of the request -> why it has none.
    """

    blocks: tuple[Stored, ...]
    errors: Mapping[int, dict[str, Any]]


class BodyReplica:
    """Entropy decoding, synthesis and the shared body of one bundle.

    Args:
        bundle: its folder.
        model_id: that it must have; a folder may have got another bundle since the cluster was told of it.
        device: ``"cpu"`` or ``"cuda"``.
        precision: one of ``splitreg.recipe.PRECISIONS``.

    Raises:
        BundleError: it cannot be loaded, or is another model.
    """

    def __init__(
        self, bundle: str, model_id: str, heads: Sequence[str], device: str, precision: str = PRECISIONS[0]
    ) -> None:
        self._server = _load(bundle, model_id, heads, device, precision)
        self.description = describe(self._server, Path(bundle).resolve().name, Bundle.open(bundle).config)
        self._reads = {name: strides_of(branch) for name, branch in self._server.branches.items()}
        self._server.branches = {}

    def embed(self, asks: Sequence[Ask], heads: Sequence[str]) -> Embedded:
        """Run requests together; where one of them is wrong, each alone, so that the others do not pay for it.

        Args:
            asks: the requests, with their packets.
            heads: only the strides that these read are returned.
        """
        strides = set().union(*(self._reads[head] for head in heads))
        try:
            packets = [packet for ask in asks for packet in ask.packets]
            return Embedded(
                blocks=tuple(store(block, strides) for block in self._server.feature_batches(packets)), errors={}
            )
        except Exception as error:
            if len(asks) == 1:
                return Embedded(blocks=(), errors={0: _told(error)})
        blocks: list[Stored] = []
        errors: dict[int, dict[str, Any]] = {}
        start = 0
        for number, ask in enumerate(asks):
            alone = self.embed([ask], heads)
            blocks += [replace(b, images=tuple(start + image for image in b.images)) for b in alone.blocks]
            if alone.errors:
                errors[number] = alone.errors[0]
            start += ask.images
        return Embedded(blocks=tuple(blocks), errors=errors)


class HeadReplica:
    """One head of one bundle.

    Args:
        bundle: its folder.
        model_id: that it must have.
        head: its name.
        device: ``"cpu"`` or ``"cuda"``.
        batch_images: that run together.
        precision: one of ``splitreg.recipe.PRECISIONS``.

    Raises:
        BundleError: it cannot be loaded, or is another model.
    """

    def __init__(
        self, bundle: str, model_id: str, head: str, device: str, batch_images: int, precision: str = PRECISIONS[0]
    ) -> None:
        self._server = _load(
            bundle, model_id, (head,), device, precision
        )  # with its body for once: the first run is the slowest
        self._server.bottleneck.decoder, self._server.body = nn.Identity(), nn.Identity()  # type: ignore[assignment]
        self._server.coding = replace(self._server.coding, frozen=None)
        self._head, self._device, self._most = head, torch.device(device), batch_images

    def answer(self, calls: Sequence[tuple[Embedded, Sequence[Ask]]]) -> list[list[Piece]]:
        """Run the blocks of several calls, those of one size together.

        Args:
            calls: of each what the body made, and the requests (their packets are not needed).

        Returns:
            Call by call, and request by request, this head's piece of the answer.
        """
        found: dict[tuple[int, int], Prediction | SplitregError] = {}
        places = [(call, block) for call, (embedded, _) in enumerate(calls) for block in embedded.blocks]
        for coded in dict.fromkeys(block.coded for _, block in places):
            same = [(call, block) for call, block in places if block.coded == coded]
            owners = [(call, image) for call, block in same for image in block.images]
            whole = _join([restore(block, self._device) for _, block in same])
            for start in range(0, len(owners), self._most):
                predictions = self._predict(_cut(whole, start, start + self._most))
                found |= dict(zip(owners[start : start + self._most], predictions, strict=True))
        return [self._pieces(call, embedded, asks, found) for call, (embedded, asks) in enumerate(calls)]

    def _predict(self, block: FeatureBatch) -> list[Prediction | SplitregError]:
        try:
            return [found[self._head] for found in self._server.predict(block, (self._head,)).values()]
        except Exception as error:
            if len(block.images) == 1:
                return [error if isinstance(error, SplitregError) else _failure(error)]
        return [self._predict(_cut(block, i, i + 1))[0] for i in range(len(block.images))]

    def _pieces(
        self,
        call: int,
        embedded: Embedded,
        asks: Sequence[Ask],
        found: Mapping[tuple[int, int], Prediction | SplitregError],
    ) -> list[Piece]:
        pieces = []
        start = 0
        for number, ask in enumerate(asks):
            error, predictions = embedded.errors.get(number), []
            for image in range(start, start + ask.images) if error is None else ():
                one = found[call, image]
                if isinstance(one, SplitregError):
                    error = error_body(one)
                    break
                predictions.append(one)
            pieces.append(
                Piece(error=error) if error is not None else Piece(blobs=ask.form.pieces(self._head, predictions))
            )
            start += ask.images
        return pieces


def strides_of(branch: Branch) -> set[int]:
    """Return the strides of the body that a head reads, through its adapter or without one."""
    adapter = branch.adapter
    return {stride if adapter is None else adapter.origin.get(stride, stride) for stride in branch.head.needs}


@contextlib.contextmanager
def watchdog(seconds: float) -> Iterator[None]:
    """End this process where the block takes longer, even if it never gives Python a chance: the call goes to another."""
    faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__ or sys.stderr)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def _load(bundle: str, model_id: str, heads: Sequence[str], device: str, precision: str) -> ServerModel:
    server = ServerModel.load(bundle, heads)
    if f"{server.coding.model_id:08x}" != model_id:
        raise BundleError(
            f"{bundle} is model {server.coding.model_id:08x} now, {model_id} is to be served; put each bundle in its "
            "own folder"
        )
    server.place(device, precision)
    packet = Bundle.open(bundle).read("testvectors/packet.bin")
    for _ in range(2):
        server.infer(packet)
    return server


def _join(blocks: Sequence[FeatureBatch]) -> FeatureBatch:
    """Put blocks of one size together; their images are numbered anew."""
    count = sum(len(block.images) for block in blocks)
    features = blocks[0].features
    if len(blocks) > 1:
        features = {stride: torch.cat([block.features[stride] for block in blocks]) for stride in features}
    originals = tuple(size for block in blocks for size in block.originals)
    return FeatureBatch(images=tuple(range(count)), originals=originals, coded=blocks[0].coded, features=features)


def _cut(block: FeatureBatch, start: int, stop: int) -> FeatureBatch:
    features = {stride: tensor[start:stop] for stride, tensor in block.features.items()}
    return replace(block, images=block.images[start:stop], originals=block.originals[start:stop], features=features)


def _told(error: Exception) -> dict[str, Any]:
    return error_body(error if isinstance(error, SplitregError) else _failure(error))


def _failure(error: Exception) -> ServiceError:
    traceback.print_exception(error)
    return ServiceError(f"the model failed on this packet ({type(error).__name__}); the replica's log says more")
