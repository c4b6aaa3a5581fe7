"""The wire format besides packets: answers and the HTTP protocol (no torch)."""

from splitreg.wire.answer_format import AnswerFormat
from splitreg.wire.answers import MASKS, Answers, dump_json, pack, to_json, unpack
from splitreg.wire.parts import from_parts
from splitreg.wire.png import write_png
from splitreg.wire.protocol import error_body, error_from, join_packets, split_packets, status_of

__all__ = [
    "MASKS", "AnswerFormat", "Answers", "dump_json", "error_body", "error_from", "from_parts", "join_packets", "pack",
    "split_packets", "status_of", "to_json", "unpack", "write_png",
]  # fmt: skip
