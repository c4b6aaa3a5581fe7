"""The frames of a stream as packets: ``FrameEncoder`` and ``FrameDecoder`` hold the same state on both sides of a link."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from splitreg.coding.codec import TemporalCoder
from splitreg.coding.hyper import HyperModel
from splitreg.coding.latent_coding import LatentCoding
from splitreg.coding.packet import Packet
from splitreg.coding.stream_packet import StreamFormat, StreamPacket, crc_fits, crc_of
from splitreg.coding.symbols import MAX_LATENT, SymbolModel
from splitreg.coding.variable import VariableModel
from splitreg.errors import CorruptPacket, InvalidLatent, KeyFrameNeeded, RecipeError, ShapeMismatch

#: An inter frame of at least this fraction of the last key frame is compared with a new key frame.
_WORTH_COMPARING = 0.5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Rules:
    """How symbols stand for the latent of one frame.

    Args:
        position: of the rate; None: the model has one.
        rows: tables of the symbols.
        means: (C, h, w), subtracted before quantising; None: zero.
    """

    position: int | None
    rows: SymbolModel
    means: NDArray[np.float32] | None = None

    def quantise(self, scaled: NDArray[np.float32]) -> NDArray[np.int32]:
        """Return the symbols of what the model codes."""
        return self.rows.quantise(scaled if self.means is None else scaled - self.means)

    def same_means(self, other: _Rules) -> bool:
        """Whether the means of another frame of the same model are equal."""
        return self.means is None or other.means is None or np.array_equal(self.means, other.means)

    def restore(self, symbols: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return what symbols stand for, at this rate's scale."""
        restored = self.rows.dequantise(symbols)
        return restored if self.means is None else restored + self.means


class _FrameState:
    """What both sides know: the tables, the planes of symbols, and the CRC of all that was sent.

    Args:
        coding: codec and tables of the model.
        shape: (C, h, w) of every latent.
        stream: number of the stream, which its key frames name.
    """

    def __init__(self, coding: LatentCoding, shape: tuple[int, int, int], *, stream: int = 0) -> None:
        self.coding, self.shape = coding, shape
        self._stream = zlib.crc32(b"%d %d %d %d %d" % (coding.model_id, stream, *shape))
        tables = coding.tables
        for model in tables.models if isinstance(tables, VariableModel) else (tables,):
            model.check_shape(shape)
        self._coders: list[TemporalCoder] = []
        self._rules: _Rules | None = None
        self._chain = 0
        self.frame = 255  # of the last packet

    @property
    def nbytes(self) -> int:
        """Bytes of the state."""
        return sum(coder.nbytes for coder in self._coders)

    def _model(self, position: int | None, *, context: bool = True) -> SymbolModel | HyperModel:
        tables = self.coding.tables_for(context=context)
        if isinstance(tables, VariableModel):
            if position is None:
                raise CorruptPacket("the packet names no rate, and this model has several")
            return tables.model_at(position)
        if position is not None:
            raise CorruptPacket("the packet names a rate, and this model has one")
        return tables

    def _scaled(self, latent: NDArray[np.float32], position: int | None) -> NDArray[np.float32]:
        tables = self.coding.tables
        return tables.scaled(latent, position) if isinstance(tables, VariableModel) and position is not None else latent

    def _unscaled(self, scaled: NDArray[np.float32], position: int | None) -> NDArray[np.float32]:
        tables = self.coding.tables
        return (
            tables.unscaled(scaled, position) if isinstance(tables, VariableModel) and position is not None else scaled
        )

    def _begin(self, planes: Sequence[NDArray[np.int32]], rules: _Rules) -> None:
        """Begin again after a key frame."""
        coders = [self.coding.codec.temporal() for _ in planes]
        self._coders = [coder for coder in coders if coder is not None]
        for coder, plane in zip(self._coders, planes, strict=False):
            coder.begin(plane)
        self._rules = rules if self._coders else None

    def _follow(self, rules: _Rules) -> None:
        """Express the symbols of the frame before in this frame's tables."""
        old = self._rules
        assert old is not None
        self._rules = rules
        if old.position == rules.position and old.same_means(rules):
            return

        def requantise(symbols: NDArray[np.int32]) -> NDArray[np.int32]:
            scaled = old.restore(symbols)
            if old.position != rules.position:
                with np.errstate(over="ignore", invalid="ignore"):
                    scaled = self._scaled(self._unscaled(scaled, old.position), rules.position)
            return rules.quantise(np.nan_to_num(scaled).clip(-MAX_LATENT / 2, MAX_LATENT / 2))

        self._coders[-1].translate(requantise)

    def _predict(
        self, model: SymbolModel | HyperModel, hyper: NDArray[np.int32] | None, position: int | None
    ) -> _Rules:
        if isinstance(model, SymbolModel) or hyper is None:
            assert isinstance(model, SymbolModel)
            return _Rules(position=position, rows=model)
        rows, means = model.predict(hyper, (self.shape[1], self.shape[2]))
        return _Rules(position=position, rows=rows, means=means)


