"""Names to specs to classes: entry-point metadata first, torch last.

``discover()`` reads the names of every installed plugin from packaging metadata (the ``entrypoints`` package), a spec is
imported when it is asked for (specs live in torch-free modules), and the class behind it on first use. A registry is an
immutable mapping that is passed as an argument; tests build their own.

>>> from splitreg.specs import ComponentSpec
>>> toy = ComponentSpec(kind="codec", name="toy", api=1, target="collections:OrderedDict", summary="A stand-in.")
>>> Registry.of(toy).spec("codec", "toy").summary
'A stand-in.'
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from splitreg.entry_files import installed_entry_points
from splitreg.errors import (
    ApiMismatch,
    BrokenComponent,
    DuplicateComponent,
    MissingExtra,
    RecipeError,
    RegistryError,
    SplitregError,
    UnknownComponent,
    suggest,
)
from splitreg.specs import API, KINDS, ComponentSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A name that an installed package claims: ``package`` says which, ``module`` and ``attribute`` where its spec is."""

    kind: str
    name: str
    package: str
    module: str
    attribute: str

    def spec(self) -> ComponentSpec:
        """Import the spec.

        Raises:
            BrokenComponent: the module does not import, or what it names is not this plugin's spec.
            ApiMismatch: the plugin speaks another version of the contracts.
        """
        what = f"{self.kind}:{self.name} from package {self.package}"
        try:
            spec = getattr(importlib.import_module(self.module), self.attribute)
        except Exception as cause:
            raise BrokenComponent(f"{what} is broken: {_last_line(cause)}") from cause
        if not isinstance(spec, ComponentSpec):
            raise BrokenComponent(f"{what} is broken: {self.module}:{self.attribute} is not a ComponentSpec")
        if (spec.kind, spec.name) != (self.kind, self.name):
            raise BrokenComponent(f"{what} is broken: its spec says {spec.key}")
        if spec.api != API:
            upgrade = "splitreg" if spec.api > API else self.package
            raise ApiMismatch(f"{what} was written for api {spec.api}, splitreg speaks api {API}; upgrade {upgrade}")
        return spec


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """A plugin's class, ready to be instantiated.

    Args:
        kind: kind of plugin.
        name: as it was asked for, e.g. ``"resnet50"``.
        cls: the class.
        member: the member's name where the class is a family's; it is the first argument.
    """

    kind: str
    name: str
    cls: type[Any]
    member: str | None

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the constructor's parameters."""
        import inspect  # imported here: `splitreg list` is measured in milliseconds

        return tuple(inspect.signature(self.cls).parameters)

    def check_options(self, options: Iterable[str], *, positional: int = 0, reserved: Sequence[str] = ()) -> None:
        """Refuse names that are not options of the class.

        Args:
            options: names that were given.
            positional: number of leading parameters that are not options (a family member's name not counted).
            reserved: parameters that only the core sets.

        Raises:
            RecipeError: names every unknown option, with near names.
        """
        first = positional + (self.member is not None)
        known = [name for name in self.parameters[first:] if name not in reserved]
        available = f"Available: {', '.join(known)}" if known else "It has no options"
        unknown = [
            f"invalid option {key!r} for {self.kind} {self.name!r}.{suggest(key, known)} {available}"
            for key in options
            if key not in known
        ]
        if unknown:
            raise RecipeError("; ".join(unknown))

    def create(self, *args: Any, options: Mapping[str, Any], reserved: Mapping[str, Any] | None = None) -> Any:
        """Check the options and instantiate the class.

        Args:
            args: positional arguments of this kind of plugin.
            options: from the recipe.
            reserved: parameters that only the core sets.

        Raises:
            RecipeError: an unknown option, or the class refuses a value.
        """
        reserved = reserved or {}
        self.check_options(options, positional=len(args), reserved=tuple(reserved))
        first = () if self.member is None else (self.member,)
        try:
            return self.cls(*first, *args, **options, **reserved)
        except SplitregError:
            raise
        except Exception as cause:  # a plugin may raise anything
            raise RecipeError(
                f"{self.kind} {self.name!r} cannot be created: {type(cause).__name__}: {cause}"
            ) from cause


