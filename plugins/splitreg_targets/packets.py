"""Packets of targets whose runtime returns a latent."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from splitreg.coding import LatentCoding, Packet
from splitreg.imaging import Geometry


def packet_of(latent: NDArray[np.float32], geometry: Geometry, coding: LatentCoding) -> bytes:
    """Return the packet of a (C, h, w) latent."""
    streams = coding.encode(latent)
    packet = Packet(model_id=coding.model_id, original=geometry.original, coded=geometry.coded, streams=streams)
    return packet.to_bytes()
