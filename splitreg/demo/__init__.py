"""The main job on the embedded default: train, publish, run the halves in two processes, report."""

from splitreg.demo.run import Demo, demo

__all__ = ["Demo", "demo"]
