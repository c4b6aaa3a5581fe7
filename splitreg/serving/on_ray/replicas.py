"""What replicas compute: features of packets (body), answers of features (head); no Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from splitreg.assembly.adapter import Branch
from splitreg.assembly.server import Block, ServerModel
from splitreg.bundle import Bundle
from splitreg.errors import BundleError, SplitregError
from splitreg.predictions import Prediction
from splitreg.recipe import PRECISIONS
from splitreg.serving.bundles import describe_model
from splitreg.serving.inference import InferenceRequest, run_isolated
from splitreg.serving.on_ray.features import StoredBlock, restore, store
from splitreg.serving.on_ray.messages import HeadAnswer
from splitreg.wire import error_body


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyFeatures:
    """The output of a body for several requests.

    Args:
        blocks: features of all images, numbered across the requests.
        errors: index of a request -> body of its error.
    """

    blocks: tuple[StoredBlock, ...]
    errors: Mapping[int, dict[str, Any]]


#: One call of a head: the output of the body, and the requests that it belongs to.
HeadCall = tuple[BodyFeatures, Sequence[InferenceRequest]]


class BodyReplica:
    """Entropy decoding, synthesis and the shared body of one bundle.

    Args:
        bundle: its folder.
        model_id: expected model id; the folder may contain another bundle by now.
        heads: heads that are served.
        device: ``"cpu"`` or ``"cuda"``.
        precision: one of ``splitreg.recipe.PRECISIONS``.

    Raises:
        BundleError: the bundle cannot be loaded, or has another model id.
    """

    def __init__(
        self, bundle: str, model_id: str, heads: Sequence[str], device: str, precision: str = PRECISIONS[0]
    ) -> None:
        self._server = _load(bundle, model_id, heads, device, precision)
        self.description = describe_model(self._server, Path(bundle).resolve().name, Bundle.open(bundle).config)
        self._strides = {name: strides_of(branch) for name, branch in self._server.branches.items()}
        self._server.branches = {}

    @property
    def branches(self) -> Mapping[str, Branch]:
        """Heads in memory: none, once the bundle is loaded."""
        return self._server.branches

    def embed(self, requests: Sequence[InferenceRequest], heads: Sequence[str]) -> BodyFeatures:
        """Run requests together; if one of them is faulty, each alone.

        Args:
            requests: with their packets.
            heads: only the strides that these read are returned.
        """
        strides = set().union(*(self._strides[head] for head in heads))

        def run(batch: Sequence[InferenceRequest]) -> list[StoredBlock]:
            packets = [packet for request in batch for packet in request.packets]
            return [store(block, strides) for block in self._server.blocks(packets)]

        blocks: list[StoredBlock] = []
        errors: dict[int, dict[str, Any]] = {}
        first_request = first_image = 0
        for batch, output in run_isolated(run, requests):
            if isinstance(output, SplitregError):
                errors[first_request] = error_body(output)
            else:
                blocks += [replace(b, images=tuple(first_image + image for image in b.images)) for b in output]
            first_request += len(batch)
            first_image += sum(request.images for request in batch)
        return BodyFeatures(blocks=tuple(blocks), errors=errors)


class HeadReplica:
    """One head of one bundle.

    Args:
        bundle: its folder.
        model_id: expected model id; the folder may contain another bundle by now.
        head: its name.
        device: ``"cpu"`` or ``"cuda"``.
        max_batch_images: images per batch.
        precision: one of ``splitreg.recipe.PRECISIONS``.

    Raises:
        BundleError: the bundle cannot be loaded, or has another model id.
    """

    def __init__(
        self, bundle: str, model_id: str, head: str, device: str, max_batch_images: int, precision: str = PRECISIONS[0]
    ) -> None:
        self.server = _load(bundle, model_id, (head,), device, precision)  # warmed up with its body
        self.server.bottleneck.decoder = nn.Identity()
        self.server.body = nn.Identity()  # type: ignore[assignment]
        self.server.coding = replace(self.server.coding, frozen=None)
        self._head, self._device, self._max_images = head, torch.device(device), max_batch_images

    def answer(self, calls: Sequence[HeadCall]) -> list[list[HeadAnswer]]:
        """Run the blocks of several calls, those of equal size together.

        Args:
            calls: the requests need no packets.

        Returns:
            Per call and per request this head's part of the answer.
        """
        predictions: dict[tuple[int, int], Prediction | SplitregError] = {}  # by call and image
        places = [(call, block) for call, (features, _) in enumerate(calls) for block in features.blocks]
        for coded in dict.fromkeys(block.coded for _, block in places):
            same_size = [(call, block) for call, block in places if block.coded == coded]
            owners = [(call, image) for call, block in same_size for image in block.images]
            joined = _join([restore(block, self._device) for _, block in same_size])
            for start in range(0, len(owners), self._max_images):
                part = _slice(joined, start, start + self._max_images)
                predictions |= dict(zip(owners[start : start + self._max_images], self._predict(part), strict=True))
        return [self._write(number, call, predictions) for number, call in enumerate(calls)]

    def _predict(self, block: Block) -> list[Prediction | SplitregError]:
        """Run the images of a block together; if one of them is faulty, each alone."""

        def run(indexes: Sequence[int]) -> list[Prediction]:
            part = _slice(block, indexes[0], indexes[-1] + 1)
            return [heads[self._head] for heads in self.server.predict(part, (self._head,)).values()]

        outputs: list[Prediction | SplitregError] = []
        for _, output in run_isolated(run, range(len(block.images))):
            outputs += [output] if isinstance(output, SplitregError) else output
        return outputs

    def _write(
        self, number: int, call: HeadCall, predictions: Mapping[tuple[int, int], Prediction | SplitregError]
    ) -> list[HeadAnswer]:
        features, requests = call
        answers: list[HeadAnswer] = []
        start = 0
        for index, request in enumerate(requests):
            images = range(start, start + request.images)
            start += request.images
            if index in features.errors:
                answers.append(HeadAnswer(error=features.errors[index]))
                continue
            outputs = [predictions[number, image] for image in images]
            error = next((output for output in outputs if isinstance(output, SplitregError)), None)
            if error is not None:
                answers.append(HeadAnswer(error=error_body(error)))
            else:
                valid = [output for output in outputs if not isinstance(output, SplitregError)]
                answers.append(HeadAnswer(blobs=request.answer_format.write_head(self._head, valid)))
        return answers


def strides_of(branch: Branch) -> set[int]:
    """Return the strides of the body that a head reads, directly or through its adapter."""
    adapter = branch.adapter
    return {stride if adapter is None else adapter.origin.get(stride, stride) for stride in branch.head.needs}


def _load(bundle: str, model_id: str, heads: Sequence[str], device: str, precision: str) -> ServerModel:
    server = ServerModel.load(bundle, heads)
    if f"{server.coding.model_id:08x}" != model_id:
        raise BundleError(
            f"{bundle} should contain model {model_id}, but contains {server.coding.model_id:08x} now; use a separate folder "
            "for each bundle"
        )
    server.place(device, precision)
    packet = Bundle.open(bundle).read("testvectors/packet.bin")
    for _ in range(2):  # warm-up
        server.infer(packet)
    return server


def _join(blocks: Sequence[Block]) -> Block:
    """Return one block of all images, numbered from 0; the blocks must have one coded size."""
    count = sum(len(block.images) for block in blocks)
    features = blocks[0].features
    if len(blocks) > 1:
        features = {stride: torch.cat([block.features[stride] for block in blocks]) for stride in features}
    originals = tuple(size for block in blocks for size in block.originals)
    return Block(images=tuple(range(count)), originals=originals, coded=blocks[0].coded, features=features)


def _slice(block: Block, start: int, stop: int) -> Block:
    features = {stride: tensor[start:stop] for stride, tensor in block.features.items()}
    return replace(block, images=block.images[start:stop], originals=block.originals[start:stop], features=features)
