"""The golden corpus: cases on disk, and the codecs that they hold. Used by the tests and by the scripts.

A case is a ``.safetensors`` file: ``tables.*`` (what ``load_model`` reads), ``latent`` (C, h, w), the exact ``restored``
latent where it is another, and ``CODEC.N``, the bytes of stream N. Latents of whole numbers are stored as such.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from splitreg.coding import Codec, FrameEncoder, LatentCoding, LatentModel, RansCodec, load_model
from splitreg.imaging import Preprocess
from splitreg.registry import discover

FOLDER = Path(__file__).parent
#: Codecs whose bytes are held in both directions; the encoders of other libraries may change, so only decoding is.
OURS = ("rans", "rans-static", "raw")
PREPROCESS = Preprocess(size=(32, 32))
OTHERS = ("compressai", "zstd", "png", "webp", "jpeg")


@dataclass(frozen=True)
class Case:
    """One latent and its model.

    Args:
        name: of the file.
        model: its frozen tables.
        latent: (C, h, w) float32.
        restored: codec -> what a receiver gets, float32; the lossy ones differ.
        streams: codec -> the streams of a packet.
    """

    name: str
    model: LatentModel
    latent: np.ndarray
    restored: dict[str, np.ndarray]
    streams: dict[str, tuple[bytes, ...]]


def make_codec(name: str, kernel: str = "auto") -> Codec:
    """Return a codec by its name in the corpus."""
    if name.startswith("rans"):
        return RansCodec(adapt=name == "rans", kernel=kernel)
    registry = discover()
    codec: Codec = registry.load(registry.spec("codec", name))()
    return codec


def names() -> list[str]:
    """Return the names of all cases."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def read(name: str) -> Case:
    """Read a case."""
    arrays = load_file(FOLDER / f"{name}.safetensors")
    tables = {key.removeprefix("tables."): arrays.pop(key) for key in list(arrays) if key.startswith("tables.")}
    latent = arrays.pop("latent").astype(np.float32)
    restored = arrays.pop("restored", latent).astype(np.float32)
    lossy = {key.removeprefix("restored."): arrays.pop(key) for key in list(arrays) if key.startswith("restored.")}
    streams: dict[str, tuple[bytes, ...]] = {}
    for key in sorted(arrays):
        codec = key.partition(".")[0]
        streams[codec] = (*streams.get(codec, ()), arrays[key].tobytes())
    return Case(name, load_model(tables), latent, {codec: lossy.get(codec, restored) for codec in streams}, streams)


def frames_of(case: Case) -> list[np.ndarray]:
    """Return the (C, h, w) latents of a short clip that begins with a case's: single values, regions and all of it change."""
    first = np.nan_to_num(case.latent)
    places = np.arange(first.size, dtype=np.int64).reshape(first.shape)
    rows = np.arange(first.shape[1])[:, None]
    frames = [first, first]
    for k in range(1, 5):
        changed = (places * 7919 + k * 104729) % 97 < 3 * k
        frames.append(np.where(changed | ((rows == k) & (places % 3 == 0)), first + np.float32(k - 2), frames[-1]))
    frames += [first, np.ascontiguousarray(first[:, ::-1, ::-1])]
    return [np.ascontiguousarray(frame, np.float32) for frame in frames]


def stream_of(case: Case, kernel: str = "auto") -> list[bytes]:
    """Return the packets of a case's clip; the second half asks for a key frame."""
    coding = LatentCoding(
        codec=make_codec("rans", kernel), preprocess=PREPROCESS, frozen=case.model, model_id=0xC0FFEE01
    )
    encoder = FrameEncoder(coding, case.latent.shape, stream=3)
    return [encoder.encode(frame, key=i == 5) for i, frame in enumerate(frames_of(case))]


def arrays_of(case: Case) -> dict[str, np.ndarray[Any, Any]]:
    """Return what the file of a case holds: the inverse of ``read``."""
    arrays = {f"tables.{name}": np.ascontiguousarray(array) for name, array in case.model.to_arrays().items()}
    exact = case.model.restore(case.latent)
    arrays["latent"] = _narrow(case.latent)
    if not np.array_equal(exact.view(np.int32), case.latent.view(np.int32)):
        arrays["restored"] = _narrow(exact)
    for codec, streams in case.streams.items():
        if not np.array_equal(case.restored[codec], exact):
            arrays[f"restored.{codec}"] = case.restored[codec]
        arrays |= {f"{codec}.{i}": np.frombuffer(stream, np.uint8) for i, stream in enumerate(streams)}
    return arrays


def _narrow(values: np.ndarray) -> np.ndarray:
    """Return the smallest integers that hold these values exactly, or the values."""
    for kind in (np.uint8, np.int8, np.int16, np.int32):
        low, high = np.iinfo(kind).min, np.iinfo(kind).max
        if low <= values.min() and values.max() <= high and (values == np.rint(values)).all():
            narrow = values.astype(kind)
            if np.array_equal(narrow.astype(np.float32).view(np.int32), values.view(np.int32)):  # -0.0 is not 0
                return narrow
    return values
