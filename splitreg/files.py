"""Files: atomic writes, JSON without NaN, safetensors headers, image suffixes and codecs.

Standard library only; shared by all layers.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import stat
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

#: Suffixes of image files, in the order in which they are tried. HEIC needs the package pillow-heif.
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".gif", ".avif", ".jfif", ".jpe",
    ".jp2", ".mpo", ".pnm", ".pbm", ".heic", ".heif",
)  # fmt: skip
#: Suffixes of video files.
VIDEO_SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mjpeg", ".ts", ".mpg", ".mpeg",
)  # fmt: skip
#: Image codec -> Pillow's format name, and the options (beside the quality) for the fewest bytes.
IMAGE_CODECS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "jpeg": ("JPEG", {"optimize": True}),
    "webp": ("WEBP", {"method": 6}),
    "png": ("PNG", {"optimize": True}),
    "avif": ("AVIF", {"speed": 6}),
}
#: Largest header of a safetensors file, in bytes: the library's own limit.
MAX_HEADER_BYTES = 100_000_000


def is_image(name: str | Path) -> bool:
    """Whether a file name has an image suffix, in any case, and is not hidden.

    >>> is_image("a/photo.JPG"), is_image("._photo.jpg"), is_image("notes.txt")
    (True, False, False)
    """
    last = str(name).rsplit("/", 1)[-1]
    return last.lower().endswith(IMAGE_SUFFIXES) and not last.startswith(".")


def write_atomic(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Write a file so that a reader, or a crash at any moment, sees the old or the new content.

    Creates the parent folder. A link stays a link: the file that it leads to is replaced. What is no file, such as
    ``/dev/stdout``, ``/dev/null`` or a named pipe, is written to and never replaced.

    Args:
        path: the file.
        data: its new content.
        sync: flush the data and the rename to the disk, so that they survive loss of power.

    Raises:
        OSError: the disk is full, or the file cannot be written; an older file is unchanged, and no
            temporary file is left.
    """
    if _is_special(path):
        path.write_bytes(data)
        return
    path = Path(os.path.realpath(path)) if path.is_symlink() else path
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
        if sync:
            _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        error.filename = error.filename or os.fspath(path)  # a failing write names no file
        raise


def _is_special(path: Path) -> bool:
    """Whether a path is a device, a pipe or a socket, also through links."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically; NaN and infinity become null.

    Raises:
        OSError: as ``write_atomic``.
    """
    write_atomic(path, dump_json(value, indent=1).encode() + b"\n")


def dump_json(value: Any, *, indent: int | None = None) -> str:
    """Serialise plain data as JSON; NaN and infinity, which JSON does not have, become null.

    >>> dump_json({"miou": float("nan"), "bytes": 3})
    '{"miou": null, "bytes": 3}'
    """
    try:
        return json.dumps(value, allow_nan=False, indent=indent)
    except ValueError:
        return json.dumps(json_safe(value), allow_nan=False, indent=indent)


def parse_json(text: str | bytes | bytearray, **options: Any) -> Any:
    """Read JSON that may be of anyone: what ``json.loads`` returns, and a ``ValueError`` for all that is wrong with it.

    Args:
        text: the JSON.
        options: keyword arguments of ``json.loads``.

    Raises:
        ValueError: not JSON, or nested too deep.
    """
    try:
        return json.loads(text, **options)
    except RecursionError as cause:
        raise ValueError("its lists or objects are nested too deep") from cause


def is_finite(value: Any) -> bool:
    """Whether it is a finite number, and no ``true`` or ``false``; JSON and TOML have integers of any length.

    >>> is_finite(3), is_finite(True), is_finite(float("nan")), is_finite(10**400)
    (True, False, False, False)
    """
    return type(value) in (int, float) and -sys.float_info.max <= value <= sys.float_info.max


@contextlib.contextmanager
def value_errors(error: Callable[[Exception], Exception]) -> Iterator[None]:
    """Turn the errors of a block that reads values which are missing or of another type into a typed error.

    Args:
        error: the typed error for a ``KeyError``, ``TypeError`` and so on.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as cause:
        raise error(cause) from cause


@contextlib.contextmanager
def disk_errors(place: Path, error: Callable[[str], Exception], advice: str) -> Iterator[None]:
    """Turn an ``OSError`` of a block that writes files into a typed error with the cause and the place.

    Args:
        place: the file or folder that the block writes.
        error: type of the error, e.g. ``TrainingError``.
        advice: what the user can do.
    """
    try:
        yield
    except OSError as cause:
        raise error(f"cannot write {place}: {cause.strerror or cause}; {advice}") from cause


def json_safe(value: Any) -> Any:
    """Return plain data with None in place of NaN and infinity, and lists in place of tuples."""
    if isinstance(value, Mapping):
        return {str(key): json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def safetensors_metadata(data: bytes) -> dict[str, str]:
    """Read the metadata in the header of a safetensors file.

    Args:
        data: the whole file.

    Raises:
        ValueError: the file is empty, cut short, or its header is damaged or has no metadata.
    """
    length = struct.unpack_from("<Q", data)[0] if len(data) >= 8 else 0
    if not 2 <= length <= min(MAX_HEADER_BYTES, len(data) - 8):
        raise ValueError("it is empty, cut short or not a safetensors file")
    try:
        metadata = json.loads(data[8 : 8 + length])["__metadata__"]
    except (ValueError, KeyError, TypeError, RecursionError) as cause:
        raise ValueError("its safetensors header is damaged") from cause
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("its safetensors header is damaged")
    return metadata


def _sync_folder(folder: Path) -> None:
    """Flush the rename itself, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
