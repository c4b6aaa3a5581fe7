"""How an answer is written: what a request says beside its packets and heads (no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from splitreg.errors import BadRequest
from splitreg.predictions import Prediction
from splitreg.wire.answers import MASKS, Answers, dump_json, pack, to_json
from splitreg.wire.protocol import ANSWERS, JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """The form of an answer.

    Args:
        media: media type: ``JSON``, or ``ANSWERS`` for exact arrays.
        masks: how JSON shows masks, see ``to_json``.
        min_score: objects that score less are left out; 0 leaves all.

    Raises:
        BadRequest: no such masks, or a score beyond 0 to 1.
    """

    media: str = JSON
    masks: str = "rle"
    min_score: float = 0.0

    def __post_init__(self) -> None:
        if self.masks not in MASKS:
            raise BadRequest(f"masks must be one of {', '.join(MASKS)}, got {self.masks[:40]!r}")
        if not 0 <= self.min_score <= 1:
            raise BadRequest(f"min_score must be 0 to 1, got {self.min_score}")

    def write(self, answers: Answers) -> bytes:
        """Return the answers of one or several images: a blob of ``pack``, or a JSON list."""
        kept = [self._kept(heads) for heads in answers]
        return pack(kept) if self.media == ANSWERS else dump_json(to_json(kept, self.masks))

    def pieces(self, head: str, predictions: list[Prediction]) -> tuple[bytes, ...]:
        """Return one head's answers, to be joined with those of others: one blob of ``pack``, or JSON for each image."""
        answers = [{head: prediction} for prediction in predictions]
        if self.media == ANSWERS:
            return (self.write(answers),)
        return tuple(dump_json(to_json([self._kept(one)], self.masks)[0][head]) for one in answers)

    def _kept(self, heads: Mapping[str, Prediction]) -> dict[str, Prediction]:
        return {head: prediction.above(self.min_score) for head, prediction in heads.items()}
