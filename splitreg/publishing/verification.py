"""Verify a bundle: files, hashes, shapes, and its test vectors on this machine."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from splitreg.assembly import load_edge, load_server, testvectors
from splitreg.assembly.testvectors import MAX_SYMBOL_DIFFERENCE, symbol_difference
from splitreg.assembly.weights import parse_tensors
from splitreg.bundle import Bundle, hash_folder
from splitreg.coding import Packet
from splitreg.edge import EdgeEncoder, EdgeHalf
from splitreg.errors import BundleError, SplitregError
from splitreg.registry import Registry

#: Share of a prediction's numbers that must agree with the recorded ones to within 1 % (or 0.01).
MIN_AGREEMENT = 0.98
_IMAGE = "testvectors/image.png"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """The result of one check."""

    name: str
    passed: bool
    detail: str


def verify(path: str | Path, *, registry: Registry | None = None) -> list[Check]:
    """Check a bundle and return the results; a bad bundle is a failed check, not an error.

    Args:
        path: the folder, or ``zoo:NAME``.
        registry: the installed plugins, by default.
    """
    checks: list[Check] = []

    def attempt(name: str, run: Callable[[], str]) -> bool:
        try:
            checks.append(Check(name=name, passed=True, detail=run()))
        except SplitregError as error:
            checks.append(Check(name=name, passed=False, detail=str(error)))
        return checks[-1].passed

    if not attempt("config", lambda: f"model {Bundle.open(path).config.id}"):
        return checks
    bundle = Bundle.open(path)
    folder = bundle.folder
    complete = attempt("hashes", lambda: _hashes(bundle))
    edge_fits = attempt(
        "edge half", lambda: f"codec {type(load_edge(folder, registry=registry).coding.codec).__name__}"
    )
    server_fits = attempt("server half", lambda: f"heads {', '.join(load_server(folder, registry=registry).heads)}")
    if complete and edge_fits:
        attempt("encode", lambda: _encode(bundle, registry))
        for precision, name in EdgeEncoder.FILES.items():
            if name in bundle:
                attempt(name, functools.partial(_onnx, bundle, precision, registry))
    if complete and server_fits:
        attempt("infer", lambda: _infer(bundle, registry))
    return checks


def _hashes(bundle: Bundle) -> str:
    for name in bundle.config.files:
        bundle.read(name)
    for name in testvectors.NAMES:
        if name not in bundle:
            raise BundleError(f"the bundle {bundle.folder} has no {name}")
    extra = sorted(hash_folder(bundle.folder).keys() - bundle.config.files.keys())
    if extra:
        raise BundleError(f"the bundle {bundle.folder} has files that it does not list: {', '.join(extra)}")
    return f"{len(bundle.config.files)} files"


def _encode(bundle: Bundle, registry: Registry | None) -> str:
    edge = load_edge(bundle.folder, registry=registry)
    recorded = bundle.read("testvectors/packet.bin")
    different = _compare(edge, bundle, "packet.bin", MAX_SYMBOL_DIFFERENCE)
    if edge.encode(bundle.folder / _IMAGE)[0] == recorded:
        return f"the same {len(recorded)} bytes"
    return f"{different:.3%} of the symbols differ (floating point of another machine); within the limit"


def _onnx(bundle: Bundle, precision: str, registry: Registry | None) -> str:
    edge = EdgeEncoder.open(bundle.folder, precision=precision, registry=registry)
    packet, limit = "packet.bin", MAX_SYMBOL_DIFFERENCE
    if precision == "int8":
        graph, packet = bundle.config.graph, "packet.int8.bin"
        figures = graph.int8 if graph is not None and graph.int8 is not None else {}
        try:
            limit = float(figures["symbols_limit"])
        except (KeyError, TypeError, ValueError) as cause:
            raise BundleError("config.json does not say how many symbols of edge.int8.onnx may differ") from cause
    different = _compare(edge, bundle, packet, limit)
    return f"{different:.3%} of the symbols differ from those of the recorded {packet}"


def _compare(edge: EdgeHalf, bundle: Bundle, packet_name: str, limit: float) -> float:
    """Return the share of the test image's symbols that differ between an edge half and a recorded packet.

    Raises:
        BundleError: more than the limit, or no such packet.
    """
    recorded = bundle.read(f"testvectors/{packet_name}")
    latent, geometry = edge.latent_of(bundle.folder / _IMAGE)
    packet = Packet.parse(recorded)
    if (packet.original, packet.coded) != (geometry.original, geometry.coded):
        raise BundleError("the recorded packet is of another image or size")
    shape = (latent.shape[0], latent.shape[1], latent.shape[2])
    ours = edge.coding.decode(edge.coding.encode(latent), shape)
    different = symbol_difference(ours, edge.coding.decode(packet.streams, shape))
    if different > limit:
        raise BundleError(
            f"{different:.2%} of the test image's symbols differ from those of {packet_name}; the limit is {limit:.2%}"
        )
    return different


def _infer(bundle: Bundle, registry: Registry | None) -> str:
    server = load_server(bundle.folder, registry=registry)
    name = "testvectors/predictions.safetensors"
    recorded = parse_tensors(bundle.read(name), name)
    predicted = testvectors.flatten(server.infer(bundle.read("testvectors/packet.bin"))[0])
    if set(predicted) != set(recorded):
        raise BundleError(f"predictions have {sorted(predicted)}, the test vectors {sorted(recorded)}")
    exact = [_agree(key, predicted[key], recorded[key]) for key in recorded]
    return "predictions equal to the last bit" if all(exact) else "predictions within the tolerance"


def _agree(key: str, ours: Tensor, recorded: Tensor) -> bool:
    """Return whether an array is exactly the recorded one.

    Raises:
        BundleError: it is not within the tolerance either.
    """
    if ours.shape != recorded.shape:  # another machine may keep or drop a box at the threshold
        if abs(ours.shape[0] - recorded.shape[0]) > 1 + 0.02 * max(ours.shape[0], recorded.shape[0]):
            raise BundleError(f"{key} has shape {tuple(ours.shape)}, recorded {tuple(recorded.shape)}")
        return False
    close = np.isclose(ours.double().numpy(), recorded.double().numpy(), rtol=1e-2, atol=1e-2)
    if close.size and close.mean() < MIN_AGREEMENT:
        raise BundleError(f"{key}: {1 - close.mean():.1%} of the numbers differ from the recorded ones")
    return bool((ours.numpy() == recorded.numpy()).all())
