"""The packet of a stream: what one frame costs beside its payload, six bytes.

What does not change from frame to frame (model, sizes) is agreed once, when the stream is opened. Layout, all integers
little-endian (``docs/wire-format.md``)::

    0   1  flags: bit 0, a key frame; bit 1, a rate follows; bits 4-7, streams less one
    1   1  frame number, modulo 256
    2      rate: its position (1 byte), only where it differs from the frame before
        .  length of every stream but the last (LEB128)
        n  the streams
    -4  4  CRC-32 of everything before, continued from the CRC-32 of the packet before

The CRC of a key frame is continued from the stream's own number. So the CRC of every other frame names all that was sent
since the last key frame: it fits only where all of it arrived.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass

from splitreg.coding import leb128
from splitreg.coding.packet import MAX_PACKET_BYTES, MAX_STREAMS
from splitreg.errors import CorruptPacket

_HEAD = struct.Struct("<BB")
_CRC = struct.Struct("<I")
_KEY, _RATE, _NO_CONTEXT, _RESERVED = 0x01, 0x02, 0x04, 0x08
_LENGTH_BYTES = 4
_FORMAT = re.compile(
    r"([0-9a-f]{8})-(\d{1,5})x(\d{1,5})-(\d{1,5})x(\d{1,5})-(\d{1,5})x(\d{1,5})x(\d{1,5})-(\d{1,10})", re.ASCII
)
#: Bytes of a packet of one stream beside its payload and a new rate.
STREAM_HEADER_BYTES = _HEAD.size + _CRC.size


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamFormat:
    """What both sides of a stream agree on before its first packet.

    Args:
        model_id: of the tables.
        original: (height, width) of every image.
        coded: (height, width) of the network's input.
        latent: (C, h, w) of every latent.
        number: chosen by the device; key frames of another stream are rejected.

    >>> print(StreamFormat(model_id=0xAB, original=(480, 640), coded=(96, 128), latent=(24, 12, 16), number=7))
    000000ab-480x640-96x128-24x12x16-7
    """

    model_id: int
    original: tuple[int, int]
    coded: tuple[int, int]
    latent: tuple[int, int, int]
    number: int = 0

    def __str__(self) -> str:
        sizes = ("x".join(map(str, size)) for size in (self.original, self.coded, self.latent))
        return f"{self.model_id:08x}-{'-'.join(sizes)}-{self.number}"

    @classmethod
    def parse(cls, text: str) -> StreamFormat:
        """Read the text of ``str``.

        Raises:
            CorruptPacket: the text is not one.
        """
        match = _FORMAT.fullmatch(text)
        if match is None:
            raise CorruptPacket(f"a stream is MODEL-HxW-HxW-CxHxW-NUMBER, got {text[:80]!r}")
        numbers = [int(number) for number in match.groups()[1:]]
        height, width, ch, cw, channels, h, w, number = numbers
        if not all(1 <= side <= 65535 for side in numbers[:-1]):
            raise CorruptPacket(f"the sizes of a stream are 1 to 65535, got {text!r}")
        return cls(
            model_id=int(match[1], 16), original=(height, width), coded=(ch, cw), latent=(channels, h, w), number=number
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamPacket:
    """One coded frame of a stream.

    Args:
        key: the frame is coded alone.
        frame: its number, 0 to 255; after 255 comes 0.
        streams: 1 to 16 payloads.
        position: of its rate, 0 to 255; None: that of the frame before, or the model has one rate.
        context: False: a key frame that is coded without the context network of the model, see ``Packet``.
    """

    key: bool
    frame: int
    streams: tuple[bytes, ...]
    position: int | None = None
    context: bool = True

    def __post_init__(self) -> None:
        if not self.key and not self.context:
            raise CorruptPacket("only key frames are coded with or without a context network")
        if not 0 <= self.frame <= 255 or not 0 <= (self.position or 0) <= 255:
            raise CorruptPacket(f"a frame number and a rate are 0 to 255, got {self.frame} and {self.position}")
        if not 1 <= len(self.streams) <= MAX_STREAMS:
            raise CorruptPacket(f"a frame has 1 to {MAX_STREAMS} streams, got {len(self.streams)}")

    @property
    def payload_bytes(self) -> int:
        """Bytes of all streams."""
        return sum(map(len, self.streams))

    def to_bytes(self, chain: int) -> bytes:
        """Serialise.

        Args:
            chain: CRC-32 of the packet before; of a key frame, the stream's number.

        Raises:
            CorruptPacket: the packet would be larger than ``MAX_PACKET_BYTES``.
        """
        flags = (len(self.streams) - 1) << 4 | (_KEY if self.key else 0) | (0 if self.position is None else _RATE)
        flags |= 0 if self.context else _NO_CONTEXT
        parts = [_HEAD.pack(flags, self.frame), b"" if self.position is None else bytes([self.position])]
        parts += [leb128.write(len(stream)) for stream in self.streams[:-1]]
        body = b"".join([*parts, *self.streams])
        if len(body) + _CRC.size > MAX_PACKET_BYTES:
            raise CorruptPacket(f"a packet of {len(body)} bytes is beyond the limit of {MAX_PACKET_BYTES}")
        return body + _CRC.pack(zlib.crc32(body, chain))

    @classmethod
    def parse(cls, data: bytes) -> StreamPacket:
        """Read a packet, without its CRC: see ``crc_fits``.

        Raises:
            CorruptPacket: the bytes are cut short, too many, or not a packet.
        """
        if not STREAM_HEADER_BYTES <= len(data) <= MAX_PACKET_BYTES:
            raise CorruptPacket(
                f"a stream's packet has {STREAM_HEADER_BYTES} to {MAX_PACKET_BYTES} bytes, this one has {len(data)}"
            )
        flags, frame = _HEAD.unpack_from(data)
        if flags & _RESERVED:
            raise CorruptPacket(f"the stream's packet has unknown flags {flags:#04x}; upgrade splitreg")
        body, start, position = bytes(data[: -_CRC.size]), _HEAD.size, None
        if flags & _RATE:
            if len(body) == start:
                raise CorruptPacket("the stream's packet is cut short before its rate")
            position, start = body[start], start + 1
        lengths = []
        for _ in range(flags >> 4):
            length, start = leb128.read(body, start, _LENGTH_BYTES)
            lengths.append(length)
        rest = len(body) - start - sum(lengths)
        if rest < 0:
            raise CorruptPacket(f"the packet's streams claim {sum(lengths)} bytes, {len(body) - start} are there")
        streams = []
        for length in (*lengths, rest):
            streams.append(body[start : start + length])
            start += length
        return cls(
            key=bool(flags & _KEY),
            frame=frame,
            streams=tuple(streams),
            position=position,
            context=not flags & _NO_CONTEXT,
        )


def crc_of(data: bytes) -> int:
    """Return the CRC-32 that a packet ends with."""
    return int(_CRC.unpack_from(data, len(data) - _CRC.size)[0])


def crc_fits(data: bytes, chain: int) -> bool:
    """Whether a packet is undamaged and continues what ``chain`` is the CRC-32 of."""
    return zlib.crc32(memoryview(data)[: -_CRC.size], chain) == crc_of(data)
