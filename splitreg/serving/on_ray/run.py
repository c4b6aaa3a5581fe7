"""The process on a cluster: the same ingress as alone, before Ray's deployments instead of its own workers."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
from collections.abc import Callable
from typing import Any

from splitreg.errors import MissingExtra, ServiceError
from splitreg.serving.on_ray.config import ClusterConfig
from splitreg.serving.run import serve


def serve_on_ray(cluster: ClusterConfig, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP deploys the bundles that changed.

    Args:
        cluster: what, where and how often.
        ready: called with the URL when requests are taken; what else is printed then goes to stderr.

    Raises:
        MissingExtra: Ray is not installed.
        ServiceError: the cluster cannot be reached.
        SplitregError: as ``serve``.
    """
    with contextlib.redirect_stdout(sys.stderr):  # Ray talks
        ray, ray_serve = _ray()
        alone = _connect(ray, cluster)  # before the ingress' signals: Ray has its own
        try:
            from splitreg.serving.on_ray.fleet import RayFleet

            ray_serve.start(http_options={"location": "NoServer"})
            serve(cluster.ingress, ready, functools.partial(RayFleet, cluster))
        finally:
            if alone:
                ray_serve.shutdown()
            ray.shutdown()


def _ray() -> tuple[Any, Any]:
    try:
        import ray
        from ray import serve
    except ImportError as cause:
        raise MissingExtra(
            f"serving on Ray needs {cause.name}, which is not installed; pip install 'splitreg[ray]'"
        ) from cause
    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # what matters of it, the ingress says
    return ray, serve


def _connect(ray: Any, cluster: ClusterConfig) -> bool:
    """Join a cluster; return whether it was started for this, on this machine alone."""
    address = cluster.address or os.environ.get("RAY_ADDRESS") or None
    given: dict[str, Any] = {"logging_level": "warning", "log_to_driver": False}
    if address is None:
        given |= {"num_cpus": cluster.local_cpus, "include_dashboard": False}
        given |= {"object_store_memory": cluster.object_store_bytes} if cluster.object_store_bytes else {}
    try:
        ray.init(address=address or "local", **given)
    except (ConnectionError, RuntimeError, ValueError) as cause:
        raise ServiceError(f"no Ray cluster: {cause}; check address and RAY_ADDRESS") from cause
    return address is None
