"""``H264Meter``: how many bytes the frames of a stream would have as H.264 video."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from splitreg.errors import MissingExtra

if TYPE_CHECKING:
    import av

#: x264's default quality.
CRF = 23
#: Frames between key frames.
_KEY_INTERVAL = 100


class H264Meter:
    """Codes frames with x264 as a camera does (no lookahead, no B-frames), and counts the bytes.

    The frames keep their size. The quality is ``CRF`` with the preset veryfast. A frame of another size
    starts a new video.

    Raises:
        MissingExtra: ``av`` is not installed.
    """

    def __init__(self) -> None:
        try:
            import av
        except ModuleNotFoundError as cause:
            raise MissingExtra("H.264 needs av, which is not installed; pip install 'splitreg[video]'") from cause
        self._av = av
        self._encoder: av.VideoCodecContext | None = None
        self._frames = 0

    def measure(self, image: NDArray[np.uint8]) -> int:
        """Return the bytes of the next frame, an (H, W, 3) uint8 image; odd sides lose one line."""
        height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
        if not height or not width:
            return 0
        encoder = self._encoder
        if encoder is None or (encoder.height, encoder.width) != (height, width):
            encoder = self._encoder = self._open(height, width)
            self._frames = 0
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(image[:height, :width]), format="rgb24")
        frame = frame.reformat(format="yuv420p")
        frame.pts = self._frames
        self._frames += 1
        return sum(packet.size for packet in encoder.encode(frame))

    def _open(self, height: int, width: int) -> av.VideoCodecContext:
        encoder = self._av.CodecContext.create("libx264", "w")
        encoder.height, encoder.width, encoder.pix_fmt = height, width, "yuv420p"
        encoder.time_base, encoder.gop_size, encoder.thread_count = Fraction(1, 10), _KEY_INTERVAL, 1
        encoder.options = {"preset": "veryfast", "tune": "zerolatency", "crf": str(CRF)}
        return encoder
