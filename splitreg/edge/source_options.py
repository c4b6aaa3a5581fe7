"""``SourceOptions``: how a source of images is opened and kept open."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from splitreg.errors import RecipeError


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """Options of ``open_source``.

    Args:
        every: take every n-th frame of a video or a camera.
        live: whether frames are dropped and lost connections restored; None: by the source.
        open_timeout_s: seconds until a source must have answered.
        read_timeout_s: seconds until the next frame must have arrived.
        retry_s: seconds before the first attempt to reconnect; doubled after every further one.
        max_retry_s: longest pause between two attempts.
        max_offline_s: seconds without a connection after which a live source is given up.
        rtsp_transport: ``"tcp"``, or ``"udp"``.
        input_options: further options of FFmpeg's input, such as ``{"video_size": "1280x720"}`` of a
            camera.

    Raises:
        RecipeError: an option is out of its range.
    """

    every: int = 1
    live: bool | None = None
    open_timeout_s: float = 10.0
    read_timeout_s: float = 10.0
    retry_s: float = 0.5
    max_retry_s: float = 10.0
    max_offline_s: float = math.inf
    rtsp_transport: str = "tcp"
    input_options: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.every < 1:
            raise RecipeError(f"every must be at least 1, got {self.every}")
        for name in ("open_timeout_s", "read_timeout_s", "retry_s", "max_retry_s", "max_offline_s"):
            if not getattr(self, name) > 0:
                raise RecipeError(f"{name} must be positive, got {getattr(self, name)}")
        if self.rtsp_transport not in ("tcp", "udp"):
            raise RecipeError(f"rtsp_transport must be 'tcp' or 'udp', got {self.rtsp_transport!r}")
