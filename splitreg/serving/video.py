"""Video streams: a connection's packets, each coded given the ones before, to ordinary packets (no torch).

The state of a stream lives with its connection, not in a worker: workers get ordinary packets, so one
that dies is replaced without a loss, and any worker can answer any frame.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from splitreg.bundle import Bundle
from splitreg.coding import FrameDecoder, LatentCoding, StreamFormat
from splitreg.edge import read_coding
from splitreg.errors import ForeignPacket, KeyFrameNeeded
from splitreg.serving.memory import MemoryBudget
from splitreg.serving.metrics import Metrics

#: Bytes of a stream's state per symbol of a latent, and besides.
_SYMBOL_BYTES, _STREAM_BYTES = 14, 64 * 1024
#: Tables of earlier models that are kept after reloads.
_MAX_CODINGS = 16


class VideoStreams:
    """The open video streams of a server.

    Args:
        bundles: that are served.
        budget: of the states of all streams.
        metrics: counts key frames that were asked for.
    """

    def __init__(self, bundles: tuple[str, ...], budget: MemoryBudget, metrics: Metrics) -> None:
        self._bundles, self._budget, self._metrics = bundles, budget, metrics
        self._codings: dict[int, LatentCoding] = {}

    async def open(self, stream: StreamFormat) -> VideoStream:
        """Open a stream.

        Raises:
            ForeignPacket: no bundle has its model.
            CorruptPacket: sizes that the model does not have.
            Unavailable: there is no memory for another stream.
        """
        coding = self._codings.get(stream.model_id)
        if coding is None:
            coding = await asyncio.to_thread(self._read, stream.model_id)
            while len(self._codings) >= _MAX_CODINGS:
                self._codings.pop(next(iter(self._codings)))
            self._codings[stream.model_id] = coding
        hold = self._budget.hold()
        channels, height, width = stream.latent
        hold.add(_STREAM_BYTES + _SYMBOL_BYTES * channels * height * width)
        try:
            decoder = FrameDecoder(coding, stream.latent, stream=stream.number)
        except BaseException:
            hold.release()
            raise
        return VideoStream(stream, decoder, self._metrics, hold.release)

    def _read(self, model_id: int) -> LatentCoding:
        for place in self._bundles:
            bundle = Bundle.open(place)
            if bundle.config.model_id == model_id:
                return read_coding(bundle)
        raise ForeignPacket(f"no bundle of this server has the model {model_id:08x} of the stream")


class VideoStream:
    """The state of one connection; ``close`` frees its memory."""

    def __init__(
        self, stream: StreamFormat, decoder: FrameDecoder, metrics: Metrics, release: Callable[[], None]
    ) -> None:
        self._format, self._decoder, self._metrics = stream, decoder, metrics
        self.close = release

    def to_packet(self, data: bytes) -> bytes:
        """Return the ordinary packet of the next frame.

        Raises:
            KeyFrameNeeded: the frame continues one that did not arrive.
            CorruptPacket: damaged, or not of this stream.
        """
        try:
            self._decoder.decode(data)
        except KeyFrameNeeded:
            self._metrics.key_frames.inc()
            raise
        return self._decoder.packet(self._format)
