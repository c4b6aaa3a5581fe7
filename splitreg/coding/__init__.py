"""Coding of latents as bytes: integer tables, codecs, packets and the rANS kernel; numpy only."""

from typing import TYPE_CHECKING

from splitreg.lazy import lazy_exports

if TYPE_CHECKING:
    from splitreg.coding.c_sources import context_source, temporal_sources
    from splitreg.coding.codec import Codec, TemporalCoder
    from splitreg.coding.context import ContextModel
    from splitreg.coding.context_state import ContextTables
    from splitreg.coding.frame_coding import FrameDecoder, FrameEncoder
    from splitreg.coding.hyper import HyperModel
    from splitreg.coding.integer import IntegerLayer, IntegerNetwork
    from splitreg.coding.latent_coding import LatentCoding
    from splitreg.coding.packet import MAX_PACKET_BYTES, Packet
    from splitreg.coding.rans import RansCodec
    from splitreg.coding.rans_tables import derive_tables
    from splitreg.coding.stream_packet import STREAM_HEADER_BYTES, StreamFormat, StreamPacket
    from splitreg.coding.streams import LatentModel, decode_streams, encode_streams, load_model
    from splitreg.coding.symbols import SymbolModel
    from splitreg.coding.variable import POSITIONS, VariableModel

__all__ = [
    "MAX_PACKET_BYTES", "POSITIONS", "STREAM_HEADER_BYTES", "Codec", "ContextModel", "ContextTables",
    "FrameDecoder", "FrameEncoder", "HyperModel", "IntegerLayer", "IntegerNetwork", "LatentCoding", "LatentModel",
    "Packet", "RansCodec", "StreamFormat", "StreamPacket", "SymbolModel", "TemporalCoder", "VariableModel",
    "context_source", "decode_streams", "derive_tables", "encode_streams", "load_model", "temporal_sources",
]  # fmt: skip

__getattr__, __dir__ = lazy_exports(__name__, {
    "MAX_PACKET_BYTES": "splitreg.coding.packet", "POSITIONS": "splitreg.coding.variable",
    "Codec": "splitreg.coding.codec", "ContextModel": "splitreg.coding.context",
    "ContextTables": "splitreg.coding.context_state",
    "TemporalCoder": "splitreg.coding.codec", "FrameDecoder": "splitreg.coding.frame_coding",
    "FrameEncoder": "splitreg.coding.frame_coding", "STREAM_HEADER_BYTES": "splitreg.coding.stream_packet",
    "StreamFormat": "splitreg.coding.stream_packet", "StreamPacket": "splitreg.coding.stream_packet",
    "HyperModel": "splitreg.coding.hyper", "IntegerLayer": "splitreg.coding.integer",
    "IntegerNetwork": "splitreg.coding.integer", "LatentCoding": "splitreg.coding.latent_coding",
    "LatentModel": "splitreg.coding.streams", "Packet": "splitreg.coding.packet", "RansCodec": "splitreg.coding.rans",
    "derive_tables": "splitreg.coding.rans_tables",
    "SymbolModel": "splitreg.coding.symbols", "VariableModel": "splitreg.coding.variable",
    "decode_streams": "splitreg.coding.streams", "encode_streams": "splitreg.coding.streams",
    "load_model": "splitreg.coding.streams", "temporal_sources": "splitreg.coding.c_sources",
    "context_source": "splitreg.coding.c_sources",
})  # fmt: skip
