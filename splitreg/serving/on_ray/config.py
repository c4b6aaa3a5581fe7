"""The configuration of a cluster: a TOML file with bundles, limits and replicas."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from splitreg.errors import RecipeError
from splitreg.parsing import name_list, only, typed
from splitreg.recipe import PRECISIONS, check_precision
from splitreg.serving.config import ServeConfig

OptionsT = TypeVar("OptionsT")
#: Fields of ``ServeConfig`` that are not keys of ``[ingress]``: top-level keys, tokens (which have
#: a file of their own), and settings of worker processes.
_NOT_IN_INGRESS = ("bundles", "heads", "tokens", "workers", "threads", "device", "precision", "max_batch_images")
_MAY_BE_ZERO = ("max_replicas", "cpus", "gpus", "memory_bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentOptions:
    """The replicas of one deployment: of a bundle's body, or of one head.

    Args:
        replicas: number of replicas; the minimum if ``max_replicas`` is set.
        max_replicas: maximum for autoscaling; 0 disables autoscaling.
        target_ongoing: calls per replica above which Ray adds one.
        upscale_seconds: how long the load must be higher before Ray adds a replica.
        downscale_seconds: how long the load must be lower before Ray removes one.
        max_ongoing: calls that a replica has at a time; one runs, the others wait at the replica.
        max_queued: calls per ingress that wait for a replica; beyond it the ingress' own queue
            fills.
        max_batch_images: images per batch.
        cpus: CPUs reserved per replica; also its number of threads.
        gpus: GPUs reserved per replica; fractions share one.
        precision: one of ``splitreg.recipe.PRECISIONS``.
        memory_bytes: memory reserved per replica; 0 reserves none.

    Raises:
        RecipeError: a value is out of range.
    """

    replicas: int = 1
    max_replicas: int = 0
    target_ongoing: float = 1.5
    upscale_seconds: float = 10.0
    downscale_seconds: float = 300.0
    max_ongoing: int = 2
    max_queued: int = 64
    max_batch_images: int = 8
    cpus: float = 1.0
    gpus: float = 0.0
    precision: str = PRECISIONS[0]
    memory_bytes: int = 0

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, str):
                continue
            if value < 0 or (value == 0 and item.name not in _MAY_BE_ZERO):
                raise RecipeError(f"{item.name} must be above zero, got {value}")
        check_precision(self.precision)
        if 0 < self.max_replicas < self.replicas:
            raise RecipeError(f"max_replicas must be at least replicas={self.replicas}, got {self.max_replicas}")
        if not self.cpus and not self.gpus:
            raise RecipeError("cpus or gpus must be above zero: Ray places replicas by what they reserve")

    @property
    def replica_limit(self) -> int:
        """Maximum number of replicas, with or without autoscaling."""
        return self.max_replicas or self.replicas

    @property
    def device(self) -> str:
        """Where a replica computes: ``"cuda"`` if it reserves GPUs, else ``"cpu"``."""
        return "cuda" if self.gpus else "cpu"

    @property
    def threads(self) -> int:
        """CPU threads per replica."""
        return max(1, int(self.cpus))


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterConfig:
    """The configuration of ``splitreg serve --on ray``.

    Args:
        ingress: bundles, address, authentication and limits, as for a single machine.
        body: replicas of every bundle's body.
        head: replicas of every head without an entry in ``heads``.
        heads: name of a head -> its replicas.
        application: prefix of the names of Ray's applications.
        address: address of the cluster; None uses ``RAY_ADDRESS``, or else starts Ray on this
            machine.
        local_cpus: CPUs of Ray on this machine.
        object_store_bytes: object store of Ray on this machine; 0 uses Ray's default.
        shared: other ingresses use the deployments too, so they are kept when this process stops.

    Raises:
        RecipeError: a value is out of range.
    """

    ingress: ServeConfig
    body: DeploymentOptions = field(default_factory=DeploymentOptions)
    head: DeploymentOptions = field(default_factory=DeploymentOptions)
    heads: Mapping[str, DeploymentOptions] = field(default_factory=dict)
    application: str = "splitreg"
    address: str | None = None
    local_cpus: int = 2
    object_store_bytes: int = 0
    shared: bool = False

    def __post_init__(self) -> None:
        if not self.application.replace("-", "").replace("_", "").isalnum():
            raise RecipeError(f"application must be letters, digits, - and _, got {self.application!r}")
        if self.local_cpus < 1 or self.object_store_bytes < 0:
            raise RecipeError("local_cpus must be at least 1 and object_store_bytes at least 0")

    def head_options(self, head: str) -> DeploymentOptions:
        """Return the replicas of a head."""
        return self.heads.get(head, self.head)

    @property
    def max_batches(self) -> int:
        """Batches of an ingress that run at a time: enough to keep all replicas of the body busy."""
        return self.body.replica_limit * self.body.max_ongoing


def read_cluster(path: str | Path) -> ClusterConfig:
    """Read the configuration of a cluster; ``docs/cluster.md`` describes the file.

    Raises:
        RecipeError: the file cannot be read or is not TOML, or a key or value is invalid.
    """
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as cause:
        raise RecipeError(f"cannot read the cluster file {path}: {cause}") from cause
    table = only(table, ("bundles", "heads", "ingress", "ray", "body", "head", "parts"), "the cluster file")
    body = _parse(DeploymentOptions, table.get("body", {}), "body")
    head = _parse(DeploymentOptions, table.get("head", {}), "head")
    parts = typed(table.get("parts", {}), (Mapping,), "parts")
    heads = {name: _parse(DeploymentOptions, part, f"parts.{name}", base=head) for name, part in parts.items()}
    ingress = _parse_ingress(table, body)
    for name in heads:
        if ingress.heads is not None and name not in ingress.heads:
            raise RecipeError(f"parts.{name}: head {name!r} is not served; heads = {', '.join(ingress.heads)}")
    options = {"ingress": ingress, "body": body, "head": head, "heads": heads}
    return _parse(ClusterConfig, table.get("ray", {}), "ray", fixed=options)


def _parse_ingress(table: Mapping[str, Any], body: DeploymentOptions) -> ServeConfig:
    names = [item.name for item in fields(ServeConfig) if item.name not in _NOT_IN_INGRESS]
    ingress = only(table.get("ingress", {}), names, "ingress")
    fixed = {
        "tokens": (),
        "bundles": name_list(table.get("bundles", []), "bundles"),
        "heads": name_list(table["heads"], "heads") if "heads" in table else None,
        "workers": body.replica_limit * body.max_ongoing, "threads": 1, "max_batch_images": body.max_batch_images,
    }  # fmt: skip
    return _parse(ServeConfig, ingress, "ingress", fixed=fixed)


def _parse(
    kind: type[OptionsT],
    value: Any,
    where: str,
    *,
    base: OptionsT | None = None,
    fixed: Mapping[str, Any] | None = None,
) -> OptionsT:
    """Return a dataclass of options.

    Args:
        kind: the dataclass.
        value: a table of the file; its keys are the names of fields.
        where: name of the table.
        base: supplies the fields that the table does not have; None uses the defaults.
        fixed: fields that are not keys of the table.
    """
    fixed = fixed or {}
    types = get_type_hints(kind)
    names = [name for name in types if name not in fixed]
    options = {} if base is None else {name: getattr(base, name) for name in names}
    for name, item in only(value, names, where).items():
        options[name] = _parse_field(item, types[name], f"{where}: {name}")
    try:
        return kind(**options, **fixed)
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from error


def _parse_field(value: Any, annotation: Any, where: str) -> Any:
    if get_origin(annotation) is tuple:
        return name_list(value, where)
    kinds = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    if float in kinds:
        return float(typed(value, (int, float), where))
    return typed(value, kinds, where)
