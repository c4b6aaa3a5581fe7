"""Names to specs to classes: packaging metadata first, torch last.

``discover()`` reads the names of every installed plugin from packaging metadata (the ``entrypoints``
package). A spec is imported on request, from a module without torch, and the class on first use. A
registry is an immutable mapping that is passed as an argument; tests build their own.

>>> from splitreg.specs import ComponentSpec
>>> toy = ComponentSpec(kind="codec", name="toy", api=1, target="collections:OrderedDict", summary="An example.")
>>> Registry.of(toy).spec("codec", "toy").summary
'An example.'
"""

from __future__ import annotations

import configparser
import functools
import os
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from splitreg.components import Component, Entry, error_context, import_object
from splitreg.errors import (
    BrokenComponent,
    DuplicateComponent,
    MissingExtra,
    RegistryError,
    UnknownComponent,
    suggest,
)
from splitreg.specs import KINDS, ComponentSpec

__all__ = ["Component", "Entry", "Registry", "discover"]


class Registry(Mapping[str, Mapping[str, Entry]]):
    """Kind -> name -> entry; immutable.

    Args:
        entries: entry points of installed packages.
        specs: further plugins, which take precedence.
    """

    def __init__(self, entries: tuple[Entry, ...], specs: tuple[ComponentSpec, ...] = ()) -> None:
        self._entries = entries
        table: dict[str, dict[str, Entry]] = {kind: {} for kind in KINDS}
        claims: dict[tuple[str, str], list[str]] = {}
        for entry in entries:
            claims.setdefault((entry.kind, entry.name), []).append(entry.package)
            table[entry.kind][entry.name] = entry
        self._duplicates = {key: tuple(packages) for key, packages in claims.items() if len(packages) > 1}
        self._specs = {(spec.kind, spec.name): spec for spec in specs}
        for spec in specs:
            module, _, attribute = spec.target.partition(":")
            table[spec.kind][spec.name] = Entry(
                kind=spec.kind, name=spec.name, package="(unpackaged)", module=module, attribute=attribute
            )
        self._table = MappingProxyType({k: MappingProxyType(dict(sorted(v.items()))) for k, v in table.items()})

    @classmethod
    def of(cls, *specs: ComponentSpec) -> Registry:
        """Return a registry of these specs only."""
        return cls((), specs)

    def extended(self, *specs: ComponentSpec) -> Registry:
        """Return a new registry with additional specs."""
        return Registry(self._entries, (*self._specs.values(), *specs))

    def __getitem__(self, kind: str) -> Mapping[str, Entry]:
        try:
            return self._table[kind]
        except KeyError:
            raise RegistryError(
                f"no kind of plugin {kind!r}.{suggest(kind, KINDS)} Available: {', '.join(KINDS)}"
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)

    def spec(self, kind: str, name: str) -> ComponentSpec:
        """Return the spec of an exact name.

        Raises:
            UnknownComponent: no such plugin.
            DuplicateComponent: two packages declare it.
            BrokenComponent: its spec cannot be imported.
            ApiMismatch: it was written for another version of the API.
        """
        names = self[kind]
        if (kind, name) in self._specs:
            return self._specs[kind, name]
        if name not in names:
            raise UnknownComponent(
                f"no {kind} {name!r}.{suggest(name, names)} {len(names)} are installed: splitreg list {kind}"
            )
        if (kind, name) in self._duplicates:
            first, *others = self._duplicates[kind, name]
            raise DuplicateComponent(
                f"{kind}:{name} is declared by the packages {first} and {', '.join(others)}; uninstall one of them"
            )
        return names[name].spec()

    def resolve(self, kind: str, name: str) -> tuple[ComponentSpec, str | None]:
        """Find the plugin for a name: an exact name first, then the members of families.

        Args:
            kind: kind of plugin.
            name: ``"fp"``, ``"resnet50"`` (a member of a family) or ``"timm:resnet50"``.

        Returns:
            The spec, and the name of the member if the spec is a family's.

        Raises:
            UnknownComponent: no such plugin or member.
            MissingExtra: not found, and a family cannot list its members because its library is not
                installed.
            RegistryError: several families have the member, or a spec cannot be loaded.
        """
        family, _, member = name.partition(":")
        if member:
            spec = self.spec(kind, family)
            if not spec.family:
                raise UnknownComponent(f"{kind}:{family} is not a family; use {family!r} alone")
            self._check_member(kind, spec, member)
            return spec, member
        if name in self[kind]:
            spec = self.spec(kind, name)
            if spec.family:
                raise UnknownComponent(f"{kind}:{name} is a family; name a member, as in {name}:{_example(spec)}")
            return spec, None
        families: list[ComponentSpec] = []
        known, failure = list(self[kind]), None
        for spec in self._families(kind):
            try:
                members = _members(spec)
            except (MissingExtra, BrokenComponent) as error:
                failure = failure or error  # another family may have the member
                continue
            known += members
            if name.partition(".")[0] in members:
                families.append(spec)
        if len(families) > 1:
            choices = " or ".join(f"{spec.name}:{name}" for spec in families)
            raise DuplicateComponent(f"{kind} {name!r} is a member of several families; use {choices}")
        if families:
            return families[0], name
        if failure is not None:
            raise failure
        raise UnknownComponent(
            f"no {kind} {name!r}.{suggest(name, known)} {len(known)} are available: splitreg list {kind} --all"
        )

    def members(self, kind: str, family: str) -> tuple[str, ...]:
        """Return the names of all members of a family; imports its library."""
        return _members(self.spec(kind, family))

    def load(self, spec: ComponentSpec) -> type[Any]:
        """Import the class of a spec.

        Raises:
            MissingExtra: a package that it needs is not installed.
            BrokenComponent: the import fails for another reason.
        """
        loaded: type[Any] = import_object(spec.target, spec.key)
        return loaded

    def component(self, kind: str, name: str) -> Component:
        """Import the class of a plugin by name.

        Raises:
            RegistryError: as ``resolve``.
            MissingExtra: a package that it needs is not installed.
            BrokenComponent: the import fails for another reason.
        """
        spec, member = self.resolve(kind, name)
        return Component(kind=kind, name=name, cls=self.load(spec), member=member)

    def create(self, kind: str, name: str, *args: Any, options: Mapping[str, Any]) -> Any:
        """Find a plugin, check its options and instantiate it.

        Args:
            kind: kind of plugin.
            name: see ``resolve``.
            args: positional arguments of this kind of plugin.
            options: options of the recipe.

        Raises:
            RegistryError: no such plugin, or it cannot be loaded.
            MissingExtra: a package that it needs is not installed.
            RecipeError: an unknown option, or the constructor rejects a value.
        """
        return self.component(kind, name).create(*args, options=options)

    def catalogue(self, kind: str | None = None, *, members: bool = False) -> list[dict[str, str]]:
        """Return the installed plugins as plain data for ``splitreg list``.

        Args:
            kind: only this kind; None: all kinds.
            members: also list the members of families, which imports their libraries.

        Returns:
            ``kind``, ``name``, ``package``, ``summary`` and ``status`` of each plugin; ``status`` is
            ``"broken"`` if it cannot be loaded, with the reason as ``summary``.

        Raises:
            RegistryError: no such kind.
        """
        rows = []
        for name in KINDS if kind is None else (kind,):
            for entry in self[name].values():
                row = {"kind": name, "name": entry.name, "package": entry.package, "summary": "", "status": "ok"}
                try:
                    spec = self.spec(name, entry.name)
                    row["summary"] = spec.summary
                    for member in self.members(name, spec.name) if members and spec.family else ():
                        rows.append({**row, "name": member, "summary": f"from {spec.name}"})
                except RegistryError as error:
                    row.update(status="broken", summary=str(error))
                rows.append(row)
        return rows

    def describe(self, key: str) -> dict[str, Any]:
        """Describe a plugin as plain data for ``splitreg show``; imports its class.

        Args:
            key: ``KIND:NAME``; the name may be a family or one of its members.

        Raises:
            RegistryError: no such plugin, or it cannot be loaded.
            MissingExtra: a package that it needs is not installed.
        """
        import inspect

        kind, _, name = key.partition(":")
        spec, member = self.spec(kind, name) if name in self[kind] else None, None
        if spec is None or not spec.family:
            spec, member = self.resolve(kind, name)
        cls = self.load(spec)
        component = Component(kind=kind, name=name, cls=cls, member=name if spec.family else None)
        return {
            "key": spec.key if member is None else f"{spec.key}:{member}",
            "summary": spec.summary,
            "source": spec.source,
            "package": self[kind][spec.name].package,
            "target": spec.target,
            "api": spec.api,
            "options": {option: repr(default) for option, default in component.options.items()},
            "doc": inspect.cleandoc(cls.__doc__ or ""),
        }

    def _families(self, kind: str) -> list[ComponentSpec]:
        families = []
        for name in self[kind]:
            try:
                spec = self.spec(kind, name)
            except RegistryError:
                continue  # a broken plugin must not affect the others; `splitreg list` reports it
            if spec.family:
                families.append(spec)
        return families

    def _check_member(self, kind: str, spec: ComponentSpec, member: str) -> None:
        members = _members(spec)
        if member.partition(".")[0] not in members:
            raise UnknownComponent(
                f"no {kind} {member!r} in {spec.name}.{suggest(member, members)} "
                f"{len(members)} are available: splitreg list {kind} --all"
            )


