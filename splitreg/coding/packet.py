"""``Packet``: what crosses the link. Every field is bounded before anything is allocated.

Layout, all integers little-endian (``docs/wire-format.md``)::

    0   2  magic "SR"
    2   1  version, 1
    3   1  flags: bits 0-3, streams per image minus 1; bit 4, batch; bit 5, original sizes differ; bit 6, without
           the model's context network
    4   4  model id
    8   4  height and width of the (first) original image, 16 bits each
    12  4  height and width of the coded image, 16 bits each
    16     batch only: images minus 1 (1 byte); if they differ, height and width of every further original
        .  length of every stream but the last (LEB128: 7 bits per byte, lowest first)
        n  the streams, image by image
    -4  4  CRC-32 of everything before

A packet of one image and one stream has 20 bytes beside its payload. Every packet has exactly one
encoding: ``Packet.parse(data).to_bytes() == data`` for all accepted data.
"""

from __future__ import annotations

import dataclasses
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

from splitreg.coding import leb128
from splitreg.errors import CorruptPacket

#: Largest packet; a larger one is rejected without reading it.
MAX_PACKET_BYTES = 64 * 1024 * 1024
#: Largest number of images per packet, and of streams per image.
MAX_IMAGES, MAX_STREAMS = 256, 16
#: Largest number of original pixels in a packet of ``Packet.join``; a server rejects more.
MAX_JOINED_PIXELS = 100_000_000

