"""Images from files, folders, videos and cameras."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from splitreg.errors import ImageError, MissingExtra, RecipeError
from splitreg.files import VIDEO_SUFFIXES, is_image
from splitreg.imaging import ImageLike

_CAMERA = "camera:"
#: Platform -> FFmpeg's input format for cameras, and the name of device n.
_CAMERAS = {
    "linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}"), "win32": ("vfwcap", "{}"),
}  # fmt: skip


def frames(source: str | Path, *, every: int = 1) -> Iterator[tuple[str, ImageLike]]:
    """Yield the images of a source as (name, image).

    Args:
        source: an image file; a folder, whose images come in the order of their names; a video,
            whose frames are named ``NAME#000012``; or ``camera:0``, which never ends.
        every: of a video or a camera, take one frame out of so many.

    Raises:
        ImageError: there is no such file, folder or camera, or it has no images. An image file
            itself is read later.
        MissingExtra: a video or a camera, and ``av`` is not installed.
        RecipeError: ``every`` is below 1, or the camera has no number.
    """
    if every < 1:
        raise RecipeError(f"every must be at least 1, got {every}")
    if isinstance(source, str) and source.startswith(_CAMERA):
        yield from _decode(source, every)
        return
    path = Path(source)
    if path.is_dir():
        images = sorted(item for item in path.iterdir() if is_image(item) and item.is_file())
        if not images:
            raise ImageError(f"no image in the folder {path}; name a folder of PNG, JPEG or WebP files")
        yield from ((image.name, image) for image in images)
    elif path.suffix.lower() in VIDEO_SUFFIXES:
        yield from _decode(source, every)
    elif path.is_file():  # a file that is named is tried whatever its suffix
        yield path.name, path
    else:
        raise ImageError(f"no image at {source}; name an image, a folder, a video, or camera:0")


def _decode(source: str | Path, every: int) -> Iterator[tuple[str, ImageLike]]:
    try:
        import av
    except ModuleNotFoundError as cause:
        raise MissingExtra(f"{source} needs av, which is not installed; pip install 'splitreg[video]'") from cause
    url, options, name = _input(str(source))
    try:
        with av.open(url, **options) as container:
            if not container.streams.video:
                raise ImageError(f"{source} has no video stream")
            container.streams.video[0].thread_type = "AUTO"
            for number, frame in enumerate(container.decode(video=0)):
                if number % every == 0:
                    yield f"{name}#{number:06d}", _upright(frame)
    except (av.FFmpegError, OSError, ValueError) as cause:
        raise ImageError(f"cannot read {source}: {getattr(cause, 'strerror', None) or cause}") from cause


def _input(source: str) -> tuple[str, dict[str, Any], str]:
    """Return what FFmpeg opens, its options, and the name of the frames."""
    if not source.startswith(_CAMERA):
        if not Path(source).is_file():
            raise ImageError(f"no video at {source}")
        return source, {}, Path(source).name
    number = source.removeprefix(_CAMERA)
    if not (number.isascii() and number.isdigit()):
        raise RecipeError(f"a camera is named by its number, such as camera:0; got {source!r}")
    if sys.platform not in _CAMERAS:
        raise ImageError(f"cameras are not supported on {sys.platform}; send images or a video")
    kind, device = _CAMERAS[sys.platform]
    return device.format(number), {"format": kind}, source.replace(":", "-")


def _upright(frame: Any) -> ImageLike:
    """Return the (H, W, 3) uint8 pixels, rotated as the video's metadata says."""
    import numpy as np

    pixels = frame.to_ndarray(format="rgb24")
    turns = round(getattr(frame, "rotation", 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels
