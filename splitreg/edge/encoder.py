"""The edge half of a bundle in an ONNX runtime: numpy, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from splitreg.bundle import Bundle, PreprocessEntry
from splitreg.bundle.config import NOT_REQUESTED
from splitreg.bundle.tables import read_tables
from splitreg.coding import Codec, LatentCoding, LatentModel
from splitreg.edge.half import EdgeHalf
from splitreg.edge.runtimes import Network, load_network
from splitreg.errors import BundleError, MissingExtra, RecipeError, RegistryError, suggest
from splitreg.imaging import Preprocess

if TYPE_CHECKING:
    from pathlib import Path

    from splitreg.registry import Registry


class EdgeEncoder(EdgeHalf):
    """Images to packets; equal to those of ``EdgeModel`` up to the rounding of the runtime.

    ::

        packets = EdgeEncoder.open("my-bundle").encode("photo.jpg")

    Args:
        network: image to latent.
        coding: preprocessing at the network's input size, tables and codec.
    """

    #: Precision -> file in the bundle.
    FILES: ClassVar[Mapping[str, str]] = {"fp32": "edge.onnx", "int8": "edge.int8.onnx"}

    def __init__(self, network: Network, coding: LatentCoding) -> None:
        super().__init__(coding)
        self.network = network

    @classmethod
    def open(
        cls,
        bundle: str | Path,
        *,
        runtime: str = "onnxruntime",
        precision: str = "fp32",
        threads: int = 1,
        size: tuple[int, int] | None = None,
        context: bool = True,
        registry: Registry | None = None,
    ) -> EdgeEncoder:
        """Open the edge half of a bundle: ``config.json``, ``edge.safetensors`` and one ONNX file.

        Args:
            bundle: the folder, or ``zoo:NAME``.
            runtime: ``"onnxruntime"`` or ``"openvino"``.
            precision: ``"fp32"`` (``edge.onnx``) or ``"int8"`` (``edge.int8.onnx``, if published).
            threads: CPU threads per image.
            size: (height, width) of the network's input; the recipe's by default. Other sizes
                require a graph that accepts any size.
            context: False: write packets without the model's context network, if it has one. They are larger and
                take less time; the server reads both.
            registry: the installed plugins, by default.

        Raises:
            BundleError: a file is missing, altered or from another bundle, or the graph does not
                accept this size.
            MissingExtra: the runtime, or a package that the codec needs, is not installed.
            RecipeError: an invalid option.
            RegistryError: the codec's plugin is not installed or broken.
        """
        if precision not in cls.FILES:
            raise RecipeError(
                f"no precision {precision!r}.{suggest(precision, cls.FILES)} Available: {', '.join(cls.FILES)}"
            )
        source, name = Bundle.open(bundle), cls.FILES[precision]
        if name not in source:
            raise BundleError(f"the bundle {source.folder} has no {name}; {_how_to_publish(name, source)}")
        preprocess = _at_size(source, size)
        tables = read_tables(source, "edge.safetensors")
        network = load_network(runtime, source.read(name), name=name, size=preprocess.size, threads=threads)
        if network.channels not in (0, tables.channels):
            raise BundleError(
                f"{name} has a latent of {network.channels} channels, the tables of {source.folder} are for "
                f"{tables.channels}"
            )
        return cls(network, replace(_coding(source, tables, preprocess, registry), context=context))

    def _analyse(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.network.run(pixels)


def read_coding(bundle: str | Path | Bundle, *, registry: Registry | None = None) -> LatentCoding:
    """Read what both halves of a bundle have in common, without its networks.

    Args:
        bundle: the folder, ``zoo:NAME`` or an open bundle.
        registry: the installed plugins, by default.

    Raises:
        BundleError: a file is missing, altered or from another bundle.
        RegistryError: the codec's plugin is not installed or broken.
    """
    source = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    return _coding(source, read_tables(source, "edge.safetensors"), _at_size(source, None), registry)


def _coding(bundle: Bundle, tables: LatentModel, preprocess: Preprocess, registry: Registry | None) -> LatentCoding:
    return LatentCoding(
        codec=_codec(bundle, registry), preprocess=preprocess, frozen=tables, model_id=bundle.config.model_id
    )


def _how_to_publish(name: str, bundle: Bundle) -> str:
    if name != EdgeEncoder.FILES["fp32"]:
        return "write one with: splitreg publish BUNDLE -o NEW --int8 --calibrate DIR --data NAME"
    reason = bundle.config.without_onnx
    why = f" (it could not be written with the bundle: {reason})" if reason not in ("", NOT_REQUESTED) else ""
    return f"write one with: splitreg publish {bundle.folder} -o published{why}"


def to_preprocess(entry: PreprocessEntry, name: str) -> Preprocess:
    """Return the preprocessing of a bundle's config.

    Args:
        entry: entry of the config.
        name: name of the bundle, for messages.

    Raises:
        BundleError: sizes or values out of range.
    """
    try:
        return Preprocess(size=entry.size, mode=entry.mode, mean=entry.mean, std=entry.std)
    except ValueError as cause:
        raise BundleError(f"invalid preprocessing in the config of {name}: {cause}") from cause


def _at_size(bundle: Bundle, size: tuple[int, int] | None) -> Preprocess:
    preprocess = to_preprocess(bundle.config.preprocess, str(bundle.folder))
    if size is None or tuple(size) == preprocess.size:
        return preprocess
    if bundle.config.graph is None or not bundle.config.graph.dynamic:
        height, width = preprocess.size
        raise BundleError(
            f"the graph of {bundle.folder} accepts {width}x{height} pixels only, got size {tuple(size)}; leave size out"
        )
    try:
        return Preprocess(size=(size[0], size[1]), mode=preprocess.mode, mean=preprocess.mean, std=preprocess.std)
    except (ValueError, IndexError, TypeError) as cause:
        raise RecipeError(f"size must be (height, width), got {size!r}: {cause}") from cause


def _codec(bundle: Bundle, registry: Registry | None) -> Codec:
    """Create the codec of the config."""
    from splitreg.registry import discover

    entry = bundle.config.codec
    registry = discover() if registry is None else registry
    try:
        codec: Codec = registry.create("codec", entry.name, options=entry.options)
    except MissingExtra as error:
        missing = getattr(error.__cause__, "name", None) or "another package"
        raise MissingExtra(
            f"the bundle {bundle.folder} has codec {entry.name!r}, which needs {missing}, and that is not installed; "
            f"pip install {missing}, or publish the bundle with codec 'rans', which needs no other package"
        ) from error
    except RegistryError as error:
        package = bundle.config.plugins.get(f"codec:{entry.name}", "an unknown package")
        raise type(error)(f"the bundle {bundle.folder} has codec {entry.name!r} of {package}: {error}") from error
    except RecipeError as cause:
        raise BundleError(
            f"the installed codec {entry.name!r} rejects the options of the bundle {bundle.folder}: {cause}"
        ) from cause
    return codec
