"""Applications on the cluster: deployed, found again, deleted, and their replicas counted."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import serve

from splitreg.errors import BundleError
from splitreg.serving.on_ray.config import ClusterConfig
from splitreg.serving.on_ray.deployments import BODY, create_application, deployment_name

_RUNNING, _FAILED = "RUNNING", "DEPLOY_FAILED"
#: Seconds between looks at the status of an application that starts.
_POLL_SECONDS = 0.25
_ERROR_LINE = re.compile(r"[\w.]+Error: ")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployedModel:
    """One bundle on the cluster.

    Args:
        application: name of its application.
        body: handle of its body.
        heads: handles of its heads.
        entry: of ``/v1/models``.
    """

    application: str
    body: Any
    heads: Mapping[str, Any]
    entry: dict[str, Any]


def application_name(cluster: ClusterConfig, model_id: str) -> str:
    """Return the name of a model's application."""
    return f"{cluster.application}-{model_id}"


async def deploy(folder: Path, model_id: str, heads: Sequence[str], cluster: ClusterConfig) -> DeployedModel:
    """Deploy a bundle, unless it runs with the same settings already.

    Args:
        folder: of the bundle.
        model_id: eight hexadecimal digits.
        heads: names of the heads.
        cluster: the replicas.

    Raises:
        BundleError: a replica cannot load the bundle.
    """
    name = application_name(cluster, model_id)
    settings, application = create_application(folder, model_id, heads, cluster)
    if await _current_settings(name) != settings:
        target = serve.RunTarget(application, name=name, route_prefix=None)
        # without waiting: serve.run never returns if the cluster lacks resources
        await asyncio.to_thread(
            serve.run_many,
            [target],
            wait_for_ingress_deployment_creation=False,
            wait_for_applications_running=False,
        )
        await _wait_until_running(name, folder)
    body = serve.get_deployment_handle(BODY, name)
    _, entry = await body.describe.remote()
    handles = {head: serve.get_deployment_handle(deployment_name(head), name) for head in heads}
    return DeployedModel(application=name, body=body, heads=handles, entry=entry)


async def delete(name: str) -> None:
    """Delete an application and its replicas."""
    await asyncio.to_thread(serve.delete, name)


async def count_replicas(names: Sequence[str]) -> int:
    """Count the running replicas of applications.

    Returns:
        0 if one of their deployments has none, since requests need all of them.
    """
    status = (await asyncio.to_thread(serve.status)).applications
    counts = [
        sum(count for state, count in deployment.replica_states.items() if state == _RUNNING)
        for name in names
        for deployment in (status[name].deployments.values() if name in status else ())
    ]
    return sum(counts) if counts and all(counts) else 0


def last_line(error: BaseException) -> str:
    """Return the last line of an error of Ray, which names the cause."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__


async def _wait_until_running(name: str, folder: Path) -> None:
    while True:
        application = (await asyncio.to_thread(serve.status)).applications.get(name)
        status = None if application is None else application.status
        if status == _RUNNING:
            return
        if status == _FAILED:
            reason = _failure_reason(application) or application.message.strip()[-500:]
            raise BundleError(f"{folder} could not be deployed: {reason}")
        await asyncio.sleep(_POLL_SECONDS)


async def _current_settings(name: str) -> str | None:
    """Return the settings of an application; None if it does not run."""
    application = (await asyncio.to_thread(serve.status)).applications.get(name)
    if application is None or application.status != _RUNNING:
        return None
    settings: str = (await serve.get_deployment_handle(BODY, name).describe.remote())[0]
    return settings


def _failure_reason(application: Any) -> str:
    """Return why an application failed: the last line of a traceback in a deployment's message."""
    for deployment in application.deployments.values():
        lines = [line.strip() for line in deployment.message.splitlines()]
        errors = [line for line in lines if _ERROR_LINE.match(line)]
        if errors:
            reason: str = errors[-1].partition(": ")[2][:500]
            return reason
    return ""