class FrameEncoder(_FrameState):
    """The device's side: latents to packets.

    Args:
        coding: codec and tables of the model.
        shape: (C, h, w) of every latent.
        stream: number of the stream, which its key frames name.
        tolerance: a symbol stays that of the frame before while the latent is less than this beyond its rounding
            interval, 0 to 0.5 steps. 0: latents are those of single packets, bit for bit; more saves the bytes of noise.

    Raises:
        RecipeError: the tolerance is out of range.
        ShapeMismatch: the shape does not fit the tables.
    """

    def __init__(
        self, coding: LatentCoding, shape: tuple[int, int, int], *, stream: int = 0, tolerance: float = 0.0
    ) -> None:
        super().__init__(coding, shape, stream=stream)
        if not 0 <= tolerance <= 0.5:
            raise RecipeError(f"the tolerance of a stream is 0 to 0.5 quantisation steps, got {tolerance}")
        self.tolerance = tolerance
        self.last: StreamPacket | None = None
        self._key_bytes = 0

    def encode(self, latent: NDArray[np.float32], rate: float | None = None, *, key: bool = False) -> bytes:
        """Code the next frame; as a key frame where that is asked for, needed, or smaller.

        Args:
            latent: (C, h, w) float32.
            rate: 0 (fewest bytes) to 1 (most), for a model with several; None: its default.
            key: code the frame alone.

        Raises:
            RecipeError: the rate is not within 0 to 1, or the model has one rate.
            ShapeMismatch: the latent is not of the stream's shape.
            InvalidLatent: NaN, infinite or huge values.
        """
        if latent.shape != self.shape:
            raise ShapeMismatch(f"the stream's latents are {self.shape}, got {latent.shape}")
        tables = self.coding.tables
        if rate is not None and not isinstance(tables, VariableModel):
            raise RecipeError("this model has one rate; leave the rate out, or train one with several (rates = 5)")
        position = tables.position(rate) if isinstance(tables, VariableModel) else None
        model = self._model(position, context=self.coding.packet_context)
        scaled = self._scaled(latent, position)
        if isinstance(model, HyperModel):
            hyper, rows, means = model.analyse(scaled)
            planes, rules = [(hyper, model.hyper)], _Rules(position=position, rows=rows, means=means)
        else:
            planes, rules = [], self._predict(model, None, position)
        symbols, old = rules.quantise(scaled), self._rules
        if key or old is None:
            return self._key([*planes, (symbols, rules.rows)], rules)
        self._follow(rules)
        planes = [*planes, (self._settled(symbols, scaled, rules), rules.rows)]
        streams = self._inter(planes)
        if streams is None or sum(map(len, streams)) > _WORTH_COMPARING * self._key_bytes:
            alone = self._alone(planes)
            if streams is None or sum(map(len, alone)) <= sum(map(len, streams)):
                return self._key(planes, rules, alone)
        return self._sent(key=False, streams=streams, position=position if position != old.position else None)

    def _inter(self, planes: Sequence[tuple[NDArray[np.int32], SymbolModel]]) -> tuple[bytes, ...] | None:
        streams = []
        for coder, (plane, model) in zip(self._coders, planes, strict=True):
            stream = coder.encode(plane, model, limit=2 * self._key_bytes + 64)
            if stream is None:
                return None
            streams.append(stream)
        return tuple(streams)

    def _alone(self, planes: Sequence[tuple[NDArray[np.int32], SymbolModel]]) -> tuple[bytes, ...]:
        return tuple(self.coding.codec.encode(plane, model) for plane, model in planes)

    def _key(
        self,
        planes: Sequence[tuple[NDArray[np.int32], SymbolModel]],
        rules: _Rules,
        streams: tuple[bytes, ...] | None = None,
    ) -> bytes:
        streams = self._alone(planes) if streams is None else streams
        self._begin([plane for plane, _ in planes], rules)
        self._key_bytes = sum(map(len, streams))
        return self._sent(key=True, streams=streams, position=rules.position)

    def _sent(self, *, key: bool, streams: tuple[bytes, ...], position: int | None) -> bytes:
        self.frame = (self.frame + 1) % 256
        context = self.coding.packet_context or not key
        self.last = StreamPacket(key=key, frame=self.frame, streams=streams, position=position, context=context)
        data = self.last.to_bytes(self._stream if key else self._chain)
        self._chain = crc_of(data)
        return data

    def _settled(self, symbols: NDArray[np.int32], scaled: NDArray[np.float32], rules: _Rules) -> NDArray[np.int32]:
        """Keep the symbols of the frame before where the latent is within the tolerance."""
        if not self.tolerance:
            return symbols
        previous = self._coders[-1].previous
        scale = 1 if rules.rows.indexes is not None else rules.rows.scale[:, None, None]
        off = np.abs(scaled - rules.restore(previous)) * scale
        return np.where(off <= 0.5 + self.tolerance, previous, symbols)


