"""``ServerStream``: the packets of one camera's stream to predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from splitreg.coding import FrameDecoder, LatentCoding, StreamFormat
from splitreg.errors import ForeignPacket
from splitreg.predictions import Prediction

#: ``ServerModel.infer`` for one packet.
Infer = Callable[[bytes, Iterable[str] | None], list[dict[str, Prediction]]]


class ServerStream:
    """Decodes the frames of an ``EdgeStream``; from ``ServerModel.stream``.

    Args:
        coding: of the model.
        stream: ``EdgeStream.format``.
        infer: runs heads on an ordinary packet.

    Raises:
        ForeignPacket: the stream is of another model.
    """

    def __init__(self, coding: LatentCoding, stream: StreamFormat, infer: Infer) -> None:
        if stream.model_id != coding.model_id:
            raise ForeignPacket(f"the stream is of model {stream.model_id:08x}, this is {coding.model_id:08x}")
        self._format, self._infer = stream, infer
        self._decoder = FrameDecoder(coding, stream.latent, stream=stream.number)

    def infer(self, packet: bytes, heads: Iterable[str] | None = None) -> dict[str, Prediction]:
        """Run heads on the next packet.

        Returns:
            Head -> prediction in pixels of the original image.

        Raises:
            KeyFrameNeeded: the packet continues one that did not arrive.
            CorruptPacket: a packet is damaged, or not of this stream.
            RecipeError: no such head.
        """
        self._decoder.decode(packet)
        return self._infer(self._decoder.packet(self._format), heads)[0]
