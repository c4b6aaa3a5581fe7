"""The packet: what crosses the link. Every field is bounded before anything is allocated.

Layout, all integers little-endian (``docs/wire-format.md``)::

    0   2  magic "SR"
    2   1  version, 1
    3   1  flags: bit 0, the payload begins with a table of stream lengths
    4   4  model id
    8   4  height and width of the original image, 16 bits each
    12  4  height and width of the coded image, 16 bits each
    16  n  payload: one stream; or a count (1 byte, 2 to 255), that many lengths (4 bytes each) and the streams
    -4  4  CRC-32 of everything before

A packet of one stream has 20 bytes beside its payload.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from splitreg.errors import CorruptPacket

#: A packet larger than this is refused unread.
MAX_PACKET_BYTES = 64 * 1024 * 1024

_HEAD = struct.Struct("<2sBBIHHHH")
_CRC = struct.Struct("<I")
_MAGIC, _VERSION, _STREAMS = b"SR", 1, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """One coded image.

    Args:
        model_id: 32 bits that name the tables and the encoder.
        original: (height, width) of the image in pixels, 1 to 65535.
        coded: (height, width) of what the encoder saw.
        streams: 1 to 255 payloads.

    >>> Packet.parse(Packet(model_id=7, original=(480, 640), coded=(96, 128), streams=(b"abc",)).to_bytes()).original
    (480, 640)
    """

    model_id: int
    original: tuple[int, int]
    coded: tuple[int, int]
    streams: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.model_id < 2**32:
            raise CorruptPacket(f"a model id has 32 bits, got {self.model_id}")
        for what, size in (("original", self.original), ("coded", self.coded)):
            if not all(1 <= side <= 65535 for side in size):
                raise CorruptPacket(f"the {what} size must be 1 to 65535 pixels a side, got {size[0]}x{size[1]}")
        if not 1 <= len(self.streams) <= 255:
            raise CorruptPacket(f"a packet has 1 to 255 streams, got {len(self.streams)}")

    @property
    def payload_bytes(self) -> int:
        """Bytes of all streams, without header, lengths and check."""
        return sum(map(len, self.streams))

    @property
    def header_bytes(self) -> int:
        """Bytes of everything else."""
        table = 1 + 4 * len(self.streams) if len(self.streams) > 1 else 0
        return _HEAD.size + table + _CRC.size

    def to_bytes(self) -> bytes:
        """Serialise.

        Raises:
            CorruptPacket: the packet would be larger than ``MAX_PACKET_BYTES``.
        """
        size = self.header_bytes + self.payload_bytes
        if size > MAX_PACKET_BYTES:
            raise CorruptPacket(f"a packet of {size} bytes is beyond the limit of {MAX_PACKET_BYTES}")
        many = len(self.streams) > 1
        head = _HEAD.pack(_MAGIC, _VERSION, _STREAMS if many else 0, self.model_id, *self.original, *self.coded)
        table = struct.pack(f"<B{len(self.streams)}I", len(self.streams), *map(len, self.streams)) if many else b""
        body = b"".join((head, table, *self.streams))
        return body + _CRC.pack(zlib.crc32(body))

    @classmethod
    def parse(cls, data: bytes) -> Packet:
        """Read a packet.

        Raises:
            CorruptPacket: the bytes are empty, cut short, too long, damaged, or not a packet.
        """
        if len(data) > MAX_PACKET_BYTES:
            raise CorruptPacket(f"{len(data)} bytes are beyond the limit of {MAX_PACKET_BYTES} for a packet")
        if len(data) < _HEAD.size + _CRC.size:
            raise CorruptPacket(f"{len(data)} bytes are too few for a packet; it was cut short or is empty")
        magic, version, flags, model_id, *sizes = _HEAD.unpack_from(data)
        if magic != _MAGIC:
            raise CorruptPacket(f"not a splitreg packet: it begins with {bytes(data[:2])!r}, not {_MAGIC!r}")
        if version != _VERSION:
            raise CorruptPacket(f"packet version {version} is not known here (this reads {_VERSION}); upgrade splitreg")
        if zlib.crc32(memoryview(data)[: -_CRC.size]) != _CRC.unpack_from(data, len(data) - _CRC.size)[0]:
            raise CorruptPacket("the packet's checksum does not fit its bytes; it was damaged or cut short")
        if flags & ~_STREAMS:
            raise CorruptPacket(f"the packet has unknown flags {flags:#04x}; upgrade splitreg")
        body = bytes(memoryview(data)[_HEAD.size : -_CRC.size])
        streams = _split(body) if flags & _STREAMS else (body,)
        return cls(
            model_id=model_id, original=(sizes[0], sizes[1]), coded=(sizes[2], sizes[3]), streams=streams
        )  # fmt: skip


def _split(body: bytes) -> tuple[bytes, ...]:
    count = body[0] if body else 0
    start = 1 + 4 * count
    if count < 2 or len(body) < start:
        raise CorruptPacket(f"the packet's table of {count} streams is cut short or needless")
    lengths = struct.unpack_from(f"<{count}I", body, 1)
    if start + sum(lengths) != len(body):
        raise CorruptPacket(f"the packet's streams claim {sum(lengths)} bytes, {len(body) - start} are there")
    streams = []
    for length in lengths:
        streams.append(body[start : start + length])
        start += length
    return tuple(streams)
