"""Query strings: one parser for all routes, and the options of inference requests."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import parse_qsl

from splitreg.coding import StreamFormat
from splitreg.errors import BadRequest
from splitreg.wire import AnswerFormat
from splitreg.wire.protocol import ANSWERS, COMPACT, JSON

_MAX_PARAMETERS = 12
#: Value of ``answers`` -> media type.
MEDIA = {"json": JSON, "binary": ANSWERS, "compact": COMPACT}
#: Parameters of an inference request.
INFER_PARAMETERS = ("heads", "masks", "min_score", "resolution", "tables")
#: Parameters of a stream.
STREAM_PARAMETERS = (*INFER_PARAMETERS, "answers", "video")


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestOptions:
    """What a request asks for.

    Args:
        heads: names of heads; None for all.
        answer_format: format of the answers.
        video: of a video stream, what its frames have in common; None: ordinary packets.
    """

    heads: tuple[str, ...] | None
    answer_format: AnswerFormat
    video: StreamFormat | None = None


def parse_query(query: bytes, allowed: Sequence[str]) -> dict[str, str]:
    """Return the parameters of a query string.

    Args:
        query: as received, without the question mark.
        allowed: names of the route's parameters.

    Raises:
        BadRequest: the query is malformed, or a parameter is unknown, repeated or empty.
    """
    parameters: dict[str, str] = {}
    try:
        pairs = parse_qsl(
            query.decode("ascii"), keep_blank_values=True, max_num_fields=_MAX_PARAMETERS, errors="strict"
        )
    except ValueError as cause:
        raise BadRequest(f"the query string is malformed, or has more than {_MAX_PARAMETERS} parameters") from cause
    for name, value in pairs:
        problem = "unknown" if name not in allowed else "repeated" if name in parameters else "" if value else "empty"
        if problem:
            raise BadRequest(f"query parameter {name[:40]!r} is {problem}; allowed: {', '.join(allowed)}")
        parameters[name] = value
    return parameters


def parse_number(parameters: dict[str, str], name: str) -> float | None:
    """Return a parameter that is a number; None if it is missing.

    Raises:
        BadRequest: it is not a number.
    """
    if name not in parameters:
        return None
    try:
        return float(parameters[name])
    except ValueError as cause:
        raise BadRequest(f"{name} must be a number, got {parameters[name][:40]!r}") from cause


def _parse_crc(parameters: dict[str, str]) -> int | None:
    text = parameters.get("tables")
    if text is not None and not re.fullmatch("[0-9a-f]{8}", text):
        raise BadRequest(f"tables must be a CRC-32 of 8 hexadecimal digits, got {text[:40]!r}")
    return None if text is None else int(text, 16)


def parse_request_options(query: bytes, allowed: Sequence[str], media: str = JSON) -> RequestOptions:
    """Return the options of an inference request.

    Args:
        query: as received, without the question mark.
        allowed: ``INFER_PARAMETERS`` or ``STREAM_PARAMETERS``.
        media: media type of the answers if the query has no ``answers``.

    Raises:
        BadRequest: a parameter or its value is invalid.
    """
    parameters = parse_query(query, allowed)
    answers = parameters.get("answers")
    if answers is not None and answers not in MEDIA:
        raise BadRequest(f"answers must be one of {', '.join(MEDIA)}, got {answers[:40]!r}")
    answer_format = AnswerFormat(
        media=media if answers is None else MEDIA[answers],
        masks=parameters.get("masks", "rle"),
        min_score=parse_number(parameters, "min_score") or 0.0,
        resolution=parameters.get("resolution", "full"),
        known_tables=_parse_crc(parameters),
    )
    heads = tuple(parameters["heads"].split(",")) if "heads" in parameters else None
    video = StreamFormat.parse(parameters["video"]) if "video" in parameters else None
    return RequestOptions(heads=heads, answer_format=answer_format, video=video)
