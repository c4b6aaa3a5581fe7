"""What the ingress asks of replicas, and how their pieces make an answer (no torch)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from splitreg.predictions import Prediction
from splitreg.wire import Form, pack, unpack
from splitreg.wire.protocol import ANSWERS


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request.

    Args:
        images: in its packets.
        form: of the answer.
        packets: as they came; none for a head.
    """

    images: int
    form: Form
    packets: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One head's piece of the answer to one request.

    Args:
        blobs: JSON, one an image; or one blob of exact answers.
        error: instead of an answer.
    """

    blobs: tuple[bytes, ...] = ()
    error: Mapping[str, Any] | None = None


def join(form: Form, pieces: Mapping[str, Piece]) -> bytes:
    """Return the answer that a server alone gives: the same bytes.

    Args:
        form: of the answer.
        pieces: head -> its piece, in the order of heads; none is an error.
    """
    if form.media == ANSWERS:
        found = [unpack(piece.blobs[0]) for piece in pieces.values()]
        return pack([_merge(image) for image in zip(*found, strict=True)])
    keys = [json.dumps(head).encode() + b":" for head in pieces]
    images = zip(*(piece.blobs for piece in pieces.values()), strict=True)
    shown = (b"{" + b",".join(key + told for key, told in zip(keys, image, strict=True)) + b"}" for image in images)
    return b"[" + b",".join(shown) + b"]"


def _merge(heads: Sequence[Mapping[str, Prediction]]) -> dict[str, Prediction]:
    return {name: prediction for head in heads for name, prediction in head.items()}