class FrameDecoder(_FrameState):
    """The server's side: packets to the latents that the device knew, bit for bit."""

    def __init__(self, coding: LatentCoding, shape: tuple[int, int, int], *, stream: int = 0) -> None:
        super().__init__(coding, shape, stream=stream)
        self._last: _Rules | None = None
        self._key_frame: StreamPacket | None = None  # the last frame, if it is a key frame

    def decode(self, data: bytes) -> NDArray[np.float32]:
        """Decode the next frame's (C, h, w) float32 latent.

        Raises:
            KeyFrameNeeded: a frame that continues what did not arrive here. The state stays as it is.
            CorruptPacket: bytes that are not a packet of this stream.
        """
        packet = StreamPacket.parse(data)
        if packet.key:
            if not crc_fits(data, self._stream):
                raise CorruptPacket("the key frame's checksum does not fit; it was damaged or is of another stream")
        elif self._rules is None:
            raise KeyFrameNeeded("the stream has no key frame yet; send one")
        elif packet.frame != (self.frame + 1) % 256 or not crc_fits(data, self._chain):
            raise KeyFrameNeeded(
                f"frame {packet.frame} does not continue frame {self.frame}, the last one that arrived; send a key frame"
            )
        rules, self._rules, self._last = self._rules, None, None  # a payload that fails leaves no state
        position = packet.position if packet.key or packet.position is not None or rules is None else rules.position
        model = self._model(position, context=packet.context)
        if len(packet.streams) != (2 if isinstance(model, HyperModel) else 1):
            raise CorruptPacket(f"this model's frames have another number of streams than {len(packet.streams)}")
        try:
            symbols, now = self._planes(packet, model, position, rules)
        except InvalidLatent as cause:
            raise CorruptPacket(f"the frame's symbols are not a latent: {cause}") from cause
        self._rules, self._last = now if self._coders else None, now
        self._key_frame = packet if packet.key else None
        self.frame, self._chain = packet.frame, crc_of(data)
        return self._unscaled(now.restore(symbols), position)

    @property
    def _packet_context(self) -> bool:
        """``Packet.context`` of the last frame as an ordinary packet."""
        return not self.coding.has_context if self._key_frame is None else self._key_frame.context

    def packet(self, stream: StreamFormat) -> bytes:
        """Return the last frame as an ordinary packet.

        It is the one that the image has alone, but a frame that is not a key frame is coded without a context network, which
        takes less time.

        Raises:
            KeyFrameNeeded: no frame was decoded since the last error.
        """
        packet = Packet(
            model_id=stream.model_id, original=stream.original, coded=stream.coded, streams=self.streams(),
            context=self._packet_context,
        )  # fmt: skip
        return packet.to_bytes()

    def streams(self) -> tuple[bytes, ...]:
        """Return the last frame as the streams of an ordinary packet.

        Raises:
            KeyFrameNeeded: no frame was decoded since the last error.
        """
        rules, key = self._last, self._key_frame
        if rules is None:
            raise KeyFrameNeeded("the stream has no frame to code alone; send a key frame")
        if key is not None:
            streams = key.streams
        else:
            model, codec = self._model(rules.position, context=self._packet_context), self.coding.codec
            rows = [model] if isinstance(model, SymbolModel) else [model.hyper, rules.rows]
            streams = tuple(codec.encode(coder.previous, row) for coder, row in zip(self._coders, rows, strict=True))
        if rules.position is None:
            return streams
        return bytes([rules.position]) + streams[0], *streams[1:]

    def _planes(
        self, packet: StreamPacket, model: SymbolModel | HyperModel, position: int | None, old: _Rules | None
    ) -> tuple[NDArray[np.int32], _Rules]:
        codec, hyper = self.coding.codec, None
        if packet.key:
            planes = []
            if isinstance(model, HyperModel):
                hyper = codec.decode(packet.streams[0], model.hyper_shape(self.shape), model.hyper)
                planes.append(hyper)
            rules = self._predict(model, hyper, position)
            symbols = codec.decode(packet.streams[-1], self.shape, rules.rows)
            self._begin([*planes, symbols], rules)
            return symbols, rules
        if isinstance(model, HyperModel):
            hyper = self._coders[0].decode(packet.streams[0], model.hyper)
        rules = self._predict(model, hyper, position)
        self._rules = old
        self._follow(rules)
        self._rules = None
        return self._coders[-1].decode(packet.streams[-1], rules.rows), rules
