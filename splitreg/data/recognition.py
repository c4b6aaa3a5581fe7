"""Which installed datasets can read a folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextvars import ContextVar

from splitreg.errors import DataError, SplitregError
from splitreg.registry import Registry, discover

#: A dataset that raises an error with a hint while it is asked must not ask all others again.
_ASKING: ContextVar[bool] = ContextVar("_ASKING", default=False)


def recognise(root: str | os.PathLike[str], registry: Registry | None = None) -> list[tuple[str, str]]:
    """Ask every installed dataset whether a folder is of its layout.

    Args:
        root: a folder or file.
        registry: where to look for datasets; what is installed by default.

    Returns:
        Name and one line for each dataset that can read the folder, by name. A folder that a
        dataset recognises but finds damaged has the damage as its line.
    """
    if _ASKING.get():
        return []
    lines: list[tuple[str, str]] = []
    with _asking():
        registry = registry or discover()
        for name in registry["dataset"]:
            try:
                line = registry.component("dataset", name).cls.recognise(os.fspath(root))
            except DataError as error:
                line = f"{name}, but damaged: {error}"
            except Exception:
                continue  # a broken plugin must not stop the others; `splitreg list` shows it
            if line:
                lines.append((name, line))
    return lines


def describe_folder(name: str, root: str | os.PathLike[str], registry: Registry | None = None) -> str | None:
    """Return the line of one dataset about a folder, None if it is not of that layout or has none.

    Raises:
        SplitregError: no such dataset, or the folder is damaged.
    """
    registry = registry or discover()
    with _asking():
        try:
            line: str | None = registry.component("dataset", name).cls.recognise(os.fspath(root))
        except SplitregError:
            raise
        except Exception as cause:  # a plugin may raise anything
            raise DataError(f"dataset {name!r} cannot look at {root}: {type(cause).__name__}: {cause}") from cause
    return line


def detect(
    root: str | os.PathLike[str], data: str | None = None, registry: Registry | None = None
) -> tuple[str, str, list[str]]:
    """Choose the dataset for a folder.

    Args:
        root: a folder or file.
        data: name of the dataset; by default the first one that recognises the folder, and one that has
            labels there before one that has none.
        registry: where to look for datasets; what is installed by default.

    Returns:
        The name, its line about the folder, and the names of other datasets that recognise it.

    Raises:
        UnknownComponent: no such dataset.
        DataError: no dataset recognises the folder, or it is damaged.
    """
    registry = registry or discover()
    if not os.path.exists(root):
        raise DataError(f"there is no folder {os.fspath(root)}")
    if data is not None:
        return data, describe_folder(data, root, registry) or f"{data}: {os.fspath(root)}", []
    lines = dict(recognise(root, registry))
    intact = [name for name, line in lines.items() if not line.startswith(f"{name}, but damaged")]
    if not intact:
        raise DataError(
            "; ".join(lines.values())
            or f"no installed dataset recognises {os.fspath(root)}; docs/datasets.md describes the layouts"
        )
    if len(intact) > 1:
        intact.sort(key=lambda name: not _has_labels(name, root, registry))  # stable: by name otherwise
    return intact[0], lines[intact[0]], [name for name in lines if name != intact[0]]


def _has_labels(name: str, root: str | os.PathLike[str], registry: Registry) -> bool:
    """Whether a dataset describes targets of a folder."""
    with _asking(), contextlib.suppress(Exception):  # a broken plugin must not stop the others
        return bool(registry.component("dataset", name).cls.describe(os.fspath(root)))
    return False


def hint(root: str | os.PathLike[str], name: str = "", registry: Registry | None = None) -> str:
    """Return the end of an error message that names the datasets which recognise a folder.

    Args:
        root: a folder or file.
        name: the dataset that was asked for; it is not suggested.
        registry: where to look for datasets; what is installed by default.

    Returns:
        ``" The dataset yolo reads it."``, or an empty string.
    """
    names = [other for other, _ in recognise(root, registry) if other != name]
    if not names:
        return ""
    return f" The dataset {' or '.join(names)} reads it."


@contextlib.contextmanager
def _asking() -> Iterator[None]:
    token = _ASKING.set(True)
    try:
        yield
    finally:
        _ASKING.reset(token)
