"""A bundle's edge half on a device: ``config.json``, ``edge.safetensors`` and ``edge.onnx``; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from splitreg.bundle import Bundle, PreprocessEntry
from splitreg.bundle.tables import read_tables
from splitreg.coding import Codec, LatentCoding
from splitreg.edge.half import EdgeHalf
from splitreg.edge.runtimes import Network, load_network
from splitreg.errors import BundleError, MissingExtra, RecipeError, RegistryError, suggest
from splitreg.imaging import Preprocess

if TYPE_CHECKING:
    from pathlib import Path

    from splitreg.registry import Registry


class EdgeEncoder(EdgeHalf):
    """Images to packets, the same as ``EdgeModel``'s up to the rounding of another runtime.

    ::

        packets = EdgeEncoder.open("my-bundle").encode("photo.jpg")

    Args:
        network: image to latent.
        coding: what the packets are, at the network's input size.
    """

    #: Precision -> file of the bundle.
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
        registry: Registry | None = None,
    ) -> EdgeEncoder:
        """Open the edge half of a bundle; reads ``config.json``, ``edge.safetensors`` and one ONNX file.

        Args:
            bundle: the folder, or ``zoo:NAME``.
            runtime: ``"onnxruntime"`` or ``"openvino"``.
            precision: ``"fp32"`` (``edge.onnx``) or ``"int8"`` (``edge.int8.onnx``, where it was published).
            threads: CPU threads per image.
            size: (height, width) of the network's input; the recipe's by default. Others need a bundle whose graph
                takes any size.
            registry: the installed plugins, by default.

        Raises:
            BundleError: a file is missing, altered or not of this bundle, or the graph does not take this size.
            MissingExtra: the runtime, or what the codec needs, is not installed.
            RecipeError: an invalid option.
            RegistryError: the codec's plugin is not installed or broken.
        """
        if precision not in cls.FILES:
            raise RecipeError(
                f"no precision {precision!r}.{suggest(precision, cls.FILES)} Available: {', '.join(cls.FILES)}"
            )
        opened, name = Bundle.open(bundle), cls.FILES[precision]
        if name not in opened:
            raise BundleError(f"the bundle {opened.folder} has no {name}; {_how_to_get(name, opened)}")
        preprocess = _at_size(opened, size)
        tables = read_tables(opened, "edge.safetensors")
        network = load_network(runtime, opened.read(name), name=name, size=preprocess.size, threads=threads)
        if network.channels not in (0, tables.channels):
            raise BundleError(f"{name} has {network.channels} channels, the tables are for {tables.channels}")
        coding = LatentCoding(
            codec=_codec(opened, registry), preprocess=preprocess, frozen=tables, model_id=opened.config.model_id
        )
        return cls(network, coding)

    def _analyse(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.network.run(pixels)


def _how_to_get(name: str, bundle: Bundle) -> str:
    if name != EdgeEncoder.FILES["fp32"]:
        return "publish one: splitreg publish BUNDLE -o NEW --int8 --calibrate DIR --data NAME"
    reason = bundle.config.without_onnx
    why = f" (when this bundle was written: {reason})" if reason else ""
    return f"publish one: splitreg publish BUNDLE -o NEW{why}"


def to_preprocess(entry: PreprocessEntry, name: str) -> Preprocess:
    """Return the preprocessing that a bundle's config describes.

    Args:
        entry: of the config.
        name: of the bundle, for messages.

    Raises:
        BundleError: sizes or values out of range.
    """
    try:
        return Preprocess(size=entry.size, mode=entry.mode, mean=entry.mean, std=entry.std)
    except ValueError as cause:
        raise BundleError(f"the preprocessing in the config of {name} is not valid: {cause}") from cause


def _at_size(bundle: Bundle, size: tuple[int, int] | None) -> Preprocess:
    preprocess = to_preprocess(bundle.config.preprocess, str(bundle.folder))
    if size is None or tuple(size) == preprocess.size:
        return preprocess
    if bundle.config.graph is None or not bundle.config.graph.dynamic:
        height, width = preprocess.size
        raise BundleError(f"the graph of {bundle.folder} takes {width}x{height} pixels only; leave the size out")
    try:
        return Preprocess(size=(size[0], size[1]), mode=preprocess.mode, mean=preprocess.mean, std=preprocess.std)
    except (ValueError, IndexError, TypeError) as cause:
        raise RecipeError(f"size must be (height, width): {cause}") from cause


def _codec(bundle: Bundle, registry: Registry | None) -> Codec:
    """Create the codec that the config names."""
    from splitreg.registry import discover

    entry = bundle.config.codec
    registry = discover() if registry is None else registry
    try:
        codec: Codec = registry.create("codec", entry.name, options=entry.options)
    except MissingExtra as error:
        missing = getattr(error.__cause__, "name", None) or "a package"
        raise MissingExtra(
            f"the packets of {bundle.folder} have codec {entry.name!r}, which needs {missing}, and that is not installed; "
            f"pip install {missing}, or train and publish the model with codec 'rans', which needs nothing more"
        ) from error
    except RegistryError as error:
        package = bundle.config.plugins.get(f"codec:{entry.name}", "an unknown package")
        raise type(error)(f"the packets of {bundle.folder} have codec {entry.name!r} of {package}: {error}") from error
    except RecipeError as cause:
        raise BundleError(
            f"the installed codec {entry.name!r} does not accept this bundle's options: {cause}"
        ) from cause
    return codec
