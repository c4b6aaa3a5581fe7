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

import functools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import FrameType, MappingProxyType
from typing import Any

from splitreg.components import Component, Entry, error_context, import_object, place_of
from splitreg.entry_files import installed_entry_points
from splitreg.errors import (
    BrokenComponent,
    DuplicateComponent,
    MissingExtra,
    RegistryError,
    SplitregError,
    UnknownComponent,
    suggest,
)
from splitreg.specs import KINDS, ComponentSpec

__all__ = ["Component", "Entry", "PluginOrigin", "Registry", "discover", "extensions", "load_extension"]


#: Groups of entry points that name an object, not a spec.
EXTENSIONS = ("prediction", "optimizer", "schedule", "augmentation")


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginOrigin:
    """Where in a plugin's code an error came from.

    Args:
        package: package of the plugin.
        plugin: ``kind:name``; empty if the code belongs to several plugins of the package.
        place: innermost file of the package, and line.
    """

    package: str
    plugin: str
    place: str

    def __str__(self) -> str:
        plugin = f"{self.plugin} of " if self.plugin else ""
        return f"{plugin}package {self.package}, {self.place}"


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
                raise UnknownComponent(f"{kind}:{name} is a family; name a member, as in {name}:{self._example(spec)}")
            return spec, None
        families: list[ComponentSpec] = []
        known, failure = list(self[kind]), None
        for spec in self._families(kind):
            try:
                members = _members(spec, self._named(spec))
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
        spec = self.spec(kind, family)
        return _members(spec, self._named(spec))

    def load(self, spec: ComponentSpec) -> type[Any]:
        """Import the class of a spec.

        Raises:
            MissingExtra: a package that it needs is not installed.
            BrokenComponent: the import fails for another reason.
        """
        loaded: type[Any] = import_object(spec.target, self._named(spec))
        return loaded

    def origin(self, error: BaseException) -> PluginOrigin | None:
        """Return the plugin in whose code an error was raised; None if it was not in a plugin's.

        A ``SplitregError`` counts only if the plugin's code raised it, any other error also if the
        plugin called what raised it. The text of a traceback from another process, in the error's
        notes or message, counts too.
        """
        while True:
            frames = _frames(error)
            deliberate = isinstance(error, SplitregError)
            for frame in reversed(frames[-1:] if deliberate else frames):
                root = str(frame.f_globals.get("__name__", "")).partition(".")[0]
                if root in self._packages:
                    plugin = self._plugin_of(frames, root)
                    return PluginOrigin(package=self._packages[root], plugin=plugin, place=place_of(error, root))
            text = "" if deliberate else "\n".join([*getattr(error, "__notes__", ()), str(error)])
            for root, package in self._packages.items():
                if root in text and (place := place_of(error, root)).startswith((f"{root}/", f"{root}.py:")):
                    return PluginOrigin(package=package, plugin="", place=place)
            if error.__cause__ is None or deliberate:
                return None
            error = error.__cause__

    @functools.cached_property
    def _packages(self) -> dict[str, str]:
        """Top-level module of plugins -> package."""
        entries = [entry for names in self.values() for entry in names.values()]
        entries += _installed(EXTENSIONS)
        roots = {entry.module.partition(".")[0]: entry.package for entry in entries}
        roots.pop("splitreg", None)
        return roots

    def _plugin_of(self, frames: list[FrameType], root: str) -> str:
        """Return the plugin of a package that is at work in these frames, innermost first; empty if unclear."""
        targets: dict[str, str] = {}
        for kind, names in self.items():
            for entry in names.values():
                if entry.module.partition(".")[0] == root:
                    try:
                        spec = self.spec(kind, entry.name)
                    except RegistryError:
                        continue
                    targets[spec.target] = spec.key
        for frame in reversed(frames):
            owner = frame.f_locals.get("self", frame.f_locals.get("cls"))
            kind_of_owner = owner if isinstance(owner, type) else type(owner)
            for base in kind_of_owner.__mro__:
                if f"{base.__module__}:{base.__qualname__}" in targets:
                    return targets[f"{base.__module__}:{base.__qualname__}"]
        return next(iter(targets.values())) if len(targets) == 1 else ""

    def _named(self, spec: ComponentSpec) -> str:
        """Return ``"kind:name from package NAME"``."""
        entry = self[spec.kind].get(spec.name)
        return spec.key if entry is None else f"{spec.key} from package {entry.package}"

    def component(self, kind: str, name: str) -> Component:
        """Import the class of a plugin by name.

        Raises:
            RegistryError: as ``resolve``.
            MissingExtra: a package that it needs is not installed.
            BrokenComponent: the import fails for another reason.
        """
        spec, member = self.resolve(kind, name)
        package = self[kind][spec.name].package
        return Component(kind=kind, name=name, cls=self.load(spec), member=member, package=package)

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
            "options": {
                option: "required" if option in component.required else repr(default)
                for option, default in component.options.items()
            },
            "meanings": component.meanings,
            "doc": inspect.cleandoc(cls.__doc__ or ""),
        }

    def _example(self, spec: ComponentSpec) -> str:
        members = _members(spec, self._named(spec))
        return members[0] if members else "NAME"

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
        members = _members(spec, self._named(spec))
        if member.partition(".")[0] not in members:
            raise UnknownComponent(
                f"no {kind} {member!r} in {spec.name}.{suggest(member, members)} "
                f"{len(members)} are available: splitreg list {kind} --all"
            )


