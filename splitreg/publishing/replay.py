"""Replay a bundle: files, hashes, shapes, and its test vectors on this machine."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from splitreg.coding import Packet
from splitreg.edge import EdgeEncoder, EdgeHalf
from splitreg.errors import BundleError, SplitregError
from splitreg.publishing import files, testvectors
from splitreg.publishing.bundle import load_edge, load_server
from splitreg.publishing.testvectors import SYMBOLS_THAT_MAY_DIFFER, share_different
from splitreg.registry import Registry
from splitreg.zoo import find_bundle

#: Share of a prediction's numbers that must agree with the recorded ones to within 1 % (or 0.01).
NUMBERS_THAT_MUST_AGREE = 0.98


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    passed: bool
    detail: str


def verify(bundle: str | Path, *, registry: Registry | None = None) -> list[Check]:
    """Check a bundle and return what was found, check by check; a bad bundle is a failed check, not an error.

    Args:
        bundle: the folder.
        registry: the installed plugins, by default.
    """
    folder, checks = find_bundle(bundle), []

    def attempt(name: str, run: Callable[[], str]) -> bool:
        try:
            checks.append(Check(name=name, passed=True, detail=run()))
        except SplitregError as error:
            checks.append(Check(name=name, passed=False, detail=str(error)))
        return checks[-1].passed

    if not attempt("config", lambda: f"model {files.read_config(folder)['model_id']}"):
        return checks
    hashes = files.read_config(folder)["files"]
    whole = attempt("hashes", lambda: _hashes(folder, hashes))
    edge_fits = attempt("edge half", lambda: f"codec {type(load_edge(folder, registry=registry).codec).__name__}")
    server_fits = attempt("server half", lambda: f"heads {', '.join(load_server(folder, registry=registry).heads)}")
    if whole and edge_fits:
        attempt("encode", lambda: _encode(folder, registry))
        for precision, name in EdgeEncoder.FILES.items():
            if name in hashes:
                attempt(name, functools.partial(_onnx, folder, precision, registry))
    if whole and server_fits:
        attempt("infer", lambda: _infer(folder, registry))
    return checks


def _hashes(folder: Path, hashes: dict[str, str]) -> str:
    for name in hashes:
        files.read_checked(folder, name, hashes)
    for name in testvectors.NAMES:
        if name not in hashes:
            raise BundleError(f"the bundle {folder} has no {name}")
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - {"config.json"}
    if there != set(hashes):
        raise BundleError(
            f"the bundle {folder} has files that it does not list: {', '.join(sorted(there - set(hashes)))}"
        )
    return f"{len(hashes)} files"


def _encode(folder: Path, registry: Registry | None) -> str:
    edge = load_edge(folder, registry=registry)
    recorded = (folder / "testvectors" / "packet.bin").read_bytes()
    different = _against_packet(edge, folder, "packet.bin", SYMBOLS_THAT_MAY_DIFFER)
    if edge.encode(folder / "testvectors" / "image.png")[0] == recorded:
        return f"the same {len(recorded)} bytes"
    return f"{different:.3%} of the symbols differ (floating point of another machine); within the limit"


def _onnx(folder: Path, precision: str, registry: Registry | None) -> str:
    edge = EdgeEncoder.open(folder, precision=precision, registry=registry)
    packet, limit = "packet.bin", SYMBOLS_THAT_MAY_DIFFER
    if precision == "int8":
        try:
            packet, limit = "packet.int8.bin", float(files.read_config(folder)["edge"]["int8"]["symbols_limit"])
        except (KeyError, TypeError, ValueError) as cause:
            raise BundleError("config.json does not say how many symbols of edge.int8.onnx may differ") from cause
    different = _against_packet(edge, folder, packet, limit)
    return f"{different:.3%} of the symbols differ from those of the recorded {packet}"


def _against_packet(edge: EdgeHalf, folder: Path, packet_name: str, limit: float) -> float:
    """Share of the test picture's symbols that an edge half writes otherwise than a recorded packet has them.

    Raises:
        BundleError: more than the limit, or no such packet.
    """
    recorded = files.read_checked(folder, f"testvectors/{packet_name}", files.read_config(folder)["files"])
    latent, geometry = edge.latent_of(folder / "testvectors" / "image.png")
    packet = Packet.parse(recorded)
    if (packet.original, packet.coded) != (geometry.original, geometry.coded):
        raise BundleError("the recorded packet is of another picture or size")
    shape = (latent.shape[0], latent.shape[1], latent.shape[2])
    mine = edge.tables.decode(edge.tables.encode(latent, edge.codec), shape, edge.codec)
    different = share_different(mine, edge.tables.decode(packet.streams, shape, edge.codec))
    if different > limit:
        raise BundleError(
            f"{different:.2%} of the test image's symbols differ from those of {packet_name}; the limit is {limit:.2%}"
        )
    return different


def _infer(folder: Path, registry: Registry | None) -> str:
    server = load_server(folder, registry=registry)
    packet = (folder / "testvectors" / "packet.bin").read_bytes()
    name = "predictions.safetensors"
    recorded = files.parse_tensors((folder / "testvectors" / name).read_bytes(), name)
    found = testvectors.flatten(server.infer(packet)[0])
    if set(found) != set(recorded):
        raise BundleError(f"predictions have {sorted(found)}, the test vectors {sorted(recorded)}")
    exact = True
    for key, want in recorded.items():
        have = found[key]
        if have.shape != want.shape:  # another machine may keep or drop a box at the threshold
            if abs(have.shape[0] - want.shape[0]) > 1 + 0.02 * max(have.shape[0], want.shape[0]):
                raise BundleError(f"{key} has shape {tuple(have.shape)}, recorded {tuple(want.shape)}")
            exact = False
            continue
        same = have.numpy() == want.numpy()
        exact = exact and bool(same.all())
        close = np.isclose(have.double().numpy(), want.double().numpy(), rtol=1e-2, atol=1e-2)
        if close.size and close.mean() < NUMBERS_THAT_MUST_AGREE:
            raise BundleError(f"{key}: {1 - close.mean():.1%} of the numbers differ from the recorded ones")
    return "predictions equal to the last bit" if exact else "predictions within the tolerance"
