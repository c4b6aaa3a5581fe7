"""A plugin's entry in packaging metadata, and its class, ready to be instantiated."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from splitreg.errors import ApiMismatch, BrokenComponent, MissingExtra, RecipeError, SplitregError
from splitreg.parsing import check_options, check_types
from splitreg.specs import API, ComponentSpec

__all__ = ["Component", "Entry", "error_context", "import_object", "place_of"]

#: Kind -> number of leading constructor parameters that the core passes.
_POSITIONAL = {"backbone": 0, "bottleneck": 2, "codec": 0, "head": 2, "dataset": 2, "objective": 1, "target": 0}
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
            raise BrokenComponent(f"{plugin} is broken: {_last_line(cause, self.module)}") from cause
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
        package: package that declares the plugin, for errors.
    """

    kind: str
    name: str
    cls: type[Any]
    member: str | None = None
    package: str = "(unpackaged)"

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

    @property
    def meanings(self) -> dict[str, str]:
        """Option -> its line in the docstring of the class or of the base class that documents it."""
        documented: dict[str, str] = {}
        for base in self.cls.__mro__:
            for text in (base.__dict__.get("__doc__"), getattr(base.__dict__.get("__init__"), "__doc__", None)):
                documented = {**_arguments(text or ""), **documented}
        meanings = {name: documented.get(name, "") for name in self.options}
        for name, default in self.options.items():
            if default is None and name not in self.required and "None" not in meanings[name]:
                none = "None: this default" if "default" in meanings[name] else "None: not set"
                meanings[name] = "; ".join(filter(None, [meanings[name].rstrip("."), none]))
        return meanings

    @property
    def required(self) -> tuple[str, ...]:
        """Options without a default."""
        import inspect

        parameters = inspect.signature(self.cls).parameters
        return tuple(name for name in self.options if parameters[name].default is inspect.Parameter.empty)

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
        check_options(names, known, f"{self.kind} {self.name!r}")

    def create(self, *args: Any, options: Mapping[str, Any], reserved: Mapping[str, Any] | None = None) -> Any:
        """Check the options and instantiate the class.

        Args:
            args: positional arguments of this kind of plugin.
            options: options of the recipe.
            reserved: parameters that only the core sets.

        Raises:
            RecipeError: an unknown option, one without a default that is missing, or the constructor rejects
                a value.
        """
        reserved = reserved or {}
        self.check_options(options, reserved=reserved)
        check_types(self.cls, options, f"{self.kind} {self.name!r}")
        missing = [name for name in self.required if name not in options and name not in reserved]
        if missing:
            raise RecipeError(
                f"{self.kind} {self.name!r} needs {', '.join(missing)}; give it in a table: "
                f'{{ name = "{self.name}", {missing[0]} = ... }}. See splitreg show {self.kind}:{self.name}'
            )
        first = () if self.member is None else (self.member,)
        try:
            return self.cls(*first, *args, **options, **reserved)
        except SplitregError:
            raise
        except Exception as cause:  # a plugin may raise anything
            raise RecipeError(
                f"cannot create {self.kind} {self.name!r} of package {self.package}: "
                f"{_last_line(cause, self.cls.__module__)}"
            ) from cause


def _arguments(docstring: str) -> dict[str, str]:
    """Return the arguments of a Google-style docstring: name -> description in one line."""
    import inspect

    arguments: dict[str, str] = {}
    inside, name = False, ""
    for line in inspect.cleandoc(docstring).splitlines():
        if not line.startswith(" "):
            inside, name = line.strip() == "Args:", ""
        elif inside and (match := re.match(r" {4}(\*{0,2}\w+)(?: \([^)]*\))?: *(.*)", line)):
            name = match[1]
            arguments[name] = match[2]
        elif inside and name and line.strip():
            arguments[name] += f" {line.strip()}"
    return arguments


def import_object(dotted: str, key: str) -> Any:
    """Import ``"package.module:name"`` of a plugin.

    Args:
        dotted: what to import.
        key: the plugin, for errors: ``"kind:name from package NAME"``.

    Raises:
        MissingExtra: another package that it needs is not installed.
        BrokenComponent: the import fails for another reason.
    """
    module, _, attribute = dotted.partition(":")
    with error_context(key, dotted):
        return getattr(importlib.import_module(module), attribute)


@contextmanager
def error_context(key: str, dotted: str) -> Iterator[None]:
    """Convert what a plugin's code raises into an error that names the plugin, its file and line."""
    try:
        yield
    except ModuleNotFoundError as cause:
        missing = cause.name or "a module"
        if missing.split(".")[0] == _root(dotted):
            raise BrokenComponent(f"{key} is broken: {_last_line(cause, dotted)}") from cause
        raise MissingExtra(
            f"{key} needs {missing}, which is not installed; pip install 'splitreg[full]' installs what the built-in "
            f"plugins need ({place_of(cause, _root(dotted))})"
        ) from cause
    except Exception as cause:
        raise BrokenComponent(f"{key} is broken: {_last_line(cause, dotted)}") from cause


#: A frame in the text of a traceback, as another process reports it.
_FRAME = re.compile(r'File "([^"\n]+)", line (\d+)')


def place_of(error: BaseException, root: str = "") -> str:
    """Return the innermost file and line of a package from which an error came.

    Args:
        error: the error. Its notes and message may hold the text of a traceback from another process.
        root: top-level module of the package; without one, or without a frame of it, every frame counts.

    Returns:
        For example ``"my_package/codec.py:12"``; empty if the error was never raised.
    """
    places = list(_places(error))
    own = [(file, line) for file, line, module in places if root and (_root(module) == root or module == file)]
    if root and not own:
        text = "\n".join([*getattr(error, "__notes__", ()), str(error)])
        own = [(file, int(line)) for file, line in _FRAME.findall(text) if _is_in(file, root)]
    chosen = own or [(file, line) for file, line, _ in places]
    if not chosen:
        return ""
    file, line = chosen[-1]
    return f"{_short_path(file, root)}:{line}"


def _places(error: BaseException) -> Iterator[tuple[str, int, str]]:
    """Yield file, line and module of every frame of the traceback, outermost first."""
    traceback = error.__traceback__
    while traceback is not None:
        frame = traceback.tb_frame
        yield frame.f_code.co_filename, traceback.tb_lineno, str(frame.f_globals.get("__name__", ""))
        traceback = traceback.tb_next
    if isinstance(error, SyntaxError) and error.filename:  # the module that has the error never ran
        yield error.filename, error.lineno or 0, error.filename


def _root(dotted: str) -> str:
    """Return the top-level module of ``"package.module:name"``."""
    return dotted.partition(":")[0].partition(".")[0]


def _is_in(file: str, root: str) -> bool:
    parts = file.replace("\\", "/").split("/")
    return root in parts[:-1] or parts[-1] == f"{root}.py"


def _short_path(file: str, root: str) -> str:
    """Return the path from the package's folder on, otherwise the name of the file."""
    parts = file.replace("\\", "/").split("/")
    start = len(parts) - 1 - parts[::-1].index(root) if root in parts[:-1] else len(parts) - 1
    return "/".join(parts[start:])


def _last_line(error: BaseException, dotted: str) -> str:
    text = " ".join(str(error).split("\n", 1)[0].split())
    return f"{type(error).__name__}: {text} ({place_of(error, _root(dotted))})"
