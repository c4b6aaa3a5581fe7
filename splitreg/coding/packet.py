"""The packet: what crosses the link. Every field is bounded before anything is allocated.

Layout, all integers little-endian (``docs/wire-format.md``)::

    0   2  magic "SR"
    2   1  version, 1
    3   1  flags: bits 0-3, streams an image less one; bit 4, a batch; bit 5, its original sizes differ
    4   4  model id
    8   4  height and width of the (first) original image, 16 bits each
    12  4  height and width of the coded image, 16 bits each
    16     batch only: images less one (1 byte); where they differ, height and width of every further original
        .  length of every stream but the last (LEB128: 7 bits a byte, lowest first)
        n  the streams, image by image
    -4  4  CRC-32 of everything before

A packet of one image and one stream has 20 bytes beside its payload. There is one spelling of every packet:
``Packet.parse(data).to_bytes() == data`` for all that is accepted.
"""

from __future__ import annotations

import dataclasses
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

from splitreg.coding import leb128
from splitreg.errors import CorruptPacket

#: A packet larger than this is refused unread.
MAX_PACKET_BYTES = 64 * 1024 * 1024
#: Images of one packet, and streams of one image.
MAX_IMAGES, MAX_STREAMS = 256, 16
#: ``Packet.join`` begins another packet beyond so many original pixels, because a server refuses more at once.
MAX_JOINED_PIXELS = 100_000_000

_HEAD = struct.Struct("<2sBBIHHHH")
_SIZE = struct.Struct("<HH")
_CRC = struct.Struct("<I")
_MAGIC, _VERSION = b"SR", 1
_STREAMS, _BATCH, _SIZES = 0x0F, 0x10, 0x20
#: A length below ``MAX_PACKET_BYTES`` has at most so many bytes.
_LENGTH_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """One coded image, or a batch of them.

    Args:
        model_id: 32 bits that name the tables and the encoder.
        original: (height, width) of the image in pixels, 1 to 65535; of the first image of a batch.
        coded: (height, width) of what the encoder saw, the same for every image.
        streams: 1 to 16 payloads an image, image by image.
        others: (height, width) of every further original of a batch of 2 to 256 images.

    >>> Packet.parse(Packet(model_id=7, original=(480, 640), coded=(96, 128), streams=(b"abc",)).to_bytes()).original
    (480, 640)
    """

    model_id: int
    original: tuple[int, int]
    coded: tuple[int, int]
    streams: tuple[bytes, ...]
    others: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.model_id < 2**32:
            raise CorruptPacket(f"a model id has 32 bits, got {self.model_id}")
        for what, sizes in (("original", self.originals), ("coded", (self.coded,))):
            for height, width in sizes:
                if not (1 <= height <= 65535 and 1 <= width <= 65535):
                    raise CorruptPacket(f"the {what} size must be 1 to 65535 pixels a side, got {width}x{height}")
        images = len(self.originals)
        if images > MAX_IMAGES:
            raise CorruptPacket(f"a packet has 1 to {MAX_IMAGES} images, got {images}")
        if len(self.streams) % images or not 1 <= len(self.streams) // images <= MAX_STREAMS:
            raise CorruptPacket(
                f"a packet has 1 to {MAX_STREAMS} streams an image, got {len(self.streams)} for {images} image(s)"
            )

    @property
    def originals(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of every original image."""
        return (self.original, *self.others)

    @property
    def images(self) -> tuple[Packet, ...]:
        """A packet of one image for every image, in order."""
        if not self.others:
            return (self,)
        each = len(self.streams) // len(self.originals)
        return tuple(
            dataclasses.replace(self, original=size, others=(), streams=self.streams[each * i : each * (i + 1)])
            for i, size in enumerate(self.originals)
        )

    @classmethod
    def join(cls, packets: Iterable[Packet]) -> list[Packet]:
        """Put images into as few packets as the limits allow, in order.

        Another packet begins where the model, the coded size or the number of streams changes, and where the bytes, the
        images or the original pixels of one packet would be beyond ``MAX_PACKET_BYTES``, ``MAX_IMAGES`` or
        ``MAX_JOINED_PIXELS``.
        """
        groups: list[list[Packet]] = []
        kind, spent, pixels = None, 0, 0
        for image in (image for packet in packets for image in packet.images):
            here = (image.model_id, image.coded, len(image.streams))
            # What the image takes in a batch is at most what it takes alone and its last length.
            size, area = image.header_bytes + image.payload_bytes + _LENGTH_BYTES, image.original[0] * image.original[1]
            if (
                here != kind
                or len(groups[-1]) == MAX_IMAGES
                or spent + size > MAX_PACKET_BYTES
                or pixels + area > MAX_JOINED_PIXELS
            ):
                groups.append([])
                kind, spent, pixels = here, 0, 0
            groups[-1].append(image)
            spent, pixels = spent + size, pixels + area
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
        """Bytes of all streams, without header, lengths and check."""
        return sum(map(len, self.streams))

    @property
    def header_bytes(self) -> int:
        """Bytes of everything else."""
        return _HEAD.size + len(self._table()) + _CRC.size

    def to_bytes(self) -> bytes:
        """Serialise.

        Raises:
            CorruptPacket: the packet would be larger than ``MAX_PACKET_BYTES``.
        """
        size = self.header_bytes + self.payload_bytes
        if size > MAX_PACKET_BYTES:
            raise CorruptPacket(f"a packet of {size} bytes is beyond the limit of {MAX_PACKET_BYTES}")
        flags = len(self.streams) // len(self.originals) - 1
        if self.others:
            flags |= _BATCH | (_SIZES if self._differ() else 0)
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
        if flags & ~(_STREAMS | _BATCH | _SIZES) or (flags & _SIZES and not flags & _BATCH):
            raise CorruptPacket(f"the packet has unknown flags {flags:#04x}; upgrade splitreg")
        original = (sizes[0], sizes[1])
        body = bytes(memoryview(data)[_HEAD.size : -_CRC.size])
        others, start = _read_others(body, original, flags) if flags & _BATCH else ((), 0)
        streams = _read_streams(body, start, (1 + len(others)) * (1 + (flags & _STREAMS)))
        return cls(model_id=model_id, original=original, coded=(sizes[2], sizes[3]), streams=streams, others=others)

    def _differ(self) -> bool:
        return any(size != self.original for size in self.others)

    def _table(self) -> bytes:
        """What comes between the header and the streams."""
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
    """Return the further originals of a batch and where its stream lengths begin."""
    more = body[0] if body else 0
    if more == 0:
        raise CorruptPacket("the packet says that it is a batch, and has no number of images above one")
    if not flags & _SIZES:
        return (original,) * more, 1
    start = 1 + more * _SIZE.size
    if start > len(body):
        raise CorruptPacket(f"the packet's original sizes of {more + 1} images are cut short")
    others = tuple((height, width) for height, width in _SIZE.iter_unpack(body[1:start]))
    if all(size == original for size in others):
        raise CorruptPacket("the packet lists original sizes that do not differ")
    return others, start


def _read_streams(body: bytes, start: int, count: int) -> tuple[bytes, ...]:
    """Cut ``count`` streams out of what follows ``start``: the lengths of all but the last, then the streams."""
    lengths = []
    for _ in range(count - 1):
        length, start = leb128.read(body, start, _LENGTH_BYTES)
        lengths.append(length)
    claimed, there = sum(lengths), len(body) - start
    if claimed > there:
        raise CorruptPacket(f"the packet's streams claim {claimed} bytes, {there} are there")
    streams = []
    for length in (*lengths, there - claimed):
        streams.append(body[start : start + length])
        start += length
    return tuple(streams)
