"""``new_plugin``: a third-party package with a plugin, its tests, types and README."""

from __future__ import annotations

import importlib.util
import os
import re
import tempfile
from importlib import resources
from pathlib import Path
from string import Template

from splitreg import __version__
from splitreg.errors import ScaffoldError, suggest
from splitreg.files import write_atomic
from splitreg.registry import Registry, discover
from splitreg.scaffold.kinds import SUMMARIES, PackageLayout, PluginEntry, layout, usage
from splitreg.specs import API

#: Kinds of packages: every kind of plugin, and a task of its own (prediction, target, head, dataset).
NEW_KINDS = tuple(SUMMARIES)
#: Longest name; lines of the templates stay below 100 characters.
MAX_NAME = 24
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
#: Kinds whose modules run on a device, where torch is not installed.
_WITHOUT_TORCH = ("codec", "target")


def new_plugin(
    name: str, kind: str = "head", *, folder: str | Path | None = None, registry: Registry | None = None
) -> list[Path]:
    """Write a package with a plugin that works as it is.

    Args:
        name: name of the plugin, by which recipes select it.
        kind: one of ``NEW_KINDS``.
        folder: folder to create; by default ``splitreg-plugin-NAME`` in the working directory.
        registry: the installed plugins, whose names are taken.

    Returns:
        The files, relative to the folder's parent.

    Raises:
        ScaffoldError: the name is not valid or taken, there is no such kind, or the folder exists or
            cannot be written. Nothing is written then.
    """
    package, distribution = f"splitreg_{name.replace('-', '_')}", f"splitreg-plugin-{name}"
    _check_kind(kind)
    _check_name(name)
    plan = layout(kind, name)
    _check_free(plan, package, registry or discover())
    place = Path(distribution if folder is None else folder)
    if place.exists() or place.is_symlink():
        raise ScaffoldError(f"{place} exists already; choose another folder with -o, or another name")
    files = _files(name, kind, package, distribution, plan)
    try:
        _write(place, files)
    except OSError as cause:
        raise ScaffoldError(f"{place} cannot be written: {cause.strerror or cause}") from cause
    return [place / path for path in files]


def _check_kind(kind: str) -> None:
    if kind not in NEW_KINDS:
        raise ScaffoldError(
            f"no kind of plugin named {kind!r}.{suggest(kind, NEW_KINDS)} There are: {', '.join(NEW_KINDS)}"
        )


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or len(name) > MAX_NAME:
        raise ScaffoldError(
            f"a plugin's name has 1 to {MAX_NAME} lower-case letters, digits and single hyphens, and begins with a "
            f"letter; got {name!r}"
        )


def _check_free(plan: PackageLayout, package: str, registry: Registry) -> None:
    """Refuse names that installed plugins or packages have."""
    for plugin in plan.plugins:
        if plugin.name in registry[plugin.kind]:
            owner = registry[plugin.kind][plugin.name].package
            raise ScaffoldError(f"{plugin.kind}:{plugin.name} exists already, in {owner}; choose another name")
    if importlib.util.find_spec(package) is not None:
        raise ScaffoldError(f"a Python package named {package} is installed already; choose another name")


def _files(name: str, kind: str, package: str, distribution: str, plan: PackageLayout) -> dict[str, str]:
    """Return relative path -> content."""
    first, torch = plan.plugins[0], kind not in _WITHOUT_TORCH
    words = {
        "name": name, "kind": kind, "package": package, "distribution": distribution, "summary": SUMMARIES[kind],
        "version": __version__, "module": kind, "first_kind": first.kind, "usage": usage(kind, name).rstrip(),
        "requirement": "splitreg[full]" if torch else "splitreg[edge]",
        "test_requirement": "" if torch else '"splitreg[full]", ',
        "entry_points": "\n".join(_entry_points(plan, kind, name, package)),
        "specs": "\n".join(_spec(plugin, package, kind) for plugin in plan.plugins).rstrip(),
        "files": "\n".join(f"| `{package}/{module}.py` | {text} |" for module, (_, text) in plan.modules.items()),
        "suites": ", ".join(sorted(f"{plugin.kind.capitalize()}Suite" for plugin in plan.plugins)),
        "classes": "\n\n\n".join(map(_test_class, plan.plugins)),
        **plan.classes,
    }  # fmt: skip
    names = {
        "pyproject.toml": "pyproject.toml", "README.md": "README.md", ".gitignore": "gitignore",
        f"{package}/__init__.py": "init.py", f"{package}/specs.py": "specs.py",
        **{f"{package}/{module}.py": f"{template}.py" for module, (template, _) in plan.modules.items()},
        "tests/test_contract.py": "contract.py", f"tests/test_{kind}.py": f"test_{kind}.py",
    }  # fmt: skip
    return {path: _fill(template, words) for path, template in names.items()} | {f"{package}/py.typed": ""}


def _entry_points(plan: PackageLayout, kind: str, name: str, package: str) -> list[str]:
    """Return the tables of pyproject.toml, each followed by an empty line."""
    tables = [
        f'[project.entry-points."splitreg.{plugin.kind}"]\n{plugin.name} = "{package}.specs:{_constant(plugin)}"\n'
        for plugin in plan.plugins
    ]
    if kind == "prediction":
        tables.append(
            "# How a client finds the class of a prediction: the name is its type_name.\n"
            f'[project.entry-points."splitreg.prediction"]\n{name} = "{package}.prediction:{plan.classes["cls"]}"\n'
        )
    return tables


def _spec(plugin: PluginEntry, package: str, kind: str) -> str:
    words = {
        "kind": plugin.kind, "name": plugin.name, "package": package, "module": plugin.module, "cls": plugin.cls,
        "const": _constant(plugin), "api": str(API), "summary": SUMMARIES[kind],
    }  # fmt: skip
    return _fill("spec", words)


def _constant(plugin: PluginEntry) -> str:
    return plugin.name.upper().replace("-", "_")


def _test_class(plugin: PluginEntry) -> str:
    suite = f"{plugin.kind.capitalize()}Suite"
    return f'class Test{plugin.kind.capitalize()}({suite}):\n    component = "{plugin.name}"'


def _fill(template: str, words: dict[str, str]) -> str:
    place = resources.files("splitreg.scaffold").joinpath("templates", f"{template}.tmpl")
    return Template(place.read_text(encoding="utf-8")).substitute(words)


def _write(place: Path, files: dict[str, str]) -> None:
    """Write all files, or none."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".splitreg-", dir=place.parent) as temporary:
        new = Path(temporary) / place.name
        for path, text in files.items():
            write_atomic(new / path, text.encode(), sync=False)
        os.rename(new, place)
