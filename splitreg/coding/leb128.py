"""Unsigned LEB128: a number in 7 bits a byte, lowest first; one spelling of every number."""

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


def read(data: bytes, start: int, most: int) -> tuple[int, int]:
    """Return the number at ``start`` and where the next begins.

    Args:
        data: any bytes.
        start: where it begins.
        most: bytes that it may have.

    Raises:
        CorruptPacket: cut short, too long, or spelt with needless bytes.
    """
    value = 0
    for i, byte in enumerate(data[start : start + most]):
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            if byte == 0 and i:
                raise CorruptPacket("a length or an escape of the packet has needless bytes")
            return value, start + i + 1
    raise CorruptPacket("the packet's lengths or escapes are cut short or too long")