class Registry(Mapping[str, Mapping[str, Entry]]):
    """Kind -> name -> entry; immutable."""

    def __init__(self, entries: tuple[Entry, ...], given: tuple[ComponentSpec, ...] = ()) -> None:
        self._entries = entries
        table: dict[str, dict[str, Entry]] = {kind: {} for kind in KINDS}
        claims: dict[tuple[str, str], list[str]] = {}
        for entry in entries:
            claims.setdefault((entry.kind, entry.name), []).append(entry.package)
            table[entry.kind][entry.name] = entry
        self._duplicates = {key: tuple(packages) for key, packages in claims.items() if len(packages) > 1}
        self._given = {(spec.kind, spec.name): spec for spec in given}
        for spec in given:
            module, _, attribute = spec.target.partition(":")
            table[spec.kind][spec.name] = Entry(
                kind=spec.kind, name=spec.name, package="(given)", module=module, attribute=attribute
            )
        self._table = MappingProxyType({k: MappingProxyType(dict(sorted(v.items()))) for k, v in table.items()})

    @classmethod
    def of(cls, *specs: ComponentSpec) -> Registry:
        """Build a registry of these specs alone."""
        return cls((), specs)

    def extended(self, *specs: ComponentSpec) -> Registry:
        """Return this registry with some more specs, as a new one."""
        return Registry(self._entries, (*self._given.values(), *specs))

    def __getitem__(self, kind: str) -> Mapping[str, Entry]:
        try:
            return self._table[kind]
        except KeyError:
            raise RegistryError(
                f"no kind of plugin named {kind!r}.{suggest(kind, KINDS)} There are: {', '.join(KINDS)}"
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)

    def spec(self, kind: str, name: str) -> ComponentSpec:
        """Return the spec of an exact name.

        Raises:
            UnknownComponent: nobody claims the name.
            DuplicateComponent: two packages do.
            BrokenComponent: its spec does not import.
            ApiMismatch: it speaks another version of the contracts.
        """
        names = self[kind]
        if (kind, name) in self._given:
            return self._given[kind, name]
        if name not in names:
            raise UnknownComponent(
                f"no {kind} named {name!r}.{suggest(name, names)} {len(names)} installed: splitreg list {kind}"
            )
        if (kind, name) in self._duplicates:
            first, *others = self._duplicates[kind, name]
            raise DuplicateComponent(
                f"{kind}:{name} is claimed by the packages {first} and {', '.join(others)}; uninstall one of them"
            )
        return names[name].spec()

    def resolve(self, kind: str, name: str) -> tuple[ComponentSpec, str | None]:
        """Find who answers for a name: an exact name first, then the families.

        Args:
            kind: kind of plugin.
            name: ``"fp"``, ``"resnet50"`` (a family's member) or ``"timm:resnet50"``.

        Returns:
            The spec, and the member's name where the spec is a family's.

        Raises:
            UnknownComponent: nobody answers for the name.
            MissingExtra: nobody does, and a family could not be asked because its library is not installed.
            RegistryError: more than one family does, or the spec cannot be loaded.
        """
        family, _, member = name.partition(":")
        if member:
            spec = self.spec(kind, family)
            if not spec.family:
                raise UnknownComponent(f"{kind}:{family} is not a family; ask for {family!r} alone")
            self._check_member(kind, spec, member)
            return spec, member
        if name in self[kind]:
            spec = self.spec(kind, name)
            if spec.family:
                raise UnknownComponent(f"{kind}:{name} is a family; name a member, as in {name}:{_example(spec)}")
            return spec, None
        families: list[ComponentSpec] = []
        known, silent = list(self[kind]), None
        for spec in self._families(kind):
            try:
                members = _members(spec)
            except (MissingExtra, BrokenComponent) as error:
                silent = silent or error  # another family may answer all the same
                continue
            known += members
            if name.partition(".")[0] in members:
                families.append(spec)
        if len(families) > 1:
            choices = " or ".join(f"{spec.name}:{name}" for spec in families)
            raise DuplicateComponent(f"{kind} {name!r} is answered by more than one family; say {choices}")
        if families:
            return families[0], name
        if silent is not None:
            raise silent
        raise UnknownComponent(
            f"no {kind} named {name!r}.{suggest(name, known)} {len(known)} known: splitreg list {kind} --all"
        )

    def members(self, kind: str, family: str) -> tuple[str, ...]:
        """Return every name that a family answers for (imports the library behind it)."""
        return _members(self.spec(kind, family))

    def load(self, spec: ComponentSpec) -> type[Any]:
        """Import the class of a spec.

        Raises:
            MissingExtra: a library that it needs is not installed.
            BrokenComponent: anything else goes wrong on import.
        """
        loaded: type[Any] = _load(spec.target, spec.key)
        return loaded

    def component(self, kind: str, name: str) -> Component:
        """Import the class that a name stands for.

        Raises:
            RegistryError: as ``resolve``.
            MissingExtra: a library that it needs is not installed.
            BrokenComponent: anything else goes wrong on import.
        """
        spec, member = self.resolve(kind, name)
        return Component(kind=kind, name=name, cls=self.load(spec), member=member)

    def create(self, kind: str, name: str, *args: Any, options: Mapping[str, Any]) -> Any:
        """Look a plugin up, check its options and instantiate it: the only place where plugins are created.

        Args:
            kind: kind of plugin.
            name: see ``resolve``.
            args: positional arguments of this kind of plugin.
            options: from the recipe.

        Raises:
            RegistryError: no such plugin, or it cannot be loaded.
            MissingExtra: a library that it needs is not installed.
            RecipeError: an unknown option, or the class refuses a value.
        """
        return self.component(kind, name).create(*args, options=options)

    def _families(self, kind: str) -> list[ComponentSpec]:
        found = []
        for name in self[kind]:
            try:
                spec = self.spec(kind, name)
            except RegistryError:
                continue  # a broken neighbour must not stop the others; `splitreg list` shows it
            if spec.family:
                found.append(spec)
        return found

    def _check_member(self, kind: str, spec: ComponentSpec, member: str) -> None:
        members = _members(spec)
        if member.partition(".")[0] not in members:
            raise UnknownComponent(
                f"no {kind} named {member!r} in {spec.name}.{suggest(member, members)} "
                f"{len(members)} known: splitreg list {kind} --all"
            )


