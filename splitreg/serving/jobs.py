"""Jobs of the request queue, and their results."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from splitreg.wire import AnswerFormat

#: Model id and heads: jobs with equal groups can run in one batch.
Group = tuple[str, tuple[str, ...]]

#: What is expected to take the same time per image: a group, and the size of the images (the
#: exponent of their number of pixels, in steps of 16).
CostClass = tuple[Group, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """The answers to a job, in the format it asked for, and how long they took."""

    blob: bytes
    queue_seconds: float
    compute_seconds: float


@dataclass(eq=False, slots=True, kw_only=True)
class Job:
    """One request: packets for one model.

    Args:
        model: model id, eight hexadecimal digits.
        heads: heads to run.
        packets: as received.
        images: number of images in the packets.
        pixels: number of pixels of the original images.
        answer_bytes: estimated size of the answers.
        answer_format: format of the answers.
        arrived: arrival, in seconds of the event loop's clock.
        deadline: in seconds of the event loop's clock.

    Attributes:
        attempts: number of workers or replicas that died while they computed this job.
        started: start of the latest attempt, in seconds of the event loop's clock.
        done: gets the result or a ``SplitregError``.
    """

    model: str
    heads: tuple[str, ...]
    packets: tuple[bytes, ...]
    images: int
    pixels: int
    answer_bytes: int = 0
    answer_format: AnswerFormat
    arrived: float
    deadline: float
    attempts: int = 0
    started: float = 0.0
    done: asyncio.Future[JobResult] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def group(self) -> Group:
        """Jobs with equal groups can run in one batch."""
        return self.model, self.heads

    @property
    def cost_class(self) -> CostClass:
        """Jobs of equal classes take about the same time per image."""
        return self.group, (self.pixels // self.images).bit_length() // 4
