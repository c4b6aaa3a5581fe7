"""Every error that splitreg raises on purpose.

::

    SplitregError
    ├── RegistryError            a name, a plugin package
    │   ├── UnknownComponent         no plugin of that name (near names are suggested)
    │   ├── DuplicateComponent       two packages claim one name
    │   ├── BrokenComponent          the plugin is there but cannot be loaded
    │   └── ApiMismatch              plugin and core speak different versions of the contract
    ├── MissingExtra             something is not installed; the message names the extra
    ├── RecipeError              a recipe or an option that is not one
    ├── PlanError                parts that do not fit together; lists every mismatch
    ├── DataError                a dataset folder, an annotation, a split
    ├── ImageError               a picture that cannot be read, or is too large
    ├── TrainingError            a run that cannot start, go on or be resumed
    │   └── TrainingInterrupted      a run that was told to stop; it can be resumed
    ├── BundleError              a published model that is missing, altered or not one
    ├── CheckpointError          another project's weights that cannot be read or do not fit
    ├── Unreachable              no connection to a server, a broken one, or silence
    ├── OutboxError              a queue on disk that is damaged, or in use by another process
    │   └── OutboxFull               no room for another packet
    ├── CorruptAnswer            a server's answer that is not whole, or not one
    ├── ServiceError             what a server would not or could not answer
    │   ├── BadRequest               a request that is not one: its path, method, type, query or headers
    │   ├── Unauthorized             no token, or a wrong one
    │   ├── TooLarge                 a request beyond the server's limits
    │   ├── KeyReused                one idempotency key with two requests
    │   ├── SlowRequest              a request that did not arrive in time
    │   ├── RateLimited              more requests than one client may send; later
    │   ├── Unavailable              a full queue, a server that stops, or no worker; later
    │   ├── DeadlinePassed           no answer in the time that the request gave
    │   └── WorkerLost               the processes that computed the answer died of it
    └── CodingError              symbols, tables and bytes
        ├── ShapeMismatch            an array of another shape than the tables or the model want
        ├── InvalidLatent            NaN, infinite or huge values
        ├── InvalidTables            tables that are not a code
        ├── OverBudget               a picture that no packet of so few bytes can carry
        ├── CorruptPacket            bytes that are not a whole, undamaged packet
        │   └── KeyFrameNeeded           a stream's frame that continues what did not arrive
        └── ForeignPacket            a packet that another model wrote

A message says what was asked, what is there and what to do next, in one line (``PlanError`` has a line a mismatch).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class SplitregError(Exception):
    """Base of every error that splitreg raises on purpose."""


class RegistryError(SplitregError):
    """A plugin, or the name of one."""


class UnknownComponent(RegistryError):
    """No plugin of that name is installed."""


class DuplicateComponent(RegistryError):
    """Two packages claim one name."""


class BrokenComponent(RegistryError):
    """The plugin is installed but cannot be loaded."""


class ApiMismatch(RegistryError):
    """The plugin was written for another version of the contracts."""


class MissingExtra(SplitregError):
    """Something that this needs is not installed."""


class RecipeError(SplitregError):
    """A recipe, or an option, that is not one."""


class PlanError(SplitregError):
    """Parts that do not fit together.

    Attributes:
        problems: one sentence for every mismatch.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        head = f"the plan has {len(problems)} problem{'s' if len(problems) != 1 else ''}:"
        super().__init__("\n  - ".join([head, *problems]))


class DataError(SplitregError):
    """A dataset folder, an annotation or a split that is not one."""


class ImageError(SplitregError):
    """A picture that cannot be read, or is too large."""


class TrainingError(SplitregError):
    """A run that cannot start, go on or be resumed."""


class TrainingInterrupted(TrainingError):
    """A run that was told to stop and has written a checkpoint.

    Attributes:
        signal: number of the signal that stopped it; ``128 + signal`` is the usual exit status.
    """

    def __init__(self, message: str, signal: int = 0) -> None:
        self.signal = signal
        super().__init__(message)


class BundleError(SplitregError):
    """A published model that is missing, altered or not one."""


class CheckpointError(SplitregError):
    """Another project's weights that cannot be read, or do not fit the model."""


class CorruptAnswer(SplitregError):
    """A server's answer that is not whole, or not one."""


class ServiceError(SplitregError):
    """What a server would not, or could not, answer.

    Attributes:
        retry_after_s: when it is worth another try, in seconds; None where it is not said.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class BadRequest(ServiceError):
    """A request that is not one: its path, method, type, query or headers."""


class Unauthorized(ServiceError):
    """No token, or a wrong one."""


class TooLarge(ServiceError):
    """A request beyond the server's limits."""


class KeyReused(ServiceError):
    """One idempotency key with two requests."""


class SlowRequest(ServiceError):
    """A request that did not arrive in time."""


class RateLimited(ServiceError):
    """More requests than one client may send; later."""


class Unavailable(ServiceError):
    """A full queue, a server that stops, or no worker; later."""


class DeadlinePassed(ServiceError):
    """No answer in the time that the request gave."""


class WorkerLost(ServiceError):
    """The processes that computed the answer died of it."""


class Unreachable(SplitregError):
    """No connection to a server, a broken one, or silence."""


class OutboxError(SplitregError):
    """A queue on disk that is damaged, something else, or in use by another process."""


class OutboxFull(OutboxError):
    """A queue on disk that has no room for another packet."""


class CodingError(SplitregError):
    """Symbols, tables and bytes."""


class ShapeMismatch(CodingError):
    """An array of another shape than the tables or the model want."""


class InvalidLatent(CodingError):
    """NaN, infinite or huge values in a latent."""


class InvalidTables(CodingError):
    """Tables that are not a code."""


class OverBudget(CodingError):
    """A picture that no packet of so few bytes can carry."""


class CorruptPacket(CodingError):
    """Bytes that are not a whole, undamaged packet."""


class KeyFrameNeeded(CorruptPacket):
    """A stream's frame continues frames that did not arrive here; the next one must be a key frame."""


class ForeignPacket(CodingError):
    """A packet that another model wrote."""


def suggest(name: str, names: Iterable[str]) -> str:
    """Suggest near names: ``" Did you mean 'det'?"``, or an empty string.

    >>> suggest("dte", ["det", "seg"])
    " Did you mean 'det'?"
    """
    import difflib  # imported here, as in the registry: `splitreg list` is measured in milliseconds

    close = difflib.get_close_matches(name, list(names), n=3)
    return f" Did you mean {' or '.join(repr(c) for c in close)}?" if close else ""
