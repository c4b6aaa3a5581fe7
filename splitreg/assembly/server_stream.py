"""``ServerStream``: the packets of one camera's stream to predictions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from splitreg.coding import FrameDecoder, Packet, StreamFormat
from splitreg.errors import ForeignPacket
from splitreg.predictions import Prediction

if TYPE_CHECKING:
    from splitreg.assembly.server import ServerModel


class ServerStream:
    """Decodes the frames of an ``EdgeStream``; from ``ServerModel.stream``."""

    def __init__(self, server: ServerModel, stream: StreamFormat) -> None:
        if stream.model_id != server.coding.model_id:
            raise ForeignPacket(f"the stream is of model {stream.model_id:08x}, this is {server.coding.model_id:08x}")
        self._server, self._format = server, stream
        self._decoder = FrameDecoder(server.coding, stream.latent, stream=stream.number)

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
        single = Packet(
            model_id=self._format.model_id, original=self._format.original, coded=self._format.coded,
            streams=self._decoder.streams(),
        )  # fmt: skip
        return self._server.infer(single.to_bytes(), heads)[0]
