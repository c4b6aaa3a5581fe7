"""``Recording``: drawn frames as a video file, or as an animated WebP image."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitreg.errors import MissingExtra, RecipeError, SplitregError

SUFFIXES = (".mp4", ".webp")
#: Frames of an animated image; all are held in memory.
MAX_ANIMATED = 600


class Recording:
    """Writes frames to a file; the file appears when the recording is closed.

    Args:
        path: ``.mp4`` (H.264; needs ``av``), or ``.webp`` (at most ``MAX_ANIMATED`` frames).
        fps: frames per second of the file.

    Raises:
        RecipeError: another suffix.
        MissingExtra: ``av`` is not installed.
        SplitregError: the file cannot be written.
    """

    def __init__(self, path: Path, fps: float) -> None:
        if path.suffix.lower() not in SUFFIXES:
            raise RecipeError(f"a recording must end in {' or '.join(SUFFIXES)}, got {path.name!r}")
        self.path, self._fps = path, fps
        self._scratch = path.with_name(f".{path.name}.part")
        self._size: tuple[int, int] | None = None  # width, height
        self._images: list[Any] = []
        self._container: Any = None
        self._stream: Any = None
        self.frames = 0
        if path.suffix.lower() == ".mp4":
            try:
                import av
            except ModuleNotFoundError as cause:
                raise MissingExtra(f"{path} needs av, which is not installed; pip install 'splitreg[video]'") from cause
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._container = av.open(str(self._scratch), "w", format="mp4")
            except OSError as cause:
                raise SplitregError(f"cannot write {path}: {cause.strerror or cause}") from cause

    def add(self, image: NDArray[np.uint8]) -> None:
        """Append an (H, W, 3) uint8 frame; frames of another size are cut or padded to the first one's.

        Raises:
            SplitregError: the disk is full.
        """
        if self._size is None:
            self._size = image.shape[1] // 2 * 2, image.shape[0] // 2 * 2
        fitted = _fit(image, self._size)
        if self._container is None:
            from PIL import Image

            if len(self._images) < MAX_ANIMATED:
                self._images.append(Image.fromarray(fitted))
                self.frames += 1
            return
        try:
            self._write(fitted)
        except OSError as cause:
            raise SplitregError(f"cannot write {self.path}: {cause.strerror or cause}") from cause
        self.frames += 1

    def _write(self, image: NDArray[np.uint8]) -> None:
        import av

        if self._stream is None:
            assert self._size is not None
            self._stream = self._container.add_stream("libx264", rate=max(1, round(self._fps)))
            self._stream.width, self._stream.height = self._size
            self._stream.pix_fmt = "yuv420p"
            self._stream.options = {"preset": "veryfast", "crf": "23"}
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts = self.frames
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Finish the file; without a frame none is written.

        Raises:
            SplitregError: the disk is full.
        """
        try:
            if self._container is not None:
                if self._stream is not None:
                    self._container.mux(self._stream.encode())
                self._container.close()
                if self._stream is not None:
                    os.replace(self._scratch, self.path)
            elif self._images:
                self._write_animation()
        except OSError as cause:
            raise SplitregError(f"cannot write {self.path}: {cause.strerror or cause}") from cause
        finally:
            self._images, self._container = [], None
            with contextlib.suppress(OSError):
                self._scratch.unlink()

    def _write_animation(self) -> None:
        import io

        from splitreg.files import write_atomic

        data, first, rest = io.BytesIO(), self._images[0], self._images[1:]
        first.save(
            data, "WEBP", save_all=True, append_images=rest, duration=round(1000 / self._fps), loop=0, quality=60
        )
        write_atomic(self.path, data.getvalue(), sync=False)


def _fit(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    width, height = size
    if image.shape[:2] == (height, width):
        return np.ascontiguousarray(image)
    result = np.zeros((height, width, 3), np.uint8)
    part = image[:height, :width]
    result[: part.shape[0], : part.shape[1]] = part
    return result
