"""What workers and replicas share: their requests, and isolating faulty ones (no torch)."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from splitreg.errors import ServiceError, SplitregError
from splitreg.wire import AnswerFormat

ItemT = TypeVar("ItemT")
OutputT = TypeVar("OutputT")


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceRequest:
    """One job of a batch, as a worker or replica gets it.

    Args:
        images: number of images in the packets.
        answer_format: format of the answers.
        packets: as received; empty for a head on Ray, which gets features instead.
    """

    images: int
    answer_format: AnswerFormat
    packets: tuple[bytes, ...] = ()


def run_isolated(
    run: Callable[[Sequence[ItemT]], OutputT], items: Sequence[ItemT]
) -> Iterator[tuple[Sequence[ItemT], OutputT | SplitregError]]:
    """Run items as one batch; if that fails, run each alone, so that only the faulty ones fail.

    Args:
        run: computes several items together.
        items: at least one.

    Yields:
        All items and the output of the batch; or each item alone with its output or its error.
        Other exceptions than ``SplitregError`` are printed and become a ``ServiceError``.
    """
    try:
        output: OutputT | SplitregError = run(items)
    except Exception as error:
        if len(items) > 1:
            for item in items:
                yield from run_isolated(run, [item])
            return
        output = error if isinstance(error, SplitregError) else _unexpected(error)
    yield items, output


def _unexpected(error: Exception) -> ServiceError:
    traceback.print_exception(error)
    return ServiceError(f"the model failed on this packet with {type(error).__name__}; see the log of the worker")
