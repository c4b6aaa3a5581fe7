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
    └── CodingError              symbols, tables and bytes
        ├── ShapeMismatch            an array of another shape than the tables or the model want
        ├── InvalidLatent            NaN, infinite or huge values
        ├── InvalidTables            tables that are not a code
        ├── OverBudget               a picture that no packet of so few bytes can carry
        ├── CorruptPacket            bytes that are not a whole, undamaged packet
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


class ForeignPacket(CodingError):
    """A packet that another model wrote."""


def near(name: str, names: Iterable[str]) -> str:
    """Suggest near names: ``" Did you mean 'det'?"``, or an empty string.

    >>> near("dte", ["det", "seg"])
    " Did you mean 'det'?"
    """
    import difflib  # imported here, as in the registry: `splitreg list` is measured in milliseconds

    close = difflib.get_close_matches(name, list(names), n=3)
    return f" Did you mean {' or '.join(repr(c) for c in close)}?" if close else ""
