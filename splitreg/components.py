"""A plugin's entry in packaging metadata, and its class, ready to be instantiated."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from splitreg.errors import ApiMismatch, BrokenComponent, MissingExtra, RecipeError, SplitregError, suggest
from splitreg.specs import API, ComponentSpec

__all__ = ["Component", "Entry", "error_context", "import_object"]

#: Kind -> number of leading constructor parameters that the core passes.
_POSITIONAL = {"backbone": 0, "bottleneck": 2, "codec": 0, "head": 2, "dataset": 2, "objective": 1}
#: Kind -> keyword parameters that only the core sets.
_RESERVED = {"backbone": ("image_size",)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An entry point: the ``package`` that declares it, and ``module`` and ``attribute`` of its spec."""

    kind: str
    name: str
    package: str
    module: str
    attribute: str

    def spec(self) -> ComponentSpec:
        """Import the spec.

        Raises:
            BrokenComponent: the module cannot be imported, or has no spec of this plugin.
            ApiMismatch: the plugin was written for another version of the API.
        """
        plugin = f"{self.kind}:{self.name} from package {self.package}"
        try:
            spec = getattr(importlib.import_module(self.module), self.attribute)
        except Exception as cause:
            raise BrokenComponent(f"{plugin} is broken: {_last_line(cause)}") from cause
        if not isinstance(spec, ComponentSpec):
            raise BrokenComponent(f"{plugin} is broken: {self.module}:{self.attribute} is not a ComponentSpec")
        if (spec.kind, spec.name) != (self.kind, self.name):
            raise BrokenComponent(f"{plugin} is broken: its spec is for {spec.key}")
        if spec.api != API:
            package = "splitreg" if spec.api > API else self.package
            raise ApiMismatch(
                f"{plugin} was written for api {spec.api}, this splitreg has api {API}; upgrade {package}"
            )  # fmt: skip
        return spec


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """The class of a plugin.

    Args:
        kind: kind of plugin.
        name: requested name, e.g. ``"resnet50"``.
        cls: the class.
        member: name of the member if the class is a family's; its constructor's first argument.
    """

    kind: str
    name: str
    cls: type[Any]
    member: str | None = None

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the constructor's parameters."""
        import inspect  # imported here: `splitreg list` is measured in milliseconds

        return tuple(inspect.signature(self.cls).parameters)

    @property
    def options(self) -> dict[str, Any]:
        """Option -> default; None if it has no default."""
        import inspect

        parameters = list(inspect.signature(self.cls).parameters.values())
        first = _POSITIONAL[self.kind] + (self.member is not None)
        return {
            parameter.name: None if parameter.default is parameter.empty else parameter.default
            for parameter in parameters[first:]
            if parameter.name not in _RESERVED.get(self.kind, ())
        }

    def check_options(self, names: Iterable[str], *, reserved: Iterable[str] = ()) -> None:
        """Check the names of options.

        Args:
            names: the names.
            reserved: further parameters that only the core sets.

        Raises:
            RecipeError: lists every unknown option, with near names.
        """
        reserved = tuple(reserved)
        known = [name for name in self.options if name not in reserved]
        available = f"Available: {', '.join(known)}" if known else "It has no options"
        unknown = [
            f"invalid option {name!r} for {self.kind} {self.name!r}.{suggest(name, known)} {available}"
            for name in names
            if name not in known
        ]
        if unknown:
            raise RecipeError("; ".join(unknown))

    def create(self, *args: Any, options: Mapping[str, Any], reserved: Mapping[str, Any] | None = None) -> Any:
        """Check the options and instantiate the class.

        Args:
            args: positional arguments of this kind of plugin.
            options: options of the recipe.
            reserved: parameters that only the core sets.

        Raises:
            RecipeError: an unknown option, or the constructor rejects a value.
        """
        reserved = reserved or {}
        self.check_options(options, reserved=reserved)
        first = () if self.member is None else (self.member,)
        try:
            return self.cls(*first, *args, **options, **reserved)
        except SplitregError:
            raise
        except Exception as cause:  # a plugin may raise anything
            raise RecipeError(f"cannot create {self.kind} {self.name!r}: {type(cause).__name__}: {cause}") from cause


def import_object(dotted: str, key: str) -> Any:
    """Import ``"package.module:name"`` of a plugin.

    Args:
        dotted: what to import.
        key: ``kind:name`` of the plugin, for errors.

    Raises:
        MissingExtra: another package that it needs is not installed.
        BrokenComponent: the import fails for another reason.
    """
    module, _, attribute = dotted.partition(":")
    with error_context(key, dotted):
        return getattr(importlib.import_module(module), attribute)


@contextmanager
def error_context(key: str, dotted: str) -> Iterator[None]:
    """Convert what a plugin's code raises into an error that names the plugin."""
    try:
        yield
    except ModuleNotFoundError as cause:
        missing = cause.name or "a module"
        if missing.split(".")[0] == dotted.partition(":")[0].split(".")[0]:
            raise BrokenComponent(f"{key} is broken: {_last_line(cause)}") from cause
        raise MissingExtra(
            f"{key} needs {missing}, which is not installed; pip install 'splitreg[full]' installs what the built-in "
            "plugins need"
        ) from cause
    except Exception as cause:
        raise BrokenComponent(f"{key} is broken: {_last_line(cause)}") from cause


def _last_line(error: BaseException) -> str:
    import traceback

    frame = traceback.extract_tb(sys.exc_info()[2])[-1]
    return f"{type(error).__name__}: {error} ({os.path.basename(frame.filename)}:{frame.lineno})"
