"""Watch a live stream: a page on this machine, a recorded clip, and the bytes of H.264; no torch."""

from splitreg.live.h264 import H264Meter
from splitreg.live.page import LivePage
from splitreg.live.recording import Recording
from splitreg.live.view import LiveFigures, LiveView

__all__ = ["H264Meter", "LiveFigures", "LivePage", "LiveView", "Recording"]
