"""Images from files, folders, videos, standard input and cameras.

Two kinds of source behave differently:

- A *file* (also one behind ``http://``, a recorded HLS playlist, standard input) is read frame by frame
  at the reader's speed. No frame is lost, and it ends.
- A *live* source (``rtsp://``, ``camera:0``, MJPEG over HTTP, a live HLS playlist) does not wait. A thread
  decodes it, one frame is kept, and the newest frame wins. It never ends: if the connection is lost or
  nothing arrives in time, it is opened again, with growing pauses.

An address is live if its container has no duration; ``SourceOptions.live`` overrides that.
"""

from __future__ import annotations

import math
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit, urlunsplit

import numpy as np
from numpy.typing import NDArray

from splitreg.edge.capture import CaptureInput, Decoder, LiveReader
from splitreg.edge.source_options import SourceOptions
from splitreg.errors import ImageError, RecipeError, SourceError
from splitreg.files import VIDEO_SUFFIXES, is_image
from splitreg.imaging import ImageLike, read

if TYPE_CHECKING:
    from typing import Self

_CAMERA = "camera:"
#: Platform -> FFmpeg's input format for cameras, and the name of device n.
_CAMERAS = {
    "linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}"), "win32": ("vfwcap", "{}"),
}  # fmt: skip
#: Schemes of addresses.
_SCHEMES = ("rtsp", "rtsps", "http", "https")
_EXPECTED = "an image, a folder, a video, rtsp://, http://, camera:0 or - (standard input)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One image of a source.

    Args:
        name: name of the file, or of the source with the frame's number: ``NAME#000012``.
        image: (H, W, 3) uint8.
        number: number of the frame in the source, from 0; it goes on after a reconnect.
        seconds: time since the first frame: the video's own time of a file, the time of arrival of a
            live source; 0 for images.
        skipped: frames of the source between the one before and this one.
    """

    name: str
    image: NDArray[np.uint8]
    number: int = 0
    seconds: float = 0.0
    skipped: int = 0


class FrameSource:
    """An open source; iterate over its frames once. Also a context manager.

    Attributes:
        live: whether frames are dropped if they are not taken in time.
        rate: frames per second as the container states them; 0: unknown.
    """

    live: bool = False
    rate: float = 0.0

    def __init__(self, frames: Iterator[Frame]) -> None:
        self._frames = frames

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        return next(self._frames)

    @property
    def dropped(self) -> int:
        """Number of frames that a newer one replaced before they were taken."""
        return 0

    @property
    def reconnects(self) -> int:
        """Number of times that a live source was opened again."""
        return 0

    def close(self) -> None:
        """Close the source; iteration ends."""
        close = getattr(self._frames, "close", None)
        if close is not None:
            close()


class _VideoFile(FrameSource):
    def __init__(self, decoder: Decoder, name: str, every: int) -> None:
        self.rate, self._decoder = decoder.rate, decoder
        super().__init__(self._read(decoder, name, every))

    def close(self) -> None:
        super().close()
        self._decoder.close()

    def _read(self, decoder: Decoder, name: str, every: int) -> Iterator[Frame]:
        first: float | None = None
        try:
            for number, frame in enumerate(decoder.frames()):
                seconds = frame.time if frame.time is not None else number / (self.rate or math.inf)
                first = seconds if first is None else first
                if number % every == 0:
                    yield Frame(
                        name=f"{name}#{number:06d}", image=decoder.pixels(frame), number=number,
                        seconds=float(seconds - first), skipped=every - 1 if number else 0,
                    )  # fmt: skip
        finally:
            decoder.close()


class _LiveSource(FrameSource):
    live = True

    def __init__(self, place: CaptureInput, decoder: Decoder, name: str, options: SourceOptions) -> None:
        self.rate = decoder.rate
        self._reader = LiveReader(decoder, lambda: Decoder(place, options), options, place.shown)
        super().__init__(self._take(name))

    @property
    def dropped(self) -> int:
        return self._reader.dropped

    @property
    def reconnects(self) -> int:
        return self._reader.reconnects

    def close(self) -> None:
        self._reader.close()
        super().close()

    def _take(self, name: str) -> Iterator[Frame]:
        start, before = time.monotonic(), -1
        while (captured := self._reader.take()) is not None:
            start = captured.arrived if before < 0 else start
            yield Frame(
                name=f"{name}#{captured.number:06d}", image=captured.decoder.pixels(captured.frame),
                number=captured.number, seconds=captured.arrived - start,
                skipped=captured.number - before - 1 if before >= 0 else 0,
            )  # fmt: skip
            before = captured.number


def open_source(source: str | Path, options: SourceOptions | None = None) -> FrameSource:
    """Open images, a video or a camera, and return its frames.

    Args:
        source: an image file; a folder, whose images come in the order of their names; a video file;
            ``rtsp://``, ``rtsps://``, ``http://`` or ``https://`` (MJPEG, HLS, files); ``camera:0`` (V4L2
            on Linux); or ``-``, a video or image on standard input.
        options: time-outs, reconnects and the share of frames.

    Raises:
        SourceError: it cannot be opened; later, while frames are taken: a file is damaged, or a live
            source was offline for too long.
        ImageError: an image or a folder that cannot be read.
        MissingExtra: a video or a camera, and ``av`` is not installed.
        RecipeError: the camera has no number.
    """
    options = options or SourceOptions()
    images = None if _is_video(str(source)) else _images(source)
    if images is not None:
        return FrameSource(Frame(name=path.name, image=read(path), number=i) for i, path in enumerate(images))
    place, name = _input(str(source), options)
    decoder = Decoder(place, options)
    if decoder.live:
        return _LiveSource(place, decoder, name, options)
    return _VideoFile(decoder, name, options.every)


class TimedImage(NamedTuple):
    """An image of a source that may not be read yet; otherwise as ``Frame``."""

    name: str
    image: ImageLike
    number: int
    seconds: float


def timed_images(source: str | Path, options: SourceOptions | None = None) -> Iterator[TimedImage]:
    """Yield the images of a source with their times; image files are not read yet.

    Images of a folder count as one per second.

    Args:
        source: as ``open_source``.
        options: as ``open_source``.

    Raises:
        ImageError: there is no such source, or it has no images. An image file itself is read later.
        MissingExtra: a video or a camera, and ``av`` is not installed.
        RecipeError: the camera has no number.
    """
    if not _is_video(str(source)):
        yield from (TimedImage(path.name, path, i, float(i)) for i, path in enumerate(_images(source)))
        return
    with open_source(source, options) as opened:
        yield from (TimedImage(frame.name, frame.image, frame.number, frame.seconds) for frame in opened)


def frames(source: str | Path, *, every: int = 1) -> Iterator[tuple[str, ImageLike]]:
    """Yield the images of a source as (name, image), as ``timed_images``.

    Args:
        source: as ``open_source``.
        every: take every n-th frame of a video or a camera.

    Raises:
        RecipeError: ``every`` is below 1, or the camera has no number.
        ImageError: as ``timed_images``.
        MissingExtra: as ``timed_images``.
    """
    options = SourceOptions(every=every)
    yield from ((image.name, image.image) for image in timed_images(source, options))


def without_password(source: str) -> str:
    """Return an address without user name and password, for messages and names.

    >>> without_password("rtsp://admin:secret@10.0.0.7/stream?token=x")
    'rtsp://10.0.0.7/stream'
    """
    if "://" not in source:
        return source
    try:
        parts = urlsplit(source)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    except ValueError:  # brackets that are no IPv6 address
        return source.partition("://")[0] + "://..."


def _is_video(source: str) -> bool:
    """Whether PyAV reads a source."""
    if source == "-" or source.startswith(_CAMERA) or "://" in source:
        return True
    return Path(source).suffix.lower() in VIDEO_SUFFIXES and not Path(source).is_dir()


def _images(source: str | Path) -> list[Path]:
    path = Path(source)
    if path.is_dir():
        images = sorted(item for item in path.iterdir() if is_image(item) and item.is_file())
        if not images:
            inside = sorted({str(item.parent) for item in path.glob("*/*") if is_image(item)})
            advice = f"name one of {', '.join(inside[:5])}" if inside else "name a folder of PNG, JPEG or WebP files"
            raise ImageError(f"no image in the folder {path}; {advice}")
        return images
    if path.is_file():  # a file that is named is tried whatever its suffix
        return [path]
    raise ImageError(f"no image at {source}; name {_EXPECTED}")


def _input(source: str, options: SourceOptions) -> tuple[CaptureInput, str]:
    """Return what FFmpeg opens, and the name of the frames."""
    further = dict(options.input_options)
    if source == "-":
        return CaptureInput(shown="standard input", url=_StandardInput(), options=further), "stdin"
    if source.startswith(_CAMERA):
        return _camera(source, further), source.replace(":", "-")
    if "://" in source:
        return _address(source, options, further)
    if not Path(source).is_file():
        raise SourceError(f"no video at {source}")
    return CaptureInput(shown=source, url=source, options=further), Path(source).name


def _camera(source: str, further: dict[str, str]) -> CaptureInput:
    number = source.removeprefix(_CAMERA)
    if not (number.isascii() and number.isdigit()):
        raise RecipeError(f"a camera is named by its number, such as camera:0; got {source!r}")
    if sys.platform not in _CAMERAS:
        raise SourceError(f"cameras are not supported on {sys.platform}; send images or a video")
    kind, device = _CAMERAS[sys.platform]
    return CaptureInput(shown=source, url=device.format(number), format=kind, options=further, camera=True)


def _address(source: str, options: SourceOptions, further: dict[str, str]) -> tuple[CaptureInput, str]:
    shown = without_password(source)
    scheme = source.partition("://")[0].lower()
    if scheme not in _SCHEMES:
        raise SourceError(f"addresses begin with {', '.join(f'{s}://' for s in _SCHEMES)}; got {shown}")
    known: dict[str, str] = {}
    if scheme.startswith("rtsp"):
        known = {"rtsp_transport": options.rtsp_transport, "fflags": "nobuffer"}
    name = re.sub(r"[^A-Za-z0-9]+", "-", shown.partition("://")[2]).strip("-")
    return CaptureInput(shown=shown, url=source, options={**known, **further}, network=True), name or scheme


class _StandardInput:
    """Reads what has arrived: a buffered reader would wait for whole blocks."""

    def __init__(self) -> None:
        self._file = open(0, "rb", buffering=0, closefd=False)

    def read(self, size: int) -> bytes:
        return self._file.read(size) or b""

    def close(self) -> None:
        self._file.close()
