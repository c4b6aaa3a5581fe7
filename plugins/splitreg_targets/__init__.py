"""Targets of the edge half: ONNX, C, and formats of other runtimes."""
