"""Descriptions of plugins and of their inputs and outputs; no torch, no numpy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from splitreg.errors import DataError

#: Version of ``splitreg.interfaces``; a plugin states the version that it was written for.
API = 1

#: Largest number of classes of a segmentation: the value of the next one stands for unknown pixels (``tasks.IGNORE``).
MAX_PIXEL_CLASSES = 255

#: Kinds of plugins; the entry-point group of each is ``splitreg.<kind>``.
KINDS = ("backbone", "bottleneck", "codec", "head", "dataset", "objective", "target")


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentSpec:
    """Description of a plugin.

    Args:
        kind: one of ``KINDS``.
        name: lower-case letters, digits and single hyphens; also the name of the entry point.
        api: version of ``API`` that the plugin was written for.
        target: ``"package.module:Class"``, imported on first use.
        summary: one line for ``splitreg list``.
        source: paper or standard.
        family: the class has many members; its first argument is the name of the member.
        members: of a family, ``"package.module:function"`` that returns the names of its members.

    >>> ComponentSpec(kind="codec", name="raw", api=1, target="p.m:Raw", summary="As is.").key
    'codec:raw'
    """

    kind: str
    name: str
    api: int
    target: str
    summary: str
    source: str = ""
    family: bool = False
    members: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}; got {self.kind!r}")
        if not self.name or not all(part.isalnum() and part == part.lower() for part in self.name.split("-")):
            raise ValueError(f"name must be lower-case letters, digits and single hyphens; got {self.name!r}")
        if ":" not in self.target or (self.family and ":" not in self.members):
            raise ValueError(
                f"{self.kind}:{self.name}: target and members must be 'package.module:name', got {self.target!r} and "
                f"{self.members!r}"
            )

    @property
    def key(self) -> str:
        """``"kind:name"``."""
        return f"{self.kind}:{self.name}"


def specs_of(kind: str, package: str, api: int) -> Callable[[str, str, str, str], ComponentSpec]:
    """Return a short constructor for the specs of a package with several plugins of one kind.

    Args:
        kind: one of ``KINDS``.
        package: package that holds the classes.
        api: the ``API`` number that the plugins were written for.

    Returns:
        A function of name, target below the package, summary and source.

    >>> specs_of("codec", "p", 1)("raw", "m:Raw", "Uncompressed.", "").target
    'p.m:Raw'
    """

    def spec(name: str, target: str, summary: str, source: str) -> ComponentSpec:
        return ComponentSpec(
            kind=kind, name=name, api=api, target=f"{package}.{target}", summary=summary, source=source
        )

    return spec


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSpec:
    """One feature map: ``channels`` C and ``stride`` s, a (B, C, ceil(H/s), ceil(W/s)) tensor.

    The image itself is ``FeatureSpec(channels=3, stride=1)``.
    """

    channels: int
    stride: int

    def __post_init__(self) -> None:
        if self.channels < 1:
            raise ValueError(f"channels must be at least 1, got {self.channels}")
        if self.stride < 1 or self.stride & (self.stride - 1):
            raise ValueError(f"stride must be a power of two, got {self.stride}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SymbolSpec:
    """Properties of a bottleneck's symbols, by which the plan chooses a codec.

    Args:
        bits: symbols are unsigned integers below ``2**bits``; 0: any int32.
        tables: ``freeze()`` returns integer frequency tables.
        exact: the symbols need a lossless codec. False for quantised amplitudes, which a lossy codec
            may change slightly.
    """

    bits: int
    tables: bool
    exact: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetSpec:
    """A target of a dataset or a head.

    Args:
        task: name of the task, e.g. ``"detection"`` (see ``splitreg.tasks``).
        labels: class names, in the order of their indexes; empty if the task has none.

    Raises:
        DataError: more classes of pixels than a mask can tell apart.
    """

    task: str
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.task == "segmentation" and len(self.labels) > MAX_PIXEL_CLASSES:
            raise DataError(
                f"a segmentation has at most {MAX_PIXEL_CLASSES} classes, because a pixel of value {MAX_PIXEL_CLASSES} is "
                f"unknown; there are {len(self.labels)}. Choose or merge classes"
            )