_HEAD = struct.Struct("<2sBBIHHHH")
_SIZE = struct.Struct("<HH")
_CRC = struct.Struct("<I")
_MAGIC, _VERSION = b"SR", 1
_STREAMS, _BATCH, _SIZES, _NO_CONTEXT = 0x0F, 0x10, 0x20, 0x40
#: Largest number of bytes of a length below ``MAX_PACKET_BYTES``.
_LENGTH_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """One coded image, or a batch of them.

    Args:
        model_id: 32-bit id of the tables and the encoder.
        original: (height, width) of the image in pixels, 1 to 65535; of a batch, the first image.
        coded: (height, width) of the encoder's input, the same for every image.
        streams: 1 to 16 payloads per image, image by image.
        others: (height, width) of every further original of a batch of 2 to 256 images.
        context: False: the streams are coded without the context network that the model has, see ``ContextModel``.

    >>> Packet.parse(Packet(model_id=7, original=(480, 640), coded=(96, 128), streams=(b"abc",)).to_bytes()).original
    (480, 640)
    """

    model_id: int
    original: tuple[int, int]
    coded: tuple[int, int]
    streams: tuple[bytes, ...]
    others: tuple[tuple[int, int], ...] = ()
    context: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.model_id < 2**32:
            raise CorruptPacket(f"a model id must have 32 bits, got {self.model_id}")
        for name, sizes in (("original", self.originals), ("coded", (self.coded,))):
            for height, width in sizes:
                if not (1 <= height <= 65535 and 1 <= width <= 65535):
                    raise CorruptPacket(f"the {name} size must be 1 to 65535 pixels per side, got {width}x{height}")
        images = len(self.originals)
        if images > MAX_IMAGES:
            raise CorruptPacket(f"a packet must have 1 to {MAX_IMAGES} images, got {images}")
        if len(self.streams) % images or not 1 <= len(self.streams) // images <= MAX_STREAMS:
            raise CorruptPacket(
                f"a packet must have 1 to {MAX_STREAMS} streams per image, got {len(self.streams)} for {images} image(s)"
            )

    @property
    def originals(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of every original image."""
        return (self.original, *self.others)

    @property
    def images(self) -> tuple[Packet, ...]:
        """Packets of one image each, in order."""
        if not self.others:
            return (self,)
        count = len(self.streams) // len(self.originals)
        return tuple(
            dataclasses.replace(self, original=size, others=(), streams=self.streams[count * i : count * (i + 1)])
            for i, size in enumerate(self.originals)
        )

    @classmethod
    def join(cls, packets: Iterable[Packet]) -> list[Packet]:
        """Put images into as few packets as the limits allow, in order.

        A new packet begins when the model, its use of the context network, the coded size or the number of streams
        changes, and when a packet would exceed ``MAX_PACKET_BYTES``, ``MAX_IMAGES`` or ``MAX_JOINED_PIXELS``.
        """
        groups: list[list[Packet]] = []
        group_key, group_bytes, group_pixels = None, 0, 0
        for image in (image for packet in packets for image in packet.images):
            key = (image.model_id, image.context, image.coded, len(image.streams))
            # In a batch, an image takes at most the bytes of its own packet and one length.
            size = image.header_bytes + image.payload_bytes + _LENGTH_BYTES
            pixels = image.original[0] * image.original[1]
            if (
                key != group_key
                or len(groups[-1]) == MAX_IMAGES
                or group_bytes + size > MAX_PACKET_BYTES
                or group_pixels + pixels > MAX_JOINED_PIXELS
            ):
                groups.append([])
                group_key, group_bytes, group_pixels = key, 0, 0
            groups[-1].append(image)
            group_bytes, group_pixels = group_bytes + size, group_pixels + pixels
        return [
            dataclasses.replace(
                group[0],
                others=tuple(image.original for image in group[1:]),
                streams=tuple(stream for image in group for stream in image.streams),
            )
            for group in groups
        ]

    @property
    def payload_bytes(self) -> int:
        """Bytes of all streams, without header, lengths and checksum."""
        return sum(map(len, self.streams))

    @property
    def header_bytes(self) -> int:
        """Bytes of header, lengths and checksum."""
        return _HEAD.size + len(self._table()) + _CRC.size

    def to_bytes(self) -> bytes:
        """Serialise.

        Raises:
            CorruptPacket: the packet is larger than ``MAX_PACKET_BYTES``.
        """
        size = self.header_bytes + self.payload_bytes
        if size > MAX_PACKET_BYTES:
            raise CorruptPacket(f"a packet of {size} bytes exceeds the limit of {MAX_PACKET_BYTES}")
        flags = len(self.streams) // len(self.originals) - 1
        if self.others:
            flags |= _BATCH | (_SIZES if self._differ() else 0)
        if not self.context:
            flags |= _NO_CONTEXT
        head = _HEAD.pack(_MAGIC, _VERSION, flags, self.model_id, *self.original, *self.coded)
        body = b"".join((head, self._table(), *self.streams))
        return body + _CRC.pack(zlib.crc32(body))

    @classmethod
    def parse(cls, data: bytes) -> Packet:
        """Read a packet.

        Raises:
            CorruptPacket: the bytes are empty, cut short, too long, damaged, or not a packet.
        """
        if len(data) > MAX_PACKET_BYTES:
            raise CorruptPacket(f"{len(data)} bytes exceed the limit of {MAX_PACKET_BYTES} for a packet")
        if len(data) < _HEAD.size + _CRC.size:
            raise CorruptPacket(f"{len(data)} bytes are too few for a packet; it is empty or cut short")
        magic, version, flags, model_id, *sizes = _HEAD.unpack_from(data)
        if magic != _MAGIC:
            raise CorruptPacket(f"not a splitreg packet: it begins with {bytes(data[:2])!r}, not {_MAGIC!r}")
        if version != _VERSION:
            raise CorruptPacket(f"unknown packet version {version}, this splitreg reads {_VERSION}; upgrade splitreg")
        if zlib.crc32(memoryview(data)[: -_CRC.size]) != _CRC.unpack_from(data, len(data) - _CRC.size)[0]:
            raise CorruptPacket("wrong checksum: the packet is damaged or cut short")
        if flags & ~(_STREAMS | _BATCH | _SIZES | _NO_CONTEXT) or (flags & _SIZES and not flags & _BATCH):
            raise CorruptPacket(f"unknown packet flags {flags:#04x}; upgrade splitreg")
        original = (sizes[0], sizes[1])
        body = bytes(memoryview(data)[_HEAD.size : -_CRC.size])
        others, start = _read_others(body, original, flags) if flags & _BATCH else ((), 0)
        streams = _read_streams(body, start, (1 + len(others)) * (1 + (flags & _STREAMS)))
        return cls(
            model_id=model_id, original=original, coded=(sizes[2], sizes[3]), streams=streams, others=others,
            context=not flags & _NO_CONTEXT,
        )  # fmt: skip

    def _differ(self) -> bool:
        return any(size != self.original for size in self.others)

    def _table(self) -> bytes:
        """Return the bytes between the header and the streams."""
        table = bytearray()
        if self.others:
            table.append(len(self.others))
            if self._differ():
                for size in self.others:
                    table += _SIZE.pack(*size)
        for stream in self.streams[:-1]:
            table += leb128.write(len(stream))
        return bytes(table)


def _read_others(body: bytes, original: tuple[int, int], flags: int) -> tuple[tuple[tuple[int, int], ...], int]:
    """Return the further originals of a batch, and the position of its stream lengths."""
    further = body[0] if body else 0
    if further == 0:
        raise CorruptPacket("the packet is flagged as a batch, but has less than 2 images")
    if not flags & _SIZES:
        return (original,) * further, 1
    start = 1 + further * _SIZE.size
    if start > len(body):
        raise CorruptPacket(f"the original sizes of {further + 1} images are cut short")
    others = tuple((height, width) for height, width in _SIZE.iter_unpack(body[1:start]))
    if all(size == original for size in others):
        raise CorruptPacket("the packet is flagged to have different original sizes, but they are equal")
    return others, start


def _read_streams(body: bytes, start: int, count: int) -> tuple[bytes, ...]:
    """Read ``count`` streams from ``start``: the lengths of all but the last, then the streams."""
    lengths = []
    for _ in range(count - 1):
        length, start = leb128.read(body, start, _LENGTH_BYTES)
        lengths.append(length)
    declared, available = sum(lengths), len(body) - start
    if declared > available:
        raise CorruptPacket(f"the packet declares {declared} bytes of streams, {available} are left")
    streams = []
    for length in (*lengths, available - declared):
        streams.append(body[start : start + length])
        start += length
    return tuple(streams)
