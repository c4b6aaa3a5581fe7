"""Where pictures come from: files, folders, videos, cameras."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from splitreg.errors import ImageError, MissingExtra, RecipeError
from splitreg.imaging import ImageLike

#: What a picture's and a video's name ends with, when a folder is searched; a file that is named is tried whatever its name.
PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"})
VIDEOS = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mjpeg", ".ts", ".mpg", ".mpeg"})
_CAMERA = "camera:"
#: Of each system: FFmpeg's name of its cameras, and how the n-th one is called.
_CAMERAS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}"), "win32": ("vfwcap", "{}")}


def frames(source: str | Path, *, every: int = 1) -> Iterator[tuple[str, ImageLike]]:
    """Yield (name, picture) of what a source has.

    Args:
        source: a picture, a folder (its pictures in the order of their names), a video (``NAME#000012`` are its frames),
            or ``camera:0``, which never ends.
        every: of a video or a camera, only one frame of so many.

    Raises:
        ImageError: there is no such file, folder or camera, or it has no pictures; a picture itself is read later.
        MissingExtra: a video or a camera, and ``av`` is not installed.
        RecipeError: ``every`` is below 1, or the camera has no number.
    """
    if every < 1:
        raise RecipeError(f"every is a number of frames from 1, got {every}")
    if isinstance(source, str) and source.startswith(_CAMERA):
        yield from _decoded(source, every)
        return
    path = Path(source)
    if path.is_dir():
        found = sorted(item for item in path.iterdir() if item.suffix.lower() in PICTURES and item.is_file())
        if not found:
            raise ImageError(f"the folder {path} holds no pictures; name a folder of PNG, JPEG, WebP or similar files")
        yield from ((item.name, item) for item in found)
    elif path.suffix.lower() in VIDEOS:
        yield from _decoded(source, every)
    elif path.is_file():
        yield path.name, path
    else:
        raise ImageError(f"no picture at {source}; name a picture, a folder, a video, or camera:0")


def _decoded(source: str | Path, every: int) -> Iterator[tuple[str, ImageLike]]:
    try:
        import av
    except ModuleNotFoundError as cause:
        raise MissingExtra(f"{source} needs av, which is not installed; pip install 'splitreg[video]'") from cause
    place, options, name = _place(str(source))
    try:
        with av.open(place, **options) as container:
            if not container.streams.video:
                raise ImageError(f"{source} has no pictures in it")
            container.streams.video[0].thread_type = "AUTO"
            for number, frame in enumerate(container.decode(video=0)):
                if number % every == 0:
                    yield f"{name}#{number:06d}", _upright(frame)
    except (av.FFmpegError, OSError, ValueError) as cause:
        raise ImageError(f"{source} cannot be read: {getattr(cause, 'strerror', None) or cause}") from cause


def _place(source: str) -> tuple[str, dict[str, Any], str]:
    """Return what FFmpeg opens, how, and what its frames are called."""
    if not source.startswith(_CAMERA):
        if not Path(source).is_file():
            raise ImageError(f"no video at {source}")
        return source, {}, Path(source).name
    number = source.removeprefix(_CAMERA)
    if not (number.isascii() and number.isdigit()):
        raise RecipeError(f"a camera is named by its number, as camera:0; got {source!r}")
    if sys.platform not in _CAMERAS:
        raise ImageError(f"cameras of {sys.platform} are not known here; send pictures or a video")
    kind, device = _CAMERAS[sys.platform]
    return device.format(number), {"format": kind}, source.replace(":", "-")


def _upright(frame: Any) -> ImageLike:
    """Return the (H, W, 3) uint8 pixels, turned as the video says (telephones write them lying)."""
    import numpy as np

    pixels = frame.to_ndarray(format="rgb24")
    turns = round(getattr(frame, "rotation", 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels
