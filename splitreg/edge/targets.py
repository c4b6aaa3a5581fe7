"""Targets: what an edge half can be exported to, for devices without Python."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from splitreg.bundle import Bundle
from splitreg.bundle.config import NOT_REQUESTED
from splitreg.coding import LatentCoding
from splitreg.edge.encoder import EdgeEncoder, read_coding
from splitreg.errors import BundleError
from splitreg.imaging import Preprocess

if TYPE_CHECKING:
    from splitreg.registry import Registry

#: (H, W, 3) uint8 image to packet.
Runner = Callable[[NDArray[np.uint8]], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeSource:
    """What a target is exported from.

    Args:
        graph: bytes of ``edge.onnx``: ``image`` (batch, 3, H, W) float32 to ``latent``.
        coding: preprocessing, tables, codec and model id.
        int8: bytes of ``edge.int8.onnx``; None if the bundle has none.
        module: returns the torch module of the same graph; None where there is no torch.
    """

    graph: bytes
    coding: LatentCoding
    int8: bytes | None = None
    module: Callable[[], Any] | None = field(default=None, repr=False)

    @classmethod
    def read(cls, bundle: str | Path | Bundle, *, registry: Registry | None = None) -> EdgeSource:
        """Read the edge half of a bundle; needs no torch.

        Args:
            bundle: the folder, ``zoo:NAME`` or an open bundle.
            registry: the installed plugins, by default.

        Raises:
            BundleError: a file is missing or altered, or the bundle has no ``edge.onnx``.
        """
        source = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        fp32, int8 = EdgeEncoder.FILES["fp32"], EdgeEncoder.FILES["int8"]
        if fp32 not in source:
            reason = source.config.without_onnx or NOT_REQUESTED
            raise BundleError(f"the bundle {source.folder} has no {fp32}, which targets are exported from: {reason}")
        return cls(
            graph=source.read(fp32), coding=read_coding(source, registry=registry),
            int8=source.read(int8) if int8 in source else None,
        )  # fmt: skip

    def at(self, size: tuple[int, int] | None) -> EdgeSource:
        """Return this source with another (height, width) of the network's input; None: the same."""
        if size is None or tuple(size) == self.coding.preprocess.size:
            return self
        old = self.coding.preprocess
        try:
            preprocess = Preprocess(size=(size[0], size[1]), mode=old.mode, mean=old.mean, std=old.std)
        except (ValueError, IndexError, TypeError) as cause:
            raise BundleError(f"size must be (height, width), got {size!r}: {cause}") from cause
        return replace(self, coding=replace(self.coding, preprocess=preprocess))


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedTarget:
    """Files of an exported edge half.

    Args:
        files: name relative to the target's folder -> content.
        report: figures as plain data, e.g. bytes of flash and RAM.
    """

    files: Mapping[str, bytes]
    report: Mapping[str, Any] = field(default_factory=dict)


class ExportTarget(abc.ABC):
    """A format that an edge half can be exported to.

    Attributes:
        at_root: its files are at the root of a bundle, not below ``targets/NAME``.
    """

    at_root: ClassVar[bool] = False

    @abc.abstractmethod
    def export(self, source: EdgeSource) -> ExportedTarget:
        """Export an edge half; the same source gives the same files.

        Raises:
            BundleError: the target cannot express this edge half; the message names the operator.
            MissingExtra: a package that the export needs is not installed.
        """

    @abc.abstractmethod
    def open(self, files: Mapping[str, bytes], source: EdgeSource) -> Runner:
        """Return a function from (H, W, 3) uint8 image to packet that runs the files on this machine.

        Args:
            files: what ``export`` returned.
            source: what it was given.

        Raises:
            MissingExtra: the runtime, the compiler or the emulator is not installed here.
            BundleError: the files do not run.
        """
