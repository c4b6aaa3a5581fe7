"""The deployments of Ray Serve: one application per bundle, with its body and its heads."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import hashlib
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splitreg import __version__
from splitreg.serving.inference import InferenceRequest
from splitreg.serving.on_ray.config import ClusterConfig, DeploymentOptions
from splitreg.serving.on_ray.messages import HeadAnswer

BODY = "body"
#: Seconds between Ray's health checks of a replica.
_HEALTH_CHECK_SECONDS = 2.0
#: Attempts to start a replica before the deployment fails.
_MAX_STARTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSpec:
    """What a replica loads, and how it computes.

    Args:
        bundle: folder of the bundle, the same on every machine.
        model_id: expected model id, eight hexadecimal digits.
        options: of the deployment.
        batch_timeout_seconds: a replica that takes longer for a batch exits.
        max_mask_pixels: of masks and other maps in answers.
    """

    bundle: str
    model_id: str
    options: DeploymentOptions
    batch_timeout_seconds: float
    max_mask_pixels: int | None


@contextlib.contextmanager
def watchdog(seconds: float) -> Iterator[None]:
    """Exit this process if the block takes longer, even if it holds the GIL; Ray replaces it."""
    faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__ or sys.stderr)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


class _Replica:
    """Computes in a thread, so that the replica answers health checks and queues calls meanwhile."""

    def __init__(self, spec: ReplicaSpec) -> None:
        import torch

        self._batch_timeout_seconds = spec.batch_timeout_seconds
        threads = spec.options.threads
        torch.set_num_threads(threads)
        self._thread = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(threads,))

    async def _compute(self, function: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._watched, function, *arguments)

    def _watched(self, function: Any, *arguments: Any) -> Any:
        with watchdog(self._batch_timeout_seconds):
            return function(*arguments)


class BodyDeployment(_Replica):
    """The body of a bundle.

    Args:
        spec: what to load.
        heads: names of the heads.
        handles: of the heads' deployments; unused, they make body and heads one application.
        settings: digest of the settings of the application.
    """

    def __init__(self, spec: ReplicaSpec, heads: Sequence[str], handles: Any, settings: str) -> None:
        from splitreg.serving.on_ray.replicas import BodyReplica

        super().__init__(spec)
        self._settings = settings
        self._body = BodyReplica(spec.bundle, spec.model_id, heads, spec.options.device, spec.options.precision)

    async def describe(self) -> tuple[str, dict[str, Any]]:
        """Return the digest of the settings, and the entry of ``/v1/models``."""
        return self._settings, self._body.description

    async def __call__(self, requests: Sequence[InferenceRequest], heads: Sequence[str]) -> Any:
        """Return the features for requests; the heads read them from Ray's object store."""
        return await self._compute(self._body.embed, requests, heads)


def head_class() -> type:
    """Return the deployment class of a head; a function, since its batching decorator needs Ray."""
    from ray import serve

    class HeadDeployment(_Replica):
        """One head of a bundle.

        Args:
            spec: what to load.
            head: its name.
        """

        def __init__(self, spec: ReplicaSpec, head: str) -> None:
            from splitreg.serving.on_ray.replicas import HeadReplica

            super().__init__(spec)
            options = spec.options
            self._head = HeadReplica(
                spec.bundle, spec.model_id, head, options.device, options.max_batch_images, options.precision
            )
            self._head.server.max_mask_pixels = spec.max_mask_pixels
            self._run_together.set_max_batch_size(options.max_ongoing)

        async def __call__(self, features: Any, requests: Sequence[InferenceRequest], alone: bool) -> list[HeadAnswer]:
            """Return this head's part of the answers; waiting calls run together unless ``alone``."""
            if alone:
                return (await self._run([(features, requests)]))[0]
            answers: list[HeadAnswer] = await self._run_together((features, requests))
            return answers

        @serve.batch(max_batch_size=1, batch_wait_timeout_s=0.0)
        async def _run_together(self, calls: list[Any]) -> list[list[HeadAnswer]]:
            return await self._run(calls)

        async def _run(self, calls: list[Any]) -> list[list[HeadAnswer]]:
            answers: list[list[HeadAnswer]] = await self._compute(self._head.answer, calls)
            return answers

    return HeadDeployment


def create_application(folder: Path, model_id: str, heads: Sequence[str], cluster: ClusterConfig) -> tuple[str, Any]:
    """Return a bundle's application: its body, and one deployment per head.

    Args:
        folder: of the bundle.
        model_id: eight hexadecimal digits.
        heads: names of the heads.
        cluster: the replicas.

    Returns:
        The digest of the settings, and the application.
    """
    from ray import serve

    bundle, limits = str(folder.resolve()), cluster.ingress
    options = {head: cluster.head_options(head) for head in heads}
    settings = (
        bundle, model_id, cluster.body, list(options.items()), limits.batch_timeout_seconds, limits.max_mask_pixels,
        __version__,
    )  # fmt: skip
    digest = hashlib.sha256(repr(settings).encode()).hexdigest()[:16]
    deployment: Any = serve.deployment

    def spec(of: DeploymentOptions) -> ReplicaSpec:
        return ReplicaSpec(
            bundle=bundle, model_id=model_id, options=of, batch_timeout_seconds=limits.batch_timeout_seconds,
            max_mask_pixels=limits.max_mask_pixels,
        )  # fmt: skip

    handles = {
        head: deployment(head_class()).options(name=deployment_name(head), **ray_options(of)).bind(spec(of), head)
        for head, of in options.items()
    }
    body = deployment(BodyDeployment).options(name=BODY, **ray_options(cluster.body))
    return digest, body.bind(spec(cluster.body), tuple(heads), handles, digest)


def deployment_name(head: str) -> str:
    """Return the name of a head's deployment."""
    return f"head-{head}"


def ray_options(options: DeploymentOptions) -> dict[str, Any]:
    """Return the options of a deployment in Ray's terms."""
    actor: dict[str, Any] = {"num_cpus": options.cpus, "num_gpus": options.gpus}
    if options.memory_bytes:
        actor["memory"] = options.memory_bytes
    result: dict[str, Any] = {
        "ray_actor_options": actor, "max_ongoing_requests": options.max_ongoing,
        "max_queued_requests": options.max_queued, "health_check_period_s": _HEALTH_CHECK_SECONDS,
        "max_constructor_retry_count": _MAX_STARTS,
    }  # fmt: skip
    if options.replica_limit == options.replicas:
        return {**result, "num_replicas": options.replicas}
    autoscaling = {
        "min_replicas": options.replicas, "max_replicas": options.replica_limit,
        "target_ongoing_requests": options.target_ongoing, "upscale_delay_s": options.upscale_seconds,
        "downscale_delay_s": options.downscale_seconds,
    }  # fmt: skip
    return {**result, "autoscaling_config": autoscaling}
