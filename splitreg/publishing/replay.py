"""Replay a bundle: files, hashes, shapes, and its test vectors on this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from splitreg import imaging
from splitreg.assembly.edge import EdgeModel
from splitreg.coding import Packet
from splitreg.errors import BundleError, SplitregError
from splitreg.publishing import files, testvectors
from splitreg.publishing.bundle import load_edge, load_server
from splitreg.publishing.onnx_export import run_edge
from splitreg.registry import Registry

#: Another machine's floating point may round a few latents to the neighbouring symbol.
SYMBOLS_THAT_MAY_DIFFER = 0.005
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
    folder, checks = Path(bundle), []

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
        if "edge.onnx" in hashes:
            attempt("edge.onnx", lambda: _onnx(folder, registry))
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
    latent, geometry = edge.latent_of(folder / "testvectors" / "image.png")
    packet = Packet.parse(recorded)
    if (packet.original, packet.coded) != (geometry.original, geometry.coded):
        raise BundleError("the recorded packet is of another picture or size")
    channels, height, width = latent.shape
    different = _different(
        _restored(edge, latent), edge.tables.decode(packet.streams, (channels, height, width), edge.codec)
    )
    if different > SYMBOLS_THAT_MAY_DIFFER:
        raise BundleError(f"{different:.2%} of the test image's symbols differ from the recorded packet's")
    if edge.encode(folder / "testvectors" / "image.png")[0] == recorded:
        return f"the same {len(recorded)} bytes"
    return f"{different:.3%} of the symbols differ (floating point of another machine); within the limit"


def _onnx(folder: Path, registry: Registry | None) -> str:
    edge = load_edge(folder, registry=registry)
    image = folder / "testvectors" / "image.png"
    pixels, _ = imaging.prepare(imaging.read(image), edge.preprocess)
    theirs = run_edge((folder / "edge.onnx").read_bytes(), pixels)
    different = _different(_restored(edge, edge.latent_of(image)[0]), _restored(edge, theirs))
    if different > SYMBOLS_THAT_MAY_DIFFER:
        raise BundleError(f"edge.onnx gives other symbols than the weights: {different:.2%} differ")
    return f"{different:.3%} of the symbols differ from those of the weights"


def _restored(edge: EdgeModel, latent: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the latent that a server gets."""
    channels, height, width = latent.shape
    return edge.tables.decode(edge.tables.encode(latent, edge.codec), (channels, height, width), edge.codec)


def _different(mine: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    """Share of the restored values that differ: by a symbol, or by more than rounding where floats are sent as they are."""
    return float(np.mean(~np.isclose(mine, theirs, rtol=1e-2, atol=1e-2)))


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
