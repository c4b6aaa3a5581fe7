"""Inspect a packet: its fields, even if it is damaged, and the code length of its streams."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitreg.coding.codec import Codec
from splitreg.coding.packet import Packet
from splitreg.coding.streams import LatentModel, decode_streams
from splitreg.coding.symbols import SymbolModel
from splitreg.errors import CorruptPacket

#: Number of bytes shown of a stream.
_SHOWN_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field of a packet: position and size in bytes, name, and value as text."""

    offset: int
    size: int
    name: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PacketBreakdown:
    """The fields of a packet.

    Args:
        packet: the packet; None if the bytes are not a valid one.
        problem: why they are not; empty for a valid packet.
        size: number of bytes.
        crc_fits: whether the last four bytes are the checksum of those before.
        fields: the fields in order, as far as they can be read.
    """

    packet: Packet | None
    problem: str
    size: int
    crc_fits: bool
    fields: tuple[Field, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain data, as ``splitreg inspect --json`` prints it."""
        table: dict[str, Any] = {
            "ok": self.packet is not None, "problem": self.problem or None, "bytes": self.size, "crc_fits": self.crc_fits,
        }  # fmt: skip
        if self.packet is not None:
            packet = self.packet
            table |= {
                "model_id": f"{packet.model_id:08x}", "header_bytes": packet.header_bytes,
                "payload_bytes": packet.payload_bytes, "coded": list(packet.coded),
                "images": [
                    {"original": list(image.original), "streams": [len(stream) for stream in image.streams]}
                    for image in packet.images
                ],
            }  # fmt: skip
        return {**table, "fields": [asdict(field) for field in self.fields]}


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeLengths:
    """One decoded image and its ideal code length by the tables.

    Args:
        latent: (C, h, w) float32.
        stream_bits: code length of each stream; empty without tables.
        channel_bits: (C,) code length of each channel of the latent; empty without tables.
    """

    latent: NDArray[np.float32]
    stream_bits: tuple[float, ...]
    channel_bits: tuple[float, ...]


def break_down(data: bytes) -> PacketBreakdown:
    """Read a packet field by field, as far as possible if it is damaged; raises no error."""
    try:
        packet, problem = Packet.parse(data), ""
    except CorruptPacket as error:
        packet, problem = None, str(error)
    fits = len(data) >= 4 and zlib.crc32(memoryview(data)[:-4]) == int.from_bytes(data[-4:], "little")
    reader = _FieldReader(data)
    reader.read_all()
    return PacketBreakdown(packet=packet, problem=problem, size=len(data), crc_fits=fits, fields=tuple(reader.fields))


def measure(streams: Sequence[bytes], shape: tuple[int, int, int], model: LatentModel, codec: Codec) -> CodeLengths:
    """Decode one image's streams and compute their ideal code length.

    Args:
        streams: streams of one image.
        shape: (C, h, w) of the latent.
        model: frozen tables.
        codec: decodes the streams.

    Raises:
        CorruptPacket: the streams are not valid for this shape and model.
        ShapeMismatch: the shape does not fit the model.
    """
    recorder = _RecordingCodec(codec)
    latent = decode_streams(model, streams, shape, recorder)
    channel_bits = [bits.sum(axis=(1, 2)) for bits in recorder.bits]
    return CodeLengths(
        latent=latent,
        stream_bits=tuple(float(bits.sum()) for bits in channel_bits),
        channel_bits=tuple(map(float, channel_bits[-1])) if channel_bits else (),
    )


class _RecordingCodec(Codec):
    """Decodes with another codec and records the code length of every symbol."""

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


class _FieldReader:
    """Reads the fields. It shares no code with ``Packet.parse``, so that tests can compare both."""

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
        actual = f"{int.from_bytes(tail, 'little'):08x}"
        self.add(len(tail), "CRC-32", actual if actual == expected else f"{actual}, expected {expected}")

    def read(self) -> None:
        self.add(2, "magic", repr(self.take(2))[1:])
        self.add(1, "version", str(self.take(1)[0]))
        flags = self.take(1)[0]
        count, batch, differ = (flags & 15) + 1, bool(flags & 16), bool(flags & 32)
        meanings = [f"{count} stream{'s' if count > 1 else ''} per image"]
        meanings += ["batch"] * batch + ["original sizes differ"] * differ
        meanings += ["without context network"] * bool(flags & 0x40) + ["reserved bit"] * bool(flags & 0x80)
        self.add(1, "flags", f"{flags:#04x}: {', '.join(meanings)}")
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
            "stream" + f" {image}" * (images > 1) + f"{':' if images > 1 else ' '}{stream}" * (count > 1)
            for image in range(images)
            for stream in range(count)
        ]
        lengths = []
        for name in names[:-1]:
            size, length = self.number()
            self.add(size, f"length of {name}", str(length))
            lengths.append(length)
        lengths.append(max(self.end - self.at - sum(lengths), 0))
        for name, length in zip(names, lengths, strict=True):
            stream_bytes = self.data[self.at : min(self.at + length, self.end)]
            missing = length - len(stream_bytes)
            note = f", {missing} of {length} bytes are missing" if missing > 0 else ""
            self.add(len(stream_bytes), name, _start(stream_bytes) + note)

    def take(self, size: int) -> bytes:
        if self.at + size > self.end:
            raise EOFError
        return self.data[self.at : self.at + size]

    def size(self) -> str:
        height, width = struct.unpack("<HH", self.take(4))
        return f"{width}x{height}"

    def number(self) -> tuple[int, int]:
        """Return the size and the value of a LEB128 number of at most four bytes."""
        value = 0
        for size in range(1, 5):
            byte = self.take(size)[-1]
            value |= (byte & 127) << 7 * (size - 1)
            if byte < 128:
                return size, value
        raise EOFError


def _start(data: bytes) -> str:
    return data[:_SHOWN_BYTES].hex(" ") + (" ..." if len(data) > _SHOWN_BYTES else "")