@functools.cache
def discover() -> Registry:
    """Read the names of all installed plugins (metadata only; cached for the process).

    ``SPLITREG_PLUGINS=a,b`` limits discovery to the packages *a* and *b* (their names as installed), for bug reports.
    A package whose metadata is damaged gives a warning and does not hide the others.
    """
    return Registry(tuple(_installed()))


def _installed() -> Iterator[Entry]:
    wanted = os.environ.get("SPLITREG_PLUGINS")
    only = None if wanted is None else {_normalise(name) for name in wanted.split(",") if name.strip()}
    groups = {f"splitreg.{kind}": kind for kind in KINDS}
    claims = set()
    for distribution, kind, name, value in installed_entry_points(groups):
        package = _normalise(distribution)
        claim = (kind, name, package)
        if (only is None or package in only) and claim not in claims:  # an editable install can be on sys.path twice
            claims.add(claim)
            module, _, attribute = value.partition("[")[0].strip().partition(":")
            yield Entry(kind=kind, name=name, package=package, module=module.strip(), attribute=attribute.strip())


def _normalise(package: str) -> str:
    """The name as pip and PyPI write it; folders of metadata have underscores."""
    return package.strip().lower().replace("_", "-").replace(".", "-")


@functools.cache
def _members(spec: ComponentSpec) -> tuple[str, ...]:
    listing = _load(spec.members, spec.key)
    with error_context(spec.key, spec.members):
        return tuple(listing())


def _example(spec: ComponentSpec) -> str:
    members = _members(spec)
    return members[0] if members else "NAME"


def _load(dotted: str, key: str) -> Any:
    module, _, attribute = dotted.partition(":")
    with error_context(key, dotted):
        return getattr(importlib.import_module(module), attribute)


@contextmanager
def error_context(key: str, dotted: str) -> Iterator[None]:
    """Turn what a plugin's code raises into an error that names the plugin."""
    try:
        yield
    except ModuleNotFoundError as cause:
        missing = cause.name or "a module"
        if missing.split(".")[0] == dotted.partition(":")[0].split(".")[0]:
            raise BrokenComponent(f"{key} is broken: {_last_line(cause)}") from cause
        raise MissingExtra(
            f"{key} needs {missing}, which is not installed; pip install 'splitreg[full]' brings what "
            "the first-party plugins need"
        ) from cause
    except Exception as cause:
        raise BrokenComponent(f"{key} is broken: {_last_line(cause)}") from cause


def _last_line(error: BaseException) -> str:
    import traceback

    place = traceback.extract_tb(sys.exc_info()[2])[-1]
    return f"{type(error).__name__}: {error} ({os.path.basename(place.filename)}:{place.lineno})"
