"""``LiveView``: drawn frames and running figures of a stream."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from splitreg import drawing, imaging
from splitreg.imaging import ImageLike
from splitreg.predictions import draw_all

if TYPE_CHECKING:
    from splitreg.edge.stream_client import FrameAnswer
    from splitreg.live.h264 import H264Meter

#: Seconds over which rates are averaged.
WINDOW_S = 5.0
#: Images kept until their answer arrives.
_MAX_WAITING = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveFigures:
    """Figures of one frame and of the last ``WINDOW_S`` seconds.

    Args:
        name: of the frame.
        packet_bytes: of the frame; 0: it was not sent.
        answer_bytes: of its answer.
        h264_bytes: of the frame as H.264 video; None: not measured.
        total_ms: from image to predictions.
        fps: frames per second.
        kbps: kilobits per second of the packets.
        answer_kbps: of the answers.
        h264_kbps: of the same frames as H.264 video; None: not measured.
        frames: since the start.
    """

    name: str
    packet_bytes: int
    answer_bytes: int
    h264_bytes: int | None
    total_ms: float
    fps: float
    kbps: float
    answer_kbps: float
    h264_kbps: float | None
    frames: int

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {key: round(value, 2) if isinstance(value, float) else value for key, value in asdict(self).items()}

    def line(self) -> str:
        """Return the figures as a caption.

        >>> LiveFigures(name="a", packet_bytes=90, answer_bytes=40, h264_bytes=1500, total_ms=31.4, fps=10.0, kbps=7.2,
        ...             answer_kbps=3.2, h264_kbps=120.0, frames=7).line()
        '7.2 kbit/s, H.264 120.0 kbit/s, answers 3.2 kbit/s, 10.0 fps, 31 ms'
        """
        h264 = "" if self.h264_kbps is None else f"H.264 {self.h264_kbps:.1f} kbit/s, "
        rest = f"answers {self.answer_kbps:.1f} kbit/s, {self.fps:.1f} fps, {self.total_ms:.0f} ms"
        return f"{self.kbps:.1f} kbit/s, {h264}{rest}"


class LiveView:
    """Joins the frames of a stream with their answers, draws them, and computes rates.

    Args:
        h264: codes the same frames for comparison; None: no comparison.
        clock: seconds; for tests.
    """

    def __init__(self, h264: H264Meter | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._h264, self._clock = h264, clock
        self._waiting: OrderedDict[str, tuple[NDArray[np.uint8], int | None]] = OrderedDict()
        self._window: deque[tuple[float, int, int, int]] = deque()  # time, bytes of packet, answer and H.264
        self._frames = 0

    def keep(self, frames: Iterable[tuple[str, ImageLike]]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """Yield names and pixels of frames, and keep the pixels until ``show`` has their answer."""
        for name, image in frames:
            pixels = imaging.read(image)
            self._waiting[name] = pixels, None if self._h264 is None else self._h264.measure(pixels)
            if len(self._waiting) > _MAX_WAITING:
                self._waiting.popitem(last=False)
            yield name, pixels

    def show(self, answer: FrameAnswer) -> tuple[NDArray[np.uint8], LiveFigures] | None:
        """Return the drawing of a frame, (H, W, 3) uint8, and its figures; None for an unknown frame."""
        if answer.name not in self._waiting:
            return None
        pixels, h264_bytes = self._waiting.pop(answer.name)
        figures = self._figures(answer, h264_bytes)
        return drawing.legend(draw_all(pixels, answer.predictions), [figures.line()]), figures

    def _figures(self, answer: FrameAnswer, h264_bytes: int | None) -> LiveFigures:
        now = self._clock()
        self._frames += 1
        self._window.append((now, answer.packet_bytes, answer.answer_bytes, h264_bytes or 0))
        while len(self._window) > 2 and now - self._window[0][0] > WINDOW_S:
            self._window.popleft()
        seconds = now - self._window[0][0]
        # The first entry only says when the time begins.
        counted = list(self._window)[1:]
        per_s = 1 / seconds if seconds > 0 else 0.0

        def kbps(column: int) -> float:
            return sum(entry[column] for entry in counted) * 8 / 1000 * per_s

        return LiveFigures(
            name=answer.name, packet_bytes=answer.packet_bytes, answer_bytes=answer.answer_bytes, h264_bytes=h264_bytes,
            total_ms=answer.total_ms, fps=len(counted) * per_s, kbps=kbps(1), answer_kbps=kbps(2),
            h264_kbps=None if self._h264 is None else kbps(3), frames=self._frames,
        )  # fmt: skip
