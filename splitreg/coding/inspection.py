"""What is in a packet, field by field, whole or damaged; and what its streams cost by the model's own tables."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from splitreg.coding.codec import Codec
from splitreg.coding.packet import Packet
from splitreg.coding.streams import LatentModel, decode_streams
from splitreg.coding.symbols import SymbolModel
from splitreg.errors import CorruptPacket

#: A stream's value shows so many of its bytes.
_SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """Some bytes of a packet: where, how many, what, and what they say."""

    offset: int
    size: int
    name: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PacketBreakdown:
    """What ``dissect`` found.

    Args:
        packet: None where the bytes are not a packet.
        problem: why they are not; empty for a packet.
        crc_fits: whether the last four bytes are the checksum of those before.
        fields: in order, as far as they can be read.
    """

    packet: Packet | None
    problem: str
    crc_fits: bool
    fields: tuple[Field, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One decoded image.

    Args:
        latent: (C, h, w) float32.
        stream_bits: code length of each stream by the tables; empty where there are no tables.
        channel_bits: (C,) code length of each channel of the last stream, the latent's; empty likewise.
    """

    latent: NDArray[np.float32]
    stream_bits: tuple[float, ...]
    channel_bits: tuple[float, ...]


def dissect(data: bytes) -> PacketBreakdown:
    """Read a packet field by field, and go on after damage as far as there are bytes.

    Raises nothing, whatever the bytes are.
    """
    try:
        packet, problem = Packet.parse(data), ""
    except CorruptPacket as error:
        packet, problem = None, str(error)
    fits = len(data) >= 4 and zlib.crc32(memoryview(data)[:-4]) == int.from_bytes(data[-4:], "little")
    reader = _Reader(data)
    reader.read_all()
    return PacketBreakdown(packet=packet, problem=problem, crc_fits=fits, fields=tuple(reader.fields))


def measure(streams: Sequence[bytes], shape: tuple[int, int, int], model: LatentModel, codec: Codec) -> Measured:
    """Decode one image's streams and count what they would cost by the tables alone.

    Args:
        streams: of one image.
        shape: (C, h, w) of the latent.
        model: the frozen model.
        codec: what wrote the streams.

    Raises:
        CorruptPacket: the streams are not ones of this shape and model.
        ShapeMismatch: the shape does not fit the model.
    """
    listener = _Listener(codec)
    latent = decode_streams(model, streams, shape, listener)
    heard = [bits.sum(axis=(1, 2)) for bits in listener.bits]
    return Measured(
        latent=latent,
        stream_bits=tuple(float(bits.sum()) for bits in heard),
        channel_bits=tuple(map(float, heard[-1])) if heard else (),
    )


class _Listener(Codec):
    """Decodes as another codec does and keeps the code length of every symbol."""

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self.bits: list[NDArray[np.float64]] = []

    def encode(self, symbols: NDArray[np.int32], model: SymbolModel) -> bytes:
        return self.codec.encode(symbols, model)

    def decode(self, payload: bytes, shape: tuple[int, int, int], model: SymbolModel) -> NDArray[np.int32]:
        symbols = self.codec.decode(payload, shape, model)
        if model.has_tables:
            self.bits.append(model.symbol_bits(symbols))
        return symbols


class _Reader:
    """Walks over the bytes. It shares no code with ``Packet.parse``, so that tests can hold one against the other."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.end = max(len(data) - 4, 0)
        self.at = 0
        self.fields: list[Field] = []

    def add(self, size: int, name: str, value: str) -> None:
        if size:
            self.fields.append(Field(offset=self.at, size=size, name=name, value=value))
            self.at += size

    def read_all(self) -> None:
        try:
            self.read()
        except EOFError:
            self.add(self.end - self.at, "rest", "cut short: " + _start(self.data[self.at : self.end]))
        tail = self.data[self.at :]
        expected = f"{zlib.crc32(self.data[:-4]):08x}"
        found = f"{int.from_bytes(tail, 'little'):08x}"
        self.add(len(tail), "CRC-32", found if found == expected else f"{found}, of the bytes before: {expected}")

    def read(self) -> None:
        self.add(2, "magic", repr(self.take(2))[1:])
        self.add(1, "version", str(self.take(1)[0]))
        flags = self.take(1)[0]
        each, batch, differ = (flags & 15) + 1, bool(flags & 16), bool(flags & 32)
        says = [f"{each} stream{'s' if each > 1 else ''} an image"]
        says += ["batch"] * batch + ["original sizes differ"] * differ + ["reserved bits"] * bool(flags & 0xC0)
        self.add(1, "flags", f"{flags:#04x}: {', '.join(says)}")
        self.add(4, "model id", f"{int.from_bytes(self.take(4), 'little'):08x}")
        self.add(4, "original", self.size())
        self.add(4, "coded", self.size())
        images = 1
        if batch:
            images = self.take(1)[0] + 1
            self.add(1, "images", str(images))
        for i in range(1, images if differ else 1):
            self.add(4, f"original {i}", self.size())
        names = [
            "stream" + f" {image}" * (images > 1) + f"{':' if images > 1 else ' '}{stream}" * (each > 1)
            for image in range(images)
            for stream in range(each)
        ]
        lengths = []
        for name in names[:-1]:
            size, length = self.number()
            self.add(size, f"length of {name}", str(length))
            lengths.append(length)
        lengths.append(max(self.end - self.at - sum(lengths), 0))
        for name, length in zip(names, lengths, strict=True):
            piece = self.data[self.at : min(self.at + length, self.end)]
            lacks = f", {length - len(piece)} of {length} bytes are not there" if len(piece) < length else ""
            self.add(len(piece), name, _start(piece) + lacks)

    def take(self, size: int) -> bytes:
        if self.at + size > self.end:
            raise EOFError
        return self.data[self.at : self.at + size]

    def size(self) -> str:
        height, width = struct.unpack("<HH", self.take(4))
        return f"{width}x{height}"

    def number(self) -> tuple[int, int]:
        """Return the bytes and the value of a LEB128 number of at most four bytes."""
        value = 0
        for size in range(1, 5):
            byte = self.take(size)[-1]
            value |= (byte & 127) << 7 * (size - 1)
            if byte < 128:
                return size, value
        raise EOFError


def _start(piece: bytes) -> str:
    return piece[:_SHOWN].hex(" ") + (" ..." if len(piece) > _SHOWN else "")
