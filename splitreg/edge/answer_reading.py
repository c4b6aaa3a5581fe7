"""``AnswerReader``: the answers that a client asks for, and their predictions in original pixels."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import quote, urlencode

from splitreg import imaging
from splitreg.errors import CorruptAnswer
from splitreg.predictions import Depth, Prediction, Reconstruction, Segmentation
from splitreg.wire.answers import unpack
from splitreg.wire.compact import CompactReader, split_compact
from splitreg.wire.protocol import ANSWERS, COMPACT


class AnswerReader:
    """What a client asks for, and how it reads it.

    Args:
        heads: names of heads; None: all.
        min_score: lowest score of the objects in an answer.
        compact: ask for compact answers, see ``splitreg.wire.compact``.
        resolution: of masks and other maps, one of ``imaging.RESOLUTIONS``.
    """

    def __init__(
        self, heads: tuple[str, ...] | None, *, min_score: float = 0.0, compact: bool = False, resolution: str = "full"
    ) -> None:
        self.compact, self.resolution = compact, resolution
        self._fields = answer_fields(heads, min_score, resolution)
        self._tables = b""

    @property
    def media(self) -> str:
        """Media type of the answers."""
        return COMPACT if self.compact else ANSWERS

    def query(self, *, later: bool = False) -> str:
        """Return the query of a request.

        Args:
            later: another reader may read the answer, so it must be complete.
        """
        return write_query(self._fields, b"" if later else self._tables)

    def read(self, body: bytes, original: tuple[int, int]) -> Mapping[str, Prediction]:
        """Return head -> prediction of the reply for one image.

        Args:
            body: of the reply.
            original: (height, width) of the image.

        Raises:
            CorruptAnswer: the body is damaged, or not the answer for one image.
        """
        if self.compact:
            reader = CompactReader(self._tables)
            answers = [reader.read(answer) for answer in split_compact(body)]
            self._tables = reader.tables
        else:
            answers = unpack(body)
        if len(answers) != 1:
            raise CorruptAnswer(f"the server answered for {len(answers)} images, 1 was sent")
        return {head: enlarge(prediction, original, self.resolution) for head, prediction in answers[0].items()}


def answer_fields(heads: tuple[str, ...] | None, min_score: float, resolution: str) -> dict[str, str]:
    """Return the query parameters that choose the content of an answer; defaults are left out."""
    fields = {} if heads is None else {"heads": ",".join(heads)}
    if min_score:
        fields["min_score"] = str(min_score)
    if resolution != "full":
        fields["resolution"] = resolution
    return fields


def write_query(fields: Mapping[str, str], tables: bytes) -> str:
    """Return a query string.

    Args:
        fields: its parameters.
        tables: ``CompactReader.tables`` that the server need not send again; may be empty.
    """
    known = {"tables": f"{zlib.crc32(tables):08x}"} if tables else {}
    return urlencode({**fields, **known}, safe=",/", quote_via=quote)


def enlarge(prediction: Prediction, size: tuple[int, int], resolution: str) -> Prediction:
    """Return a prediction whose maps have the size of the original image.

    Args:
        prediction: as received.
        size: (height, width) of the original image.
        resolution: that was asked for: index maps of ``"network"`` are enlarged by nearest neighbour,
            which gives the mask at full resolution; those of a fraction with smooth edges.
    """
    match prediction:
        case Segmentation() if prediction.mask.shape != size:
            resize = imaging.nearest if resolution in ("full", "network") else imaging.resize_labels
            return replace(prediction, mask=resize(prediction.mask, size))
        case Depth() if prediction.depth.shape != size:
            return replace(prediction, depth=imaging.resize_values(prediction.depth, size))
        case Reconstruction() if prediction.image.shape[:2] != size:
            return replace(prediction, image=imaging.resize_pixels(prediction.image, size))
    return prediction
