"""The device's runtime: pictures to packets with numpy and an ONNX runtime; no torch."""

from splitreg.edge.encoder import EdgeEncoder
from splitreg.edge.half import EdgeHalf
from splitreg.edge.info import describe
from splitreg.edge.runtimes import RUNTIMES, Network, load_network, onnx_session

__all__ = ["RUNTIMES", "EdgeEncoder", "EdgeHalf", "Network", "describe", "load_network", "onnx_session"]
