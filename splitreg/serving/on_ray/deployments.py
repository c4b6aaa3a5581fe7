"""The deployments: replicas as Ray Serve runs them, one application a bundle."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from splitreg import __version__
from splitreg.serving.on_ray.asks import Ask, Piece
from splitreg.serving.on_ray.config import ClusterConfig, Part

BODY = "body"
#: Seconds between looks at whether a replica lives.
_HEALTH_SECONDS = 2.0
#: Starts of a replica that fail before the deployment has failed.
_STARTS = 3


class _Replica:
    """One thread that computes, so that calls wait next to it and the replica still says that it lives."""

    def __init__(self, threads: int, seconds: float) -> None:
        import torch

        self._seconds = seconds
        torch.set_num_threads(threads)
        self._thread = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(threads,))

    async def _compute(self, function: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._watched, function, *arguments)

    def _watched(self, function: Any, *arguments: Any) -> Any:
        from splitreg.serving.on_ray.replicas import watchdog

        with watchdog(self._seconds):
            return function(*arguments)


class Body(_Replica):
    """A bundle's body; its heads' handles make them one application, and are not used."""

    def __init__(
        self, bundle: str, model_id: str, names: Sequence[str], heads: Any, settings: str, device: str, precision: str,
        threads: int, seconds: float,
    ) -> None:  # fmt: skip
        from splitreg.serving.on_ray.replicas import BodyReplica

        super().__init__(threads, seconds)
        self._settings = settings
        self._body = BodyReplica(bundle, model_id, names, device, precision)

    async def describe(self) -> tuple[str, dict[str, Any]]:
        """Return the settings that this was deployed with, and what ``/v1/models`` says."""
        return self._settings, self._body.description

    async def __call__(self, asks: Sequence[Ask], heads: Sequence[str]) -> Any:
        """Return the features of requests; Ray keeps them in its store, where the heads read them."""
        return await self._compute(self._body.embed, asks, heads)


def head_class() -> type:
    """Return the deployment of a head; its batching is Ray's, which is imported only where it is used."""
    from ray import serve

    class Head(_Replica):
        """A head."""

        def __init__(
            self, bundle: str, model_id: str, name: str, device: str, precision: str, batch_images: int, calls: int,
            threads: int, seconds: float,
        ) -> None:  # fmt: skip
            from splitreg.serving.on_ray.replicas import HeadReplica

            super().__init__(threads, seconds)
            self._head = HeadReplica(bundle, model_id, name, device, batch_images, precision)
            self._together.set_max_batch_size(calls)

        async def __call__(self, embedded: Any, asks: Sequence[Ask], alone: bool) -> list[Piece]:
            """Return this head's pieces of answers; calls that wait at the same time run together."""
            if alone:
                return (await self._run([(embedded, asks)]))[0]
            pieces: list[Piece] = await self._together((embedded, asks))
            return pieces

        @serve.batch(max_batch_size=1, batch_wait_timeout_s=0.0)
        async def _together(self, calls: list[Any]) -> list[list[Piece]]:
            return await self._run(calls)

        async def _run(self, calls: list[Any]) -> list[list[Piece]]:
            found: list[list[Piece]] = await self._compute(self._head.answer, calls)
            return found

    return Head


def application(folder: Path, model_id: str, names: Sequence[str], cluster: ClusterConfig) -> tuple[str, Any]:
    """Return a bundle's application: the body, and one deployment a head; and its settings' digest."""
    from ray import serve

    bundle, seconds = str(folder.resolve()), cluster.ingress.batch_seconds
    settings = (bundle, model_id, cluster.body, [(name, cluster.part(name)) for name in names], seconds, __version__)
    digest = hashlib.sha256(repr(settings).encode()).hexdigest()[:16]
    deployment: Any = serve.deployment
    heads = {}
    for name in names:
        part = cluster.part(name)
        made = deployment(head_class()).options(name=deployment_of(name), **_options(part))
        heads[name] = made.bind(
            bundle,
            model_id,
            name,
            _device(part),
            part.precision,
            part.batch_images,
            part.max_ongoing,
            _threads(part),
            seconds,
        )
    body = deployment(Body).options(name=BODY, **_options(cluster.body))
    own = _device(cluster.body), cluster.body.precision, _threads(cluster.body), seconds
    return digest, body.bind(bundle, model_id, tuple(names), heads, digest, *own)


def deployment_of(head: str) -> str:
    """Return the name of a head's deployment."""
    return f"head-{head}"


def _options(part: Part) -> dict[str, Any]:
    actor: dict[str, Any] = {"num_cpus": part.cpus, "num_gpus": part.gpus}
    if part.memory_bytes:
        actor["memory"] = part.memory_bytes
    options: dict[str, Any] = {
        "ray_actor_options": actor, "max_ongoing_requests": part.max_ongoing, "max_queued_requests": part.max_queued,
        "health_check_period_s": _HEALTH_SECONDS, "max_constructor_retry_count": _STARTS,
    }  # fmt: skip
    if part.most == part.replicas:
        return {**options, "num_replicas": part.replicas}
    scaling = {
        "min_replicas": part.replicas, "max_replicas": part.most, "target_ongoing_requests": part.target_ongoing,
        "upscale_delay_s": part.upscale_seconds, "downscale_delay_s": part.downscale_seconds,
    }  # fmt: skip
    return {**options, "autoscaling_config": scaling}


def _device(part: Part) -> str:
    return "cuda" if part.gpus else "cpu"


def _threads(part: Part) -> int:
    return max(1, int(part.cpus))
