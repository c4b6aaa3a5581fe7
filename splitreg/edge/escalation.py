"""Escalation: a small local head answers when it is sure, other images are sent to the server."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from splitreg.bundle import Bundle
from splitreg.edge.answer import Answer
from splitreg.edge.client import Client
from splitreg.edge.runtimes import onnx_session
from splitreg.errors import BundleError, RecipeError
from splitreg.files import parse_json
from splitreg.predictions import CLASSIFICATION, MULTILABEL, Classification, MultiLabel

if TYPE_CHECKING:
    from splitreg.imaging import Geometry, ImageLike

#: Files of a local head in a bundle: the network, and its calibration.
GRAPH, CALIBRATION = "local.onnx", "local.json"
#: Task of the head -> version of ``local.json``.
VERSIONS = {CLASSIFICATION: 1, MULTILABEL: 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalAnswer:
    """The answer of a local head.

    Args:
        prediction: calibrated probabilities.
        confidence: how sure it is, see ``calibrated``.
        sure: whether it reaches the threshold.
    """

    prediction: Classification | MultiLabel
    confidence: float
    sure: bool


class LocalHead:
    """The local head of a bundle: the latent of the edge half to calibrated probabilities.

    Args:
        session: onnxruntime session ``latent`` (batch, C, h, w) -> ``logits`` (batch, K).
        calibration: content of ``local.json``.
        threshold: smallest confidence of an answer; None: the calibrated one.

    Attributes:
        head: name of the server's head that it stands for.
        task: ``"classification"`` or ``"multilabel"``.
        labels: K names of classes.
        temperature: logits are divided by it. Source: Guo et al. 2017, arXiv:1706.04599.
        threshold: smallest confidence of an answer.

    Raises:
        RecipeError: the threshold is not within 0 to 1.
    """

    def __init__(self, session: Any, calibration: Mapping[str, Any], threshold: float | None = None) -> None:
        self._session = session
        self.head: str = calibration["head"]
        self.task = next(task for task, version in VERSIONS.items() if version == calibration["version"])
        self.labels: tuple[str, ...] = tuple(calibration["labels"])
        self.temperature = float(calibration["temperature"])
        self.threshold = float(calibration["threshold"]) if threshold is None else threshold
        if threshold is not None and not 0 <= threshold <= 1:
            raise RecipeError(f"threshold must be 0 (send nothing) to 1, got {threshold}")

    @classmethod
    def open(cls, bundle: str | Path, *, threads: int = 1, threshold: float | None = None) -> LocalHead:
        """Open the local head of a bundle.

        Args:
            bundle: the folder, or ``zoo:NAME``.
            threads: CPU threads.
            threshold: see the class.

        Raises:
            BundleError: the bundle has no local head, or it is damaged.
            MissingExtra: onnxruntime is not installed.
        """
        source = Bundle.open(bundle)
        if GRAPH not in source:
            raise BundleError(
                f"the bundle {source.folder} has no local head; write one with: splitreg escalate {bundle} -o NEW"
            )
        try:
            calibration = parse_json(source.read(CALIBRATION))
            version = calibration["version"]
        except (ValueError, KeyError, TypeError) as cause:
            raise BundleError(f"{CALIBRATION} of {source.folder} is not valid: {cause}") from cause
        if version not in VERSIONS.values():
            known = ", ".join(map(str, VERSIONS.values()))
            raise BundleError(f"{CALIBRATION} of {source.folder} has version {version}, this splitreg reads {known}")
        return cls(onnx_session(source.read(GRAPH), GRAPH, threads=threads), calibration, threshold)

    def answer(self, latent: NDArray[np.float32]) -> LocalAnswer:
        """Return the answer for one (C, h, w) latent of the edge half, before quantisation.

        Raises:
            BundleError: the network does not run on this latent.
        """
        try:
            logits = self._session.run(["logits"], {"latent": latent[None]})[0][0]
        except Exception as cause:  # onnxruntime's exception types are private
            raise BundleError(f"{GRAPH} does not run on a latent of shape {latent.shape}: {cause}") from cause
        probabilities, sure = calibrated(logits, self.temperature, self.task)
        kind = Classification if self.task == CLASSIFICATION else MultiLabel
        prediction = kind(probabilities=probabilities, names=self.labels)
        confidence = float(sure)
        return LocalAnswer(prediction=prediction, confidence=confidence, sure=confidence >= self.threshold)


def calibrated(
    logits: NDArray[np.floating[Any]], temperature: float, task: str
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return the probabilities of (..., K) logits, and how sure they are.

    Args:
        logits: of classes, or of labels that are independent of each other.
        temperature: the logits are divided by it.
        task: ``"classification"`` or ``"multilabel"``.

    Returns:
        (..., K) probabilities, and (...) the expected share of right answers: the probability of the most probable
        class, or the mean over all labels of the probability of "applies" or "does not", whichever is larger.
    """
    if task == CLASSIFICATION:
        probabilities = softmax(logits / temperature)
        return probabilities, probabilities.max(-1).astype(np.float64)
    probabilities = (0.5 + 0.5 * np.tanh(logits.astype(np.float64) / (2 * temperature))).astype(np.float32)
    return probabilities, np.maximum(probabilities, 1 - probabilities).mean(-1, dtype=np.float64)


def softmax(logits: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Return the probabilities of (..., K) logits."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    probabilities: NDArray[np.float32] = (shifted / shifted.sum(-1, keepdims=True)).astype(np.float32)
    return probabilities


class EscalatingClient(Client):
    """A client that sends only the images of which its local head is not sure.

    ::

        local = LocalHead.open("my-bundle")
        with EscalatingClient("https://server:8080", "my-bundle", heads=["cls"]) as client:
            client.local = local
            answer = client.send("photo.jpg")
            print(answer.packet_bytes or "answered on the device")

    Attributes:
        local: the local head; None sends everything.
        answered: number of images that were answered on the device.
        escalated: number of images that were sent.
    """

    local: LocalHead | None = None
    answered: int = 0
    escalated: int = 0
    _latent: tuple[NDArray[np.float32], Geometry] | None = None

    def send(
        self,
        image: ImageLike,
        *,
        name: str = "",
        rate: float | None = None,
        budget_bytes: int | None = None,
        budget_ms: float | None = None,
    ) -> Answer:
        """Answer an image on the device, or send it; see ``Client.send``.

        An answer of the device has only the local head's prediction, 0 bytes, and no key.

        Raises:
            RecipeError: other heads than the local one are requested.
            SplitregError: as ``Client.send``.
        """
        if self.local is not None and self.encoder is not None:
            if self.heads != (self.local.head,):
                raise RecipeError(
                    f"the local head stands for head {self.local.head!r} only; request it alone with heads (--heads)"
                )
            began = time.monotonic()
            self._latent = self.encoder.latent_of(image)
            local = self.local.answer(self._latent[0])
            if local.sure:
                self.answered += 1
                seconds = time.monotonic() - began
                facts = {"encode_s": seconds, "total_s": seconds}
                return Answer.of(name, "", facts, {self.local.head: local.prediction})
            self.escalated += 1
        try:
            return super().send(image, name=name, rate=rate, budget_bytes=budget_bytes, budget_ms=budget_ms)
        finally:
            self._latent = None

    def _encode(
        self, image: ImageLike, rate: float | None, budget: int | None, budget_ms: float | None, *, probe: bool = True
    ) -> bytes:
        if self._latent is None or self.encoder is None or budget_ms is not None:
            return super()._encode(image, rate, budget, budget_ms, probe=probe)
        return self.encoder.encode_latent(*self._latent, rate=rate, budget_bytes=budget)
