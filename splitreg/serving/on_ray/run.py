"""Serving on Ray: the same server process as on one machine, with ``RayBackend``."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import secrets
import sys
from collections.abc import Callable
from typing import Any

from splitreg.errors import MissingExtra, ServiceError
from splitreg.serving.on_ray.config import ClusterConfig
from splitreg.serving.run import serve

#: Ray's variable for clusters of several machines; without them its ports are on
#: 127.0.0.1, except one per replica of Ray Serve.
_CLUSTERS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


def serve_on_ray(cluster: ClusterConfig, on_ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP deploys the bundles that have changed.

    Args:
        cluster: bundles, limits and replicas.
        on_ready: called with the URL once requests are accepted. Until this function returns,
            everything else written to stdout goes to stderr.

    Raises:
        MissingExtra: Ray is not installed.
        ServiceError: the cluster cannot be reached.
        SplitregError: as ``splitreg.serving.serve``.
    """
    with contextlib.redirect_stdout(sys.stderr):  # Ray writes to stdout
        _protect(cluster)
        ray, ray_serve = _import_ray()
        started_here = _connect(ray, cluster)  # sets signal handlers, which the server replaces
        try:
            from splitreg.serving.on_ray.backend import RayBackend

            ray_serve.start(http_options={"location": "NoServer"})
            serve(cluster.ingress, on_ready, functools.partial(RayBackend, cluster))
        finally:
            if started_here:
                ray_serve.shutdown()
            ray.shutdown()


def _protect(cluster: ClusterConfig) -> None:
    """Let Ray require a token, and listen only on this machine if this process starts it.

    Whoever can connect to a port of Ray can run code, and Ray has many ports. Set
    ``RAY_AUTH_MODE=disabled`` to turn tokens off. Must run before Ray is imported.
    """
    mode = os.environ.setdefault("RAY_AUTH_MODE", "token")
    if _address(cluster) is None:
        os.environ.setdefault(_CLUSTERS, "0")
        if mode == "token":
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _address(cluster: ClusterConfig) -> str | None:
    return cluster.address or os.environ.get("RAY_ADDRESS") or None


def _import_ray() -> tuple[Any, Any]:
    try:
        import ray
        from ray import serve
    except ImportError as cause:
        raise MissingExtra(
            f"serving on Ray needs {cause.name}, which is not installed; pip install 'splitreg[ray]'"
        ) from cause
    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # the server logs what matters
    return ray, serve


def _connect(ray: Any, cluster: ClusterConfig) -> bool:
    """Connect to a cluster; return whether Ray was started on this machine for this process."""
    address = _address(cluster)
    options: dict[str, Any] = {"logging_level": "warning", "log_to_driver": False}
    if address is None:
        options |= {"num_cpus": cluster.local_cpus, "include_dashboard": False}
        options |= {"object_store_memory": cluster.object_store_bytes} if cluster.object_store_bytes else {}
    try:
        ray.init(address=address or "local", **options)
    except (ConnectionError, RuntimeError, ValueError) as cause:
        raise ServiceError(f"cannot connect to a Ray cluster: {cause}; check address and RAY_ADDRESS") from cause
    return address is None
