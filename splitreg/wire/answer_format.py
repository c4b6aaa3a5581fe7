"""The format of an answer: what a request specifies besides its packets and heads (no torch)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from splitreg.errors import BadRequest
from splitreg.imaging import RESOLUTIONS
from splitreg.predictions import Prediction
from splitreg.wire.answers import MASKS, Answers, dump_json, pack, to_json, unpack
from splitreg.wire.compact import CompactWriter, join_compact
from splitreg.wire.protocol import ANSWERS, COMPACT, JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerFormat:
    """The format of an answer.

    Args:
        media: media type: ``JSON``, ``ANSWERS`` for exact arrays, or ``COMPACT`` for few bytes.
        masks: how JSON represents masks, see ``to_json``.
        min_score: lowest score of the objects in the answer, 0 to 1; 0 returns all.
        resolution: size of masks and other maps, one of ``imaging.RESOLUTIONS``.
        known_tables: CRC-32 of the tables that the reader of compact answers has.

    Raises:
        BadRequest: ``masks``, ``min_score`` or ``resolution`` is invalid.
    """

    media: str = JSON
    masks: str = "rle"
    min_score: float = 0.0
    resolution: str = "full"
    known_tables: int | None = None

    def __post_init__(self) -> None:
        if self.masks not in MASKS:
            raise BadRequest(f"masks must be one of {', '.join(MASKS)}, got {self.masks[:40]!r}")
        if not 0 <= self.min_score <= 1:
            raise BadRequest(f"min_score must be 0 to 1, got {self.min_score}")
        if self.resolution not in RESOLUTIONS:
            raise BadRequest(f"resolution must be one of {', '.join(RESOLUTIONS)}, got {self.resolution[:40]!r}")

    def write(self, answers: Answers) -> bytes:
        """Return the answers of one or several images: a blob of ``pack`` or ``join_compact``, or a JSON list."""
        filtered = [self._filter(heads) for heads in answers]
        if self.media == COMPACT:
            writer = CompactWriter(self.known_tables)
            return join_compact(writer.write(heads) for heads in filtered)
        return pack(filtered) if self.media == ANSWERS else dump_json(to_json(filtered, self.masks))

    def write_head(self, head: str, predictions: Sequence[Prediction]) -> tuple[bytes, ...]:
        """Return one head's answers for ``join_heads``: one blob of ``pack``, or JSON per image."""
        answers = [{head: prediction} for prediction in predictions]
        if self.media != JSON:
            return (pack([self._filter(heads) for heads in answers]),)
        return tuple(dump_json(to_json([self._filter(heads)], self.masks)[0][head]) for heads in answers)

    def join_heads(self, written: Mapping[str, Sequence[bytes]]) -> bytes:
        """Return what ``write`` returns for the predictions of all heads, byte for byte.

        Args:
            written: head -> the blobs of ``write_head``, in the order of the heads.
        """
        if self.media != JSON:
            per_head = [unpack(blobs[0]) for blobs in written.values()]
            return self.write([_merge(image) for image in zip(*per_head, strict=True)])
        keys = [json.dumps(head).encode() + b":" for head in written]
        images = [
            b"{" + b",".join(key + text for key, text in zip(keys, texts, strict=True)) + b"}"
            for texts in zip(*written.values(), strict=True)
        ]
        return b"[" + b",".join(images) + b"]"

    def _filter(self, heads: Mapping[str, Prediction]) -> dict[str, Prediction]:
        return {head: prediction.above(self.min_score) for head, prediction in heads.items()}


def _merge(heads: Sequence[Mapping[str, Prediction]]) -> dict[str, Prediction]:
    return {name: prediction for predictions in heads for name, prediction in predictions.items()}
