"""Bytes: integer tables, packets and what codecs share. numpy only."""

from splitreg.coding.codec import Codec
from splitreg.coding.hyper import HyperModel
from splitreg.coding.integer import IntegerLayer, IntegerNetwork
from splitreg.coding.latent import LatentModel, load_model
from splitreg.coding.packet import MAX_PACKET_BYTES, Packet
from splitreg.coding.rans import RansCodec
from splitreg.coding.symbols import SymbolModel
from splitreg.coding.variable import VariableModel

__all__ = [
    "MAX_PACKET_BYTES", "Codec", "HyperModel", "IntegerLayer", "IntegerNetwork", "LatentModel", "Packet", "RansCodec",
    "SymbolModel", "VariableModel", "load_model",
]  # fmt: skip
