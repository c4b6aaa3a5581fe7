"""``verify``: check the files, hashes and shapes of a bundle, and its test vectors on this machine."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from splitreg.assembly import EdgeModel, ServerModel, load_edge, load_server, testvectors
from splitreg.assembly.testvectors import MAX_SYMBOL_DIFFERENCE, symbol_difference
from splitreg.assembly.weights import parse_tensors
from splitreg.bundle import Bundle, hash_folder
from splitreg.coding import Packet
from splitreg.edge import EdgeEncoder, EdgeHalf
from splitreg.errors import BundleError, MissingExtra, SplitregError
from splitreg.files import is_image
from splitreg.publishing.targets import targets_of, verify_target
from splitreg.registry import Registry

#: Smallest share of a prediction's numbers within 1 % (or 0.01) of the recorded ones.
MIN_AGREEMENT = 0.98
_IMAGE = "testvectors/image.png"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """The result of one check."""

    name: str
    passed: bool
    detail: str


def verify(path: str | Path, *, registry: Registry | None = None) -> list[Check]:
    """Check a bundle; problems are failed checks, not errors.

    Args:
        path: the folder, or ``zoo:NAME``.
        registry: the installed plugins, by default.
    """
    checks: list[Check] = []

    def check(name: str, run: Callable[[], str]) -> bool:
        try:
            checks.append(Check(name=name, passed=True, detail=run()))
        except SplitregError as error:
            checks.append(Check(name=name, passed=False, detail=str(error)))
        return checks[-1].passed

    if not check("config", lambda: f"model {Bundle.open(path).config.id}"):
        return checks
    bundle = Bundle.open(path)
    edge_half = functools.cache(lambda: load_edge(bundle.folder, registry=registry))
    server_half = functools.cache(lambda: load_server(bundle.folder, registry=registry))
    complete = check("hashes", lambda: _hashes(bundle))
    check("card", lambda: _card(bundle))
    edge_fits = check("edge half", lambda: f"codec {type(edge_half().coding.codec).__name__}")
    server_fits = check("server half", lambda: f"heads {', '.join(server_half().heads)}")
    if complete and edge_fits:
        check("encode", lambda: _encode(bundle, edge_half()))
        for precision, name in EdgeEncoder.FILES.items():
            if name in bundle:
                check(name, functools.partial(_onnx, bundle, precision, registry))
        for description in targets_of(bundle):
            check(
                f"target {description['target']}",
                functools.partial(_target, bundle, description, edge_half(), registry),
            )
    if complete and server_fits:
        check("infer", lambda: _infer(bundle, server_half()))
    return checks


def _hashes(bundle: Bundle) -> str:
    bundle.fetch_all()
    names = [name for name in bundle.config.files if not _is_card(name)]
    for name in names:
        bundle.check(name)
    for name in testvectors.NAMES:
        if name not in bundle:
            raise BundleError(f"no {name} in the bundle {bundle.folder}")
    extra = sorted(hash_folder(bundle.folder).keys() - bundle.config.files.keys())
    if extra:
        raise BundleError(f"files of {bundle.folder} are not in its config: {', '.join(extra)}")
    return f"{len(names)} files with weights, tables, test vectors and results"


def _card(bundle: Bundle) -> str:
    """Compare the model card and its images. People edit them: that is stated, but no failure."""
    hashes = hash_folder(bundle.folder)
    names = [name for name in bundle.config.files if _is_card(name)]
    missing = [name for name in names if name not in hashes]
    if missing:
        raise BundleError(f"no {', '.join(missing)} in the bundle {bundle.folder}; copy the whole folder")
    edited = [name for name in names if hashes[name] != bundle.config.files[name]]
    if edited:
        return f"edited after it was written: {', '.join(edited)}; the model does not depend on it"
    return f"{', '.join(names) or 'no file'}, as written"


def _is_card(name: str) -> bool:
    return name == "README.md" or ("/" not in name and is_image(name))


def _encode(bundle: Bundle, edge: EdgeHalf) -> str:
    recorded = bundle.read("testvectors/packet.bin")
    difference = _compare(edge, bundle, "packet.bin", MAX_SYMBOL_DIFFERENCE)
    if edge.encode(bundle.folder / _IMAGE)[0] == recorded:
        return f"{len(recorded)} bytes, equal to the recorded ones"
    return f"{difference:.3%} of the symbols differ (rounding of this machine), within the limit"


def _onnx(bundle: Bundle, precision: str, registry: Registry | None) -> str:
    edge = EdgeEncoder.open(bundle.folder, precision=precision, registry=registry)
    packet, limit = "packet.bin", MAX_SYMBOL_DIFFERENCE
    if precision == "int8":
        graph, packet = bundle.config.graph, "packet.int8.bin"
        figures = graph.int8 if graph is not None and graph.int8 is not None else {}
        try:
            limit = float(figures["symbols_limit"])
        except (KeyError, TypeError, ValueError) as cause:
            raise BundleError("config.json has no symbols_limit for edge.int8.onnx") from cause
    difference = _compare(edge, bundle, packet, limit)
    return f"{difference:.3%} of the symbols differ from the recorded {packet}"


def _target(bundle: Bundle, description: Mapping[str, Any], edge: EdgeModel, registry: Registry | None) -> str:
    """Run a target; one that cannot run on this machine is stated, but no failure."""
    try:
        return verify_target(bundle, description, edge, registry=registry)
    except MissingExtra as error:
        return f"not run: {error}"


def _compare(edge: EdgeHalf, bundle: Bundle, packet_name: str, limit: float) -> float:
    """Return the share of the test image's symbols that differ from a recorded packet.

    Raises:
        BundleError: it exceeds the limit, or there is no such packet.
    """
    recorded = bundle.read(f"testvectors/{packet_name}")
    latent, geometry = edge.latent_of(bundle.folder / _IMAGE)
    packet = Packet.parse(recorded)
    if (packet.original, packet.coded) != (geometry.original, geometry.coded):
        raise BundleError(f"the recorded {packet_name} is of another image or size")
    shape = (latent.shape[0], latent.shape[1], latent.shape[2])
    decoded = edge.coding.decode(edge.coding.encode(latent), shape)
    difference = symbol_difference(decoded, edge.coding.decode(packet.streams, shape))
    if difference > limit:
        raise BundleError(
            f"{difference:.2%} of the test image's symbols differ from {packet_name}, the limit is {limit:.2%}"
        )
    return difference


def _infer(bundle: Bundle, server: ServerModel) -> str:
    name = "testvectors/predictions.safetensors"
    recorded = parse_tensors(bundle.read(name), name)
    predicted = testvectors.flatten(server.infer(bundle.read("testvectors/packet.bin"))[0])
    if set(predicted) != set(recorded):
        raise BundleError(f"predictions have the arrays {sorted(predicted)}, the test vectors {sorted(recorded)}")
    exact = [_agree(key, predicted[key], recorded[key]) for key in recorded]
    return "predictions are equal to the recorded ones" if all(exact) else "predictions are within the tolerance"


def _agree(key: str, predicted: Tensor, recorded: Tensor) -> bool:
    """Return whether an array is exactly the recorded one.

    Raises:
        BundleError: it is not within the tolerance.
    """
    if predicted.shape != recorded.shape:  # a box near the threshold depends on rounding
        if abs(predicted.shape[0] - recorded.shape[0]) > 1 + 0.02 * max(predicted.shape[0], recorded.shape[0]):
            raise BundleError(f"{key} has shape {tuple(predicted.shape)}, recorded {tuple(recorded.shape)}")
        return False
    close = np.isclose(predicted.double().numpy(), recorded.double().numpy(), rtol=1e-2, atol=1e-2)
    if close.size and close.mean() < MIN_AGREEMENT:
        raise BundleError(
            f"{key}: {1 - close.mean():.1%} of the numbers differ from the recorded ones, the limit is "
            f"{1 - MIN_AGREEMENT:.1%}"
        )
    return bool((predicted.numpy() == recorded.numpy()).all())
