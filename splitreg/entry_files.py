"""Entry points of installed packages, read so that a damaged file of one package does not hide all others."""

from __future__ import annotations

import configparser
import importlib.metadata
import sys
import warnings
from collections.abc import Iterator, Mapping


def installed_entry_points(groups: Mapping[str, str]) -> Iterator[tuple[str, str, str, str]]:
    """Yield the entry points of all installed packages (read by the ``entrypoints`` package).

    A folder with a damaged ``entry_points.txt`` gives a warning. Its entry points are then read by
    ``importlib.metadata``, which accepts more, and a file that it cannot read is skipped.

    Args:
        groups: group -> what to call it.

    Yields:
        Name of the package, what the group is called, name and value of the entry point. Of two
        packages of one name only the first on ``sys.path`` counts.
    """
    import entrypoints

    before: set[str] = set()
    for folder in dict.fromkeys(sys.path):
        names: set[str] = set()
        try:
            files = list(entrypoints.iter_files_distros([folder]))
        except (configparser.Error, UnicodeDecodeError) as cause:
            reason = " ".join(str(cause).split())
            warnings.warn(f"an installed package has damaged entry points in {folder}: {reason}", stacklevel=2)
            for distribution in importlib.metadata.distributions(path=[folder]):
                name = distribution.name or "unknown"
                if name not in before:
                    names.add(name)
                    yield from _of_distribution(distribution, name, groups)
        else:
            for config, found in files:
                name = found.name if found else "unknown"
                if name not in before:
                    names.add(name)
                    for group, label in groups.items():
                        if group in config:
                            yield from ((name, label, key, value) for key, value in config.items(group))
        before |= names


def _of_distribution(
    distribution: importlib.metadata.Distribution, name: str, groups: Mapping[str, str]
) -> Iterator[tuple[str, str, str, str]]:
    try:
        points = list(distribution.entry_points)
    except (
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
    ):  # what parses no line as an entry point raises any of these
        return
    for point in points:
        if point.group in groups:
            yield name, groups[point.group], point.name, point.value
