"""What replicas compute: features of packets (body), answers of features (head); no Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from splitreg.assembly.adapter import Branch
from splitreg.assembly.server import FeatureBatch, ServerModel
from splitreg.bundle import Bundle
from splitreg.errors import BundleError, SplitregError
from splitreg.predictions import Prediction
from splitreg.recipe import PRECISIONS
from splitreg.serving.bundles import describe_model
from splitreg.serving.inference import InferenceRequest, run_isolated
from splitreg.serving.on_ray.features import StoredBatch, restore, store
from splitreg.serving.on_ray.messages import HeadAnswer
from splitreg.wire import error_body


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyFeatures:
    """The output of a body for several requests.

    Args:
        batches: features of all images, numbered across the requests.
        errors: index of a request -> body of its error.
    """

    batches: tuple[StoredBatch, ...]
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

        def run(part: Sequence[InferenceRequest]) -> list[StoredBatch]:
            packets = [packet for request in part for packet in request.packets]
            return [store(batch, strides) for batch in self._server.feature_batches(packets)]

        batches: list[StoredBatch] = []
        errors: dict[int, dict[str, Any]] = {}
        first_request = first_image = 0
        for part, output in run_isolated(run, requests):
            if isinstance(output, SplitregError):
                errors[first_request] = error_body(output)
            else:
                batches += [replace(batch, images=tuple(first_image + i for i in batch.images)) for batch in output]
            first_request += len(part)
            first_image += sum(request.images for request in part)
        return BodyFeatures(batches=tuple(batches), errors=errors)


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
        """Run the batches of several calls, those of equal size together.

        Args:
            calls: the requests need no packets.

        Returns:
            Per call and per request this head's part of the answer.
        """
        predictions: dict[tuple[int, int], Prediction | SplitregError] = {}  # by call and image
        resolutions = {
            (call, image): resolution
            for call, (_, requests) in enumerate(calls)
            for image, resolution in enumerate(
                request.answer_format.resolution for request in requests for _ in range(request.images)
            )
        }
        places = [(call, batch) for call, (features, _) in enumerate(calls) for batch in features.batches]
        for coded in dict.fromkeys(batch.coded for _, batch in places):
            same_size = [(call, batch) for call, batch in places if batch.coded == coded]
            owners = [(call, image) for call, batch in same_size for image in batch.images]
            joined = _join([restore(batch, self._device) for _, batch in same_size])
            joined = replace(joined, resolutions=tuple(resolutions[owner] for owner in owners))
            for start in range(0, len(owners), self._max_images):
                part = _slice(joined, start, start + self._max_images)
                predictions |= dict(zip(owners[start : start + self._max_images], self._predict(part), strict=True))
        return [self._write(number, call, predictions) for number, call in enumerate(calls)]

    def _predict(self, batch: FeatureBatch) -> list[Prediction | SplitregError]:
        """Run the images of a batch together; if one of them is faulty, each alone."""

        def run(indexes: Sequence[int]) -> list[Prediction]:
            part = _slice(batch, indexes[0], indexes[-1] + 1)
            return [heads[self._head] for heads in self.server.predict(part, (self._head,)).values()]

        outputs: list[Prediction | SplitregError] = []
        for _, output in run_isolated(run, range(len(batch.images))):
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


def _join(batches: Sequence[FeatureBatch]) -> FeatureBatch:
    """Return one batch of all images, numbered from 0; the batches must have one coded size."""
    count = sum(len(batch.images) for batch in batches)
    features = batches[0].features
    if len(batches) > 1:
        features = {stride: torch.cat([batch.features[stride] for batch in batches]) for stride in features}
    originals = tuple(size for batch in batches for size in batch.originals)
    return FeatureBatch(images=tuple(range(count)), originals=originals, coded=batches[0].coded, features=features)


def _slice(batch: FeatureBatch, start: int, stop: int) -> FeatureBatch:
    features = {stride: tensor[start:stop] for stride, tensor in batch.features.items()}
    return replace(
        batch, images=batch.images[start:stop], originals=batch.originals[start:stop], features=features,
        resolutions=batch.resolutions[start:stop],
    )  # fmt: skip
