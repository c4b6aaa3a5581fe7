"""Options of a client."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from splitreg.edge.link import LinkEstimate
from splitreg.errors import RecipeError
from splitreg.imaging import RESOLUTIONS


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    """How a client connects, waits and retries.

    Args:
        min_score: detections with a lower score are not returned; 0 returns all. They are most of
            an answer's bytes.
        compact: ask for compact answers, see ``splitreg.wire.compact``: boxes, scores and depth are
            rounded, masks are exact.
        resolution: of masks and other maps, one of ``imaging.RESOLUTIONS``; they are enlarged to the
            size of the image. ``"network"`` loses nothing.
        deadline_s: seconds from ``send`` to the answer, retries and pauses included.
        attempt_s: seconds without data after which the first attempt is abandoned; half of
            ``deadline_s`` by default. Later attempts may take longer.
        ca: PEM file of trusted certificate authorities; the system's by default.
        insecure: allow a token over plain HTTP to another host, and any certificate.
        link: estimate of the link; several clients may share one.
        seed: of the random pauses between retries.

    Raises:
        RecipeError: a value is out of range.
    """

    min_score: float = 0.0
    compact: bool = False
    resolution: str = "full"
    deadline_s: float = 10.0
    attempt_s: float | None = None
    ca: str | Path | None = None
    insecure: bool = False
    link: LinkEstimate | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.deadline_s < math.inf:
            raise RecipeError(f"deadline_s must be a number above 0, got {self.deadline_s}")
        if not (self.attempt_s is None or self.attempt_s > 0):
            raise RecipeError(f"attempt_s must be above 0, got {self.attempt_s}")
        if self.resolution not in RESOLUTIONS:
            raise RecipeError(f"resolution must be one of {', '.join(RESOLUTIONS)}, got {self.resolution!r}")
        if not 0 <= self.min_score <= 1:
            raise RecipeError(f"min_score must be 0 to 1, got {self.min_score}")
