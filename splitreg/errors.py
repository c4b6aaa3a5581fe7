"""Errors of splitreg.

::

    SplitregError
    ├── RegistryError            a plugin, or the name of one
    │   ├── UnknownComponent         no plugin has this name
    │   ├── DuplicateComponent       two packages declare one name
    │   ├── BrokenComponent          the plugin is installed but cannot be loaded
    │   └── ApiMismatch              the plugin was written for another version of the API
    ├── ScaffoldError            a new plugin package that cannot be created
    ├── ReportError              a file that no report can be made from
    ├── MissingExtra             a required package is not installed
    ├── RecipeError              an invalid recipe or option
    ├── PlanError                parts that do not fit together; lists every mismatch
    ├── DataError                an invalid dataset folder, annotation or split
    ├── ImageError               an image that cannot be read, or is too large
    │   └── SourceError              a video or camera that cannot be opened, or has stopped
    ├── TrainingError            a run that cannot start, continue or be resumed
    │   └── TrainingInterrupted      a run that was stopped by a signal and can be resumed
    ├── BenchError               a result of a benchmark, or a profile, that is not valid or comparable
    ├── BundleError              a bundle that is missing, altered or not valid
    │   └── HubError                 a place on the Hugging Face Hub that cannot be read or written
    ├── CheckpointError          a checkpoint that cannot be read, or does not fit the model
    ├── Unreachable              no connection to a server, a broken one, or a timeout
    ├── OutboxError              an outbox that is damaged, or in use by another process
    │   └── OutboxFull               no room for another packet
    ├── CorruptAnswer            an answer of a server that is damaged or not valid
    ├── ServiceError             a request that the server refused or could not answer
    │   ├── BadRequest               an invalid path, method, type, query or header
    │   ├── Unauthorized             a missing or wrong token
    │   ├── TooLarge                 a request that exceeds the server's limits
    │   ├── KeyReused                one idempotency key for two requests
    │   ├── SlowRequest              a request that did not arrive in time
    │   ├── RateLimited              more requests than one client may send; retry later
    │   ├── Unavailable              a full queue, a stopping server, or no worker; retry later
    │   ├── DeadlinePassed           no answer before the deadline of the request
    │   └── WorkerLost               the worker process died while it computed the answer
    └── CodingError              symbols, tables and bytes
        ├── ShapeMismatch            an array whose shape does not fit the tables or the model
        ├── InvalidLatent            NaN, infinite or huge values in a latent
        ├── InvalidTables            tables that are not valid
        ├── OverBudget               an image whose smallest packet exceeds the budget
        ├── CorruptPacket            a packet that is damaged, cut short or not valid
        │   └── KeyFrameNeeded           a stream's frame that continues frames which did not arrive
        └── ForeignPacket            a packet that was written by another model

A message names the rule that was broken, what was given, what exists and what to do, in one line.
``PlanError`` has one line per mismatch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class SplitregError(Exception):
    """Base class of all errors of splitreg."""


class RegistryError(SplitregError):
    """A plugin, or the name of one."""


class UnknownComponent(RegistryError):
    """No plugin has this name."""


class DuplicateComponent(RegistryError):
    """Two packages declare one name."""


class BrokenComponent(RegistryError):
    """The plugin is installed but cannot be loaded."""


class ApiMismatch(RegistryError):
    """The plugin was written for another version of the API."""


class ScaffoldError(SplitregError):
    """A new plugin package that cannot be created."""


class ReportError(SplitregError):
    """A file that no report can be made from."""


class MissingExtra(SplitregError):
    """A required package is not installed."""


class RecipeError(SplitregError):
    """An invalid recipe or option."""


class PlanError(SplitregError):
    """Parts that do not fit together.

    Attributes:
        problems: one sentence per mismatch.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        head = f"the plan has {len(problems)} problem{'s' if len(problems) != 1 else ''}:"
        super().__init__("\n  - ".join([head, *problems]))


class DataError(SplitregError):
    """An invalid dataset folder, annotation or split."""


class ImageError(SplitregError):
    """An image that cannot be read, or is too large."""


class SourceError(ImageError):
    """A video or camera that cannot be opened, or has stopped."""


class TrainingError(SplitregError):
    """A run that cannot start, continue or be resumed."""


class TrainingInterrupted(TrainingError):
    """A run that was stopped by a signal and has written a checkpoint.

    Attributes:
        signal: number of the signal; the exit status is ``128 + signal``.
    """

    def __init__(self, message: str, signal: int = 0) -> None:
        self.signal = signal
        super().__init__(message)


class BenchError(SplitregError):
    """A result of a benchmark, or a profile of a device or link, that is not valid or comparable."""


class BundleError(SplitregError):
    """A bundle that is missing, altered or not valid."""


class HubError(BundleError):
    """A place on the Hugging Face Hub that cannot be read or written.

    Args:
        message: the message.
        no_such_file: the repository is there, the file is not.
    """

    def __init__(self, message: str, *, no_such_file: bool = False) -> None:
        self.no_such_file = no_such_file
        super().__init__(message)


class CheckpointError(SplitregError):
    """A checkpoint that cannot be read, or does not fit the model."""


class CorruptAnswer(SplitregError):
    """An answer of a server that is damaged or not valid."""


class ServiceError(SplitregError):
    """A request that the server refused or could not answer.

    Attributes:
        retry_after_s: seconds after which a retry may succeed; None if not stated.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class BadRequest(ServiceError):
    """An invalid path, method, type, query or header of a request."""


class Unauthorized(ServiceError):
    """A missing or wrong token."""


class TooLarge(ServiceError):
    """A request that exceeds the server's limits."""


class KeyReused(ServiceError):
    """One idempotency key for two requests."""


class SlowRequest(ServiceError):
    """A request that did not arrive in time."""


class RateLimited(ServiceError):
    """More requests than one client may send; retry later."""


class Unavailable(ServiceError):
    """A full queue, a stopping server, or no worker; retry later."""


class DeadlinePassed(ServiceError):
    """No answer before the deadline of the request."""


class WorkerLost(ServiceError):
    """The worker process died while it computed the answer."""


class Unreachable(SplitregError):
    """No connection to a server, a broken one, or a timeout."""


class OutboxError(SplitregError):
    """An outbox that is damaged, not an outbox, or in use by another process."""


class OutboxFull(OutboxError):
    """An outbox without room for another packet."""


class CodingError(SplitregError):
    """Symbols, tables and bytes."""


class ShapeMismatch(CodingError):
    """An array whose shape does not fit the tables or the model."""


class InvalidLatent(CodingError):
    """NaN, infinite or huge values in a latent."""


class InvalidTables(CodingError):
    """Tables that are not valid."""


class OverBudget(CodingError):
    """An image whose smallest packet exceeds the budget."""


class CorruptPacket(CodingError):
    """A packet that is damaged, cut short or not valid."""


class KeyFrameNeeded(CorruptPacket):
    """A stream's frame continues frames that did not arrive; the next one must be a key frame."""


class ForeignPacket(CodingError):
    """A packet that was written by another model."""


def suggest(name: str, names: Iterable[str]) -> str:
    """Return a suggestion of near names, or an empty string.

    >>> suggest("dte", ["det", "seg"])
    " Did you mean 'det'?"
    """
    import difflib  # imported here, as in the registry: `splitreg list` is measured in milliseconds

    close = difflib.get_close_matches(name, list(names), n=3)
    return f" Did you mean {' or '.join(repr(c) for c in close)}?" if close else ""
