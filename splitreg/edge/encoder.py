"""A bundle's edge half on a device: ``config.json``, ``edge.safetensors`` and ``edge.onnx``, and nothing of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from splitreg.coding import Codec, LatentModel
from splitreg.edge.files import read_checked, read_config, read_tables
from splitreg.edge.half import EdgeHalf
from splitreg.edge.runtimes import Network, load_network
from splitreg.errors import BundleError, MissingExtra, RecipeError, RegistryError, near
from splitreg.imaging import Preprocess
from splitreg.zoo import find_bundle

if TYPE_CHECKING:
    from splitreg.registry import Registry


class EdgeEncoder(EdgeHalf):
    """Pictures to packets, the same as ``EdgeModel``'s up to the rounding of another runtime.

    ::

        packets = EdgeEncoder.open("my-bundle").encode("photo.jpg")

    Args:
        network: image to latent.
        codec: symbols to bytes.
        preprocess: picture to network input, at the network's size.
        symbols: frozen tables.
        model_id: what packets carry.
    """

    #: Precision -> file of the bundle.
    FILES: ClassVar[Mapping[str, str]] = {"fp32": "edge.onnx", "int8": "edge.int8.onnx"}

    def __init__(
        self, *, network: Network, codec: Codec, preprocess: Preprocess, symbols: LatentModel, model_id: int
    ) -> None:
        super().__init__(codec=codec, preprocess=preprocess, symbols=symbols, model_id=model_id)
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
            bundle: the folder.
            runtime: ``"onnxruntime"`` or ``"openvino"``.
            precision: ``"fp32"`` (``edge.onnx``) or ``"int8"`` (``edge.int8.onnx``, where it was published).
            threads: CPU threads that one image may use.
            size: (height, width) of the network's input; the recipe's by default. Others need a bundle whose graph
                takes any size.
            registry: the installed plugins, by default.

        Raises:
            BundleError: a file is missing, altered or not of this bundle, or the graph does not take this size.
            MissingExtra: the runtime, or what the codec needs, is not installed.
            RecipeError: an option is not one.
            RegistryError: the codec's plugin is not installed or broken.
        """
        if precision not in cls.FILES:
            raise RecipeError(
                f"no precision {precision!r}.{near(precision, cls.FILES)} There are: {', '.join(cls.FILES)}"
            )
        folder, name = find_bundle(bundle), cls.FILES[precision]
        config = read_config(folder)
        hashes = config["files"]
        if name not in hashes:
            raise BundleError(f"the bundle {folder} has no {name}; {_how_to_get(name, config)}")
        preprocess = _sized(_preprocess(folder, config), size, folder, config)
        symbols = read_tables(folder, "edge.safetensors", hashes)
        network = load_network(
            runtime, read_checked(folder, name, hashes), name=name, size=preprocess.size, threads=threads
        )
        if network.channels not in (0, symbols.channels):
            raise BundleError(f"{name} gives {network.channels} channels, the tables are for {symbols.channels}")
        return cls(
            network=network, codec=_codec(folder, config, registry), preprocess=preprocess, symbols=symbols,
            model_id=int(config["model_id"], 16),
        )  # fmt: skip

    def _analyse(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.network.run(pixels)


def _how_to_get(name: str, config: Mapping[str, Any]) -> str:
    if name != EdgeEncoder.FILES["fp32"]:
        return "publish one: splitreg publish BUNDLE -o NEW --int8 --calibrate DIR --data NAME"
    reason = config.get("without_onnx")
    why = f" (when this one was written: {reason})" if reason else ""
    return f"publish one: splitreg publish BUNDLE -o NEW{why}"


def _preprocess(folder: Path, config: Mapping[str, Any]) -> Preprocess:
    try:
        return Preprocess(**config["preprocess"])
    except (TypeError, ValueError) as cause:
        raise BundleError(f"{folder / 'config.json'} does not say how pictures are prepared: {cause}") from cause


def _sized(preprocess: Preprocess, size: tuple[int, int] | None, folder: Path, config: Mapping[str, Any]) -> Preprocess:
    if size is None or tuple(size) == preprocess.size:
        return preprocess
    edge = config.get("edge")
    if not (isinstance(edge, dict) and edge.get("dynamic") is True):
        height, width = preprocess.size
        raise BundleError(f"the graph of {folder} takes {width}x{height} pixels alone; leave the size out")
    try:
        return replace(preprocess, size=(size[0], size[1]))
    except (ValueError, IndexError, TypeError) as cause:
        raise RecipeError(f"size is (height, width): {cause}") from cause


def _codec(folder: Path, config: Mapping[str, Any], registry: Registry | None) -> Codec:
    """Make the codec that the recipe names."""
    from splitreg.registry import discover

    options = config["recipe"].get("codec")
    if not isinstance(options, dict) or not isinstance(options.get("name"), str):
        raise BundleError(f"{folder / 'config.json'} does not say which codec the packets have")
    name, options = options["name"], {key: value for key, value in options.items() if key != "name"}
    registry = discover() if registry is None else registry
    try:
        made = registry.load(registry.spec("codec", name))
    except MissingExtra as error:
        missing = getattr(error.__cause__, "name", None) or "something"
        raise MissingExtra(
            f"the packets of {folder} have codec {name!r}, which needs {missing}, and that is not installed; pip install "
            f"{missing}, or train and publish the model with codec 'rans', which needs nothing more"
        ) from error
    except RegistryError as error:
        package = config["plugins"].get(f"codec:{name}", "an unknown package")
        raise type(error)(f"the packets of {folder} have codec {name!r} of {package}: {error}") from error
    try:
        codec: Codec = made(**options)
    except TypeError as cause:
        raise BundleError(
            f"the codec {name!r} that is installed does not know this bundle's options: {cause}"
        ) from cause
    return codec
