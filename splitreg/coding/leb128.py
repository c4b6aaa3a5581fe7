"""Unsigned LEB128: 7 bits per byte, lowest first; exactly one encoding per number."""

from __future__ import annotations

from splitreg.errors import CorruptPacket


def write(value: int) -> bytes:
    """Return the bytes of a number.

    >>> write(300).hex()
    'ac02'
    """
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def read(data: bytes, start: int, max_bytes: int) -> tuple[int, int]:
    """Return the number at ``start``, and the position after it.

    Args:
        data: any bytes.
        start: position of the first byte.
        max_bytes: largest number of bytes.

    Raises:
        CorruptPacket: cut short, longer than ``max_bytes``, or padded.
    """
    value = 0
    for i, byte in enumerate(data[start : start + max_bytes]):
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            if byte == 0 and i:
                raise CorruptPacket("a length or an escape of the packet is padded")
            return value, start + i + 1
    raise CorruptPacket("a length or an escape of the packet is cut short or too long")