@functools.cache
def discover() -> Registry:
    """Read the names of all installed plugins from packaging metadata; cached for the process.

    ``SPLITREG_PLUGINS=a,b`` limits discovery to the packages *a* and *b*, for bug reports.

    Raises:
        RegistryError: the metadata of an installed package is damaged.
    """
    try:
        return Registry(tuple(_installed()))
    except configparser.Error as cause:
        reason = " ".join(str(cause).split())
        raise RegistryError(f"cannot read the entry points of an installed package: {reason}; reinstall it") from cause


def _installed() -> Iterator[Entry]:
    import entrypoints

    names = os.environ.get("SPLITREG_PLUGINS")
    only = None if names is None else {_normalise(name) for name in names.split(",") if name.strip()}
    groups = {f"splitreg.{kind}": kind for kind in KINDS}
    claims = set()
    for config, distribution in entrypoints.iter_files_distros():
        package = _normalise(distribution.name if distribution else "unknown")
        if only is not None and package not in only:
            continue
        for group, kind in groups.items():
            if group not in config:
                continue
            for name, value in config.items(group):
                module, _, attribute = value.partition("[")[0].strip().partition(":")
                claim = (kind, name, package)
                if claim not in claims:  # an editable install can be on sys.path twice
                    claims.add(claim)
                    yield Entry(
                        kind=kind, name=name, package=package, module=module.strip(), attribute=attribute.strip()
                    )


def _normalise(package: str) -> str:
    """Return the name as on PyPI; metadata folders have underscores."""
    return package.strip().lower().replace("_", "-").replace(".", "-")


@functools.cache
def _members(spec: ComponentSpec) -> tuple[str, ...]:
    listing = import_object(spec.members, spec.key)
    with error_context(spec.key, spec.members):
        return tuple(listing())


def _example(spec: ComponentSpec) -> str:
    members = _members(spec)
    return members[0] if members else "NAME"
