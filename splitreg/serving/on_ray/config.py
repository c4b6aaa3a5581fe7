"""One file for a cluster: what is served, the ingress' limits, and how many of each part there are."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from splitreg.errors import RecipeError, suggest
from splitreg.recipe import PRECISIONS, check_precision
from splitreg.serving.config import ServeConfig
from splitreg.serving.security import read_tokens

T = TypeVar("T")
#: Not of a file: tokens are in a file of their own, and a cluster has replicas instead of workers.
_NOT_IN_INGRESS = ("bundles", "heads", "tokens", "workers", "threads", "device", "precision", "batch_images")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """How a deployment, the body or a head, is spread.

    Args:
        replicas: processes; with ``max_replicas`` the fewest.
        max_replicas: Ray adds replicas up to so many while they are busy, and takes them away again; 0 for no others.
        target_ongoing: calls a replica beyond which one is added.
        upscale_seconds: it must be busy for, before one is added.
        downscale_seconds: it must be idle for, before one is taken away.
        max_ongoing: calls a replica has at a time; one runs, the others wait next to it.
        max_queued: calls of one ingress that wait for a replica; beyond it the ingress' queue fills, and then it refuses.
        batch_images: images that run together.
        cpus: that a replica reserves; also its threads.
        gpus: accelerators that a replica reserves; parts of one are shared.
        precision: of its arithmetic, one of ``splitreg.recipe.PRECISIONS``.
        memory_bytes: that a replica reserves; 0 reserves none.

    Raises:
        RecipeError: a value that is not one.
    """

    replicas: int = 1
    max_replicas: int = 0
    target_ongoing: float = 1.5
    upscale_seconds: float = 10.0
    downscale_seconds: float = 300.0
    max_ongoing: int = 2
    max_queued: int = 64
    batch_images: int = 8
    cpus: float = 1.0
    gpus: float = 0.0
    precision: str = PRECISIONS[0]
    memory_bytes: int = 0

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name == "precision":
                continue
            if value < 0 or (value == 0 and item.name not in ("max_replicas", "cpus", "gpus", "memory_bytes")):
                raise RecipeError(f"{item.name} must be above zero, got {value}")
        check_precision(self.precision)
        if 0 < self.max_replicas < self.replicas:
            raise RecipeError(
                f"max_replicas is {self.max_replicas}, fewer than the {self.replicas} that there are always"
            )
        if not self.cpus and not self.gpus:
            raise RecipeError("a replica needs cpus or gpus: Ray places it by them")

    @property
    def most(self) -> int:
        """Replicas at most."""
        return self.max_replicas or self.replicas


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterConfig:
    """What ``splitreg serve --on ray`` is told.

    Args:
        ingress: bundles, heads, address and limits, as of a server alone.
        body: of every bundle's body.
        head: of every head that ``heads`` does not name.
        heads: name of a head -> how it is spread.
        application: the first part of the names under which Ray knows this.
        address: of the cluster; None for ``RAY_ADDRESS``, and without that for a cluster on this machine alone.
        local_cpus: places of a cluster on this machine.
        object_store_bytes: of a cluster on this machine; 0 lets Ray choose.
        shared: the deployments outlive this process, and other ingresses use them; else they end with it.

    Raises:
        RecipeError: a value that is not one.
    """

    ingress: ServeConfig
    body: Part = field(default_factory=Part)
    head: Part = field(default_factory=Part)
    heads: Mapping[str, Part] = field(default_factory=dict)
    application: str = "splitreg"
    address: str | None = None
    local_cpus: int = 2
    object_store_bytes: int = 0
    shared: bool = False

    def __post_init__(self) -> None:
        if not self.application.replace("-", "").replace("_", "").isalnum():
            raise RecipeError(f"application must be letters, digits, - and _, got {self.application!r}")
        if self.local_cpus < 1 or self.object_store_bytes < 0:
            raise RecipeError("local_cpus must be above zero, and object_store_bytes not below it")

    def part(self, head: str) -> Part:
        """How a head is spread."""
        return self.heads.get(head, self.head)

    @property
    def in_flight(self) -> int:
        """Batches of this ingress that are under way at a time: enough to keep all replicas of the body busy."""
        return self.body.most * self.body.max_ongoing


def read_cluster(path: str | Path) -> ClusterConfig:
    """Read a cluster's file; ``docs/cluster.md`` shows one.

    Raises:
        RecipeError: no such file, no TOML, an unknown key, or a value that is not one.
    """
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as cause:
        raise RecipeError(f"cannot read the cluster's file {path}: {cause}") from cause
    known = ("bundles", "heads", "ingress", "ray", "body", "head", "parts")
    _refuse_unknown(table, known, "the file")
    body = _read(Part, table.get("body", {}), "body")
    head = _read(Part, table.get("head", {}), "head")
    parts = {name: _read(Part, given, f"parts.{name}", head) for name, given in _table(table, "parts").items()}
    ingress = dict(_table(table, "ingress"))
    _refuse_unknown(
        ingress, [f.name for f in fields(ServeConfig) if f.name not in _NOT_IN_INGRESS] + ["token_file"], "ingress"
    )
    token_file = ingress.pop("token_file", None)
    config = _read(
        ServeConfig,
        {"bundles": table.get("bundles", []), **({"heads": table["heads"]} if "heads" in table else {}), **ingress},
        "ingress",
        more={
            "tokens": () if token_file is None else read_tokens(token_file),
            "workers": body.most * body.max_ongoing, "threads": 1, "batch_images": body.batch_images,
        },
    )  # fmt: skip
    for name in parts:
        if config.heads is not None and name not in config.heads:
            raise RecipeError(f"parts.{name} is of no head that is served: {', '.join(config.heads)}")
    return _read(
        ClusterConfig, _table(table, "ray"), "ray", more={"ingress": config, "body": body, "head": head, "heads": parts}
    )


def _read(made: type[T], table: Any, where: str, base: T | None = None, more: Mapping[str, Any] | None = None) -> T:
    """Make a dataclass of a table, with a base's values where it says nothing."""
    if not isinstance(table, dict):
        raise RecipeError(f"[{where}] must be a table, got {table!r}")
    more = more or {}
    kinds = get_type_hints(made)
    names = [item.name for item in fields(made) if item.name not in more]  # type: ignore[arg-type]
    _refuse_unknown(table, names, where)
    given = {} if base is None else {name: getattr(base, name) for name in names}
    given |= {name: _value(value, kinds[name], f"{where}.{name}") for name, value in table.items()}
    try:
        return made(**given, **more)
    except RecipeError as error:
        raise RecipeError(f"[{where}] {error}") from error


def _value(value: Any, kind: Any, where: str) -> Any:
    """Check a value's type: TOML's lists become tuples, its whole numbers serve as others."""
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    for one in kinds:
        if get_origin(one) is tuple and isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        if one is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if one in (int, str, bool) and type(value) is one:
            return value
    names = " or ".join(getattr(one, "__name__", str(one)) for one in kinds if one is not type(None))
    raise RecipeError(f"{where} must be {names}, got {value!r}")


def _table(table: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = table.get(key, {})
    if not isinstance(found, dict):
        raise RecipeError(f"[{key}] must be a table, got {found!r}")
    return found


def _refuse_unknown(table: Mapping[str, Any], known: Any, where: str) -> None:
    for key in table:
        if key not in known:
            raise RecipeError(f"{where} has no {key!r}.{suggest(key, list(known))} There are: {', '.join(known)}")