@functools.cache
def discover() -> Registry:
    """Read the names of all installed plugins from packaging metadata; cached for the process.

    ``SPLITREG_PLUGINS=a,b`` limits discovery to the packages *a* and *b*, for bug reports. A package whose metadata
    is damaged gives a warning and does not hide the others.
    """
    return Registry(tuple(_installed()))


@functools.cache
def extensions(group: str) -> Mapping[str, Entry]:
    """Return the entry points ``splitreg.GROUP`` of installed packages by name; cached for the process.

    Such an entry point names an object, not a spec. ``SPLITREG_PLUGINS`` limits them, too.

    Raises:
        DuplicateComponent: two packages declare one name.
    """
    entries: dict[str, Entry] = {}
    for entry in _installed((group,)):
        if entry.name in entries:
            raise DuplicateComponent(
                f"{group}:{entry.name} is declared by the packages {entries[entry.name].package} and {entry.package}; "
                "uninstall one of them"
            )
        entries[entry.name] = entry
    return MappingProxyType(entries)


def load_extension(entry: Entry) -> Any:
    """Import the object of an entry point from ``extensions``.

    Raises:
        MissingExtra: a package that it needs is not installed.
        BrokenComponent: the import fails for another reason.
    """
    return import_object(f"{entry.module}:{entry.attribute}", f"{entry.kind}:{entry.name} from package {entry.package}")


def _installed(kinds: tuple[str, ...] = KINDS) -> Iterator[Entry]:
    names = os.environ.get("SPLITREG_PLUGINS")
    only = None if names is None else {_normalise(name) for name in names.split(",") if name.strip()}
    groups = {f"splitreg.{kind}": kind for kind in kinds}
    claims = set()
    for distribution, kind, name, value in installed_entry_points(groups):
        package = _normalise(distribution)
        claim = (kind, name, package)
        if (only is None or package in only) and claim not in claims:  # an editable install can be on sys.path twice
            claims.add(claim)
            module, _, attribute = value.partition("[")[0].strip().partition(":")
            yield Entry(kind=kind, name=name, package=package, module=module.strip(), attribute=attribute.strip())


def _normalise(package: str) -> str:
    """Return the name as on PyPI; metadata folders have underscores."""
    return package.strip().lower().replace("_", "-").replace(".", "-")


@functools.cache
def _members(spec: ComponentSpec, named: str) -> tuple[str, ...]:
    listing = import_object(spec.members, named)
    with error_context(named, spec.members):
        return tuple(listing())


def _frames(error: BaseException) -> list[FrameType]:
    frames, traceback = [], error.__traceback__
    while traceback is not None:
        frames.append(traceback.tb_frame)
        traceback = traceback.tb_next
    return frames
