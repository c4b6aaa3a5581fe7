"""What crosses the link between device and server beside the packet: answers, and the service's protocol (no torch)."""

from splitreg.wire.answers import MASKS, Answers, dump_json, pack, to_json, unpack
from splitreg.wire.form import Form
from splitreg.wire.parts import from_parts
from splitreg.wire.png import write_png
from splitreg.wire.protocol import error_body, error_from, join_packets, split_packets, status_of

__all__ = [
    "MASKS", "Answers", "Form", "dump_json", "error_body", "error_from", "from_parts", "join_packets", "pack", "split_packets",
    "status_of", "to_json", "unpack", "write_png",
]  # fmt: skip
