"""Demo: train on procedural scenes, publish, run the two halves in two processes, write a report."""

from splitreg.demo.run import Demo, demo

__all__ = ["Demo", "demo"]
