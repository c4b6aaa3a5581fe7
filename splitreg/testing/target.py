"""Conformance suite of targets."""

from __future__ import annotations

import functools
from pathlib import PurePosixPath
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from splitreg.coding import Packet
from splitreg.edge.targets import EdgeSource, ExportedTarget, ExportTarget
from splitreg.errors import BundleError, MissingExtra
from splitreg.testing.suite import Suite, expect, raises, skip

#: Largest share of symbols that may differ from those of onnxruntime, by the rounding of latents.
MAX_SYMBOL_DIFFERENCE = 0.005


class TargetSuite(Suite):
    """Exports of small edge halves: deterministic, and equal packets up to the rounding of latents.

    Attributes:
        max_difference: largest share of symbols that may differ from onnxruntime's.
    """

    kind: ClassVar[str] = "target"
    interface: ClassVar[type[Any]] = ExportTarget
    max_difference: ClassVar[float] = MAX_SYMBOL_DIFFERENCE

    def make(self) -> ExportTarget:
        """Return a new target."""
        target: ExportTarget = self.load()(**self.options)
        return target

    def cases(self) -> dict[str, EdgeSource]:
        """Return edge halves: of one rate, of several rates, and with a part of a backbone."""
        return _sources()

    def test_export_is_deterministic(self) -> None:
        """The same edge half gives the same files, with names inside the target's folder."""
        for name, source in self.cases().items():
            first, second = self._export(source), self.make().export(source)
            expect(first.files, f"{name}: no file was exported")
            expect(dict(first.files) == dict(second.files), f"{name}: two exports give different files")
            for file, data in first.files.items():
                path = PurePosixPath(file)
                expect(not path.is_absolute() and ".." not in path.parts, f"{name}: {file} is outside of the folder")
                expect(isinstance(data, bytes), f"{name}: {file} must be bytes, not {type(data).__name__}")

    def test_packets_equal_onnx(self) -> None:
        """Packets have the sizes and id of the model; few symbols differ from those of onnxruntime."""
        worst = 0.0
        for name, source in self.cases().items():
            target = self.make()
            exported = self._export(source)
            try:
                encode = target.open(exported.files, source)
            except MissingExtra as error:
                skip(str(error))
            for image in _images():
                worst = max(worst, self._difference(name, source, image, encode(image)))
        self.remark(f"at most {worst:.3%} of the symbols of an image differ")

    def test_damaged_graph(self) -> None:
        """A graph that is none raises ``BundleError`` or ``MissingExtra``, at export or when it is opened."""
        source = next(iter(self.cases().values()))
        broken = EdgeSource(graph=b"\x08\x08not a graph", coding=source.coding)

        def attempt() -> None:
            target = self.make()
            target.open(target.export(broken).files, broken)

        with raises("a damaged graph", BundleError, MissingExtra):
            attempt()

    def _export(self, source: EdgeSource) -> ExportedTarget:
        try:
            return self.make().export(source)
        except MissingExtra as error:
            skip(str(error))
            raise

    def _difference(self, name: str, source: EdgeSource, image: NDArray[np.uint8], data: bytes) -> float:
        from splitreg.edge import EdgeEncoder, load_network

        coding = source.coding
        network = load_network("onnxruntime", source.graph, name="edge.onnx", size=coding.preprocess.size)
        latent, geometry = EdgeEncoder(network, coding).latent_of(image)
        packet = Packet.parse(data)
        expect(packet.model_id == coding.model_id, f"{name}: model id {packet.model_id:08x}, not {coding.model_id:08x}")
        expect(
            (packet.original, packet.coded) == (geometry.original, geometry.coded),
            f"{name}: sizes {packet.original} and {packet.coded}, not {geometry.original} and {geometry.coded}",
        )
        channels, height, width = latent.shape
        decoded = coding.decode(packet.streams, (channels, height, width), context=packet.context)
        difference = float(np.mean(~np.isclose(decoded, coding.tables.restore(latent), rtol=1e-2, atol=1e-2)))
        expect(
            difference <= self.max_difference,
            f"{name}: {difference:.2%} of the symbols differ from onnxruntime's, the limit is {self.max_difference:.2%}",
        )
        return difference


def _images() -> list[NDArray[np.uint8]]:
    """Return images that are enlarged, reduced, and of the input's size."""
    images = []
    for height, width in ((64, 64), (40, 50), (200, 333), (64, 31), (97, 64)):
        y, x = np.mgrid[:height, :width]
        planes = [x * 255 // width, y * 255 // height, (x * y + 40 * (x // 8 + y // 8)) % 256]
        images.append(np.stack(planes, -1).astype(np.uint8))
    return images


@functools.cache
def _sources() -> dict[str, EdgeSource]:
    """Return small models with random weights."""
    import torch

    import splitreg
    from splitreg.publishing import edge_source

    sources = {}
    size = {"size": [64, 64], "mode": "letterbox"}
    light: dict[str, Any] = {"name": "fp", "channels": 12, "hidden": 24, "decoder_hidden": 8, "from": "image"}
    for name, bottleneck, more in (
        ("one rate", light, {}),
        ("several rates", {**light, "rates": 3}, {"input": {"size": [64, 64], "mode": "resize"}}),
        ("gdn", {**light, "encoder": "gdn"}, {}),
        ("quantised feature", {"name": "quantise", "bits": 6}, {"cut": "layer1", "codec": "rans"}),
    ):
        torch.manual_seed(0)
        recipe: dict[str, Any] = {
            "backbone": "test_resnet",
            "heads": [{"name": "cls", "labels": 3}],
            "input": size,
            **more,
        }
        model = splitreg.build(bottleneck=bottleneck, **recipe)
        sources[name] = edge_source(model)
    return sources
