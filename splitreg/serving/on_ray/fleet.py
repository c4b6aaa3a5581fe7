"""The ingress' side: batches of its queue go through body and heads; what a dead replica had goes to another."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.exceptions
from ray import serve
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException

from splitreg.errors import BundleError, DeadlinePassed, ServiceError, SplitregError
from splitreg.serving.config import ServeConfig
from splitreg.serving.engine import Job
from splitreg.serving.logs import log
from splitreg.serving.metrics import Metrics
from splitreg.serving.on_ray.asks import Ask, Piece, join
from splitreg.serving.on_ray.config import ClusterConfig
from splitreg.serving.on_ray.deployments import BODY, application, deployment_of
from splitreg.serving.pool import Fleet
from splitreg.serving.worker import choose
from splitreg.wire import Form, error_from

#: Seconds between attempts while replicas are busy or being replaced: doubled from the first to the last.
_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
#: Seconds between looks at the replicas.
_WATCH_SECONDS = 2.0
_RUNNING = "RUNNING"
_ERROR = re.compile(r"[\w.]+Error: ")
#: Application -> fleets of this process that use it: two while a reload is under way.
_users: dict[str, int] = {}


@dataclass(frozen=True, slots=True)
class _Model:
    application: str
    body: Any
    heads: Mapping[str, Any]


class RayFleet(Fleet):
    """One loading of the bundles: their applications, and this ingress' queue before them.

    A reload deploys the bundles that changed beside the others; an application is named after its model's id.

    Args:
        cluster: how everything is spread.
        config: the ingress' limits.
        metrics: is told of replicas.
        on_lost: never called: the cluster replaces what dies.
    """

    def __init__(
        self, cluster: ClusterConfig, config: ServeConfig, metrics: Metrics, on_lost: Callable[[], None]
    ) -> None:
        super().__init__(config, metrics, on_lost)
        self._cluster = cluster
        self._served: dict[str, _Model] = {}
        self._suspects = asyncio.Lock()
        self.nursed = True

    async def start(self) -> None:
        """Deploy the bundles, or find them deployed, and try each.

        Raises:
            BundleError: a bundle cannot be loaded, or the cluster has no room for it.
            RecipeError: a head that is not there.
        """
        chosen = choose(self._config.bundles, self._config.heads)
        try:
            async with asyncio.timeout(self._config.load_seconds):
                for bundle, heads in chosen:
                    number = bundle.config.id
                    self._served[number] = model = await self._deploy(bundle.folder, number, heads)
                    _, self.models[number] = await model.body.describe.remote()
                    await self._try(number, bundle.read("testvectors/packet.bin"))
        except TimeoutError as cause:
            await self.stop()
            raise BundleError(
                f"the replicas were not ready within {self._config.load_seconds:g} s; `ray status` and `serve status` say "
                "what they wait for, often for more cpus or gpus than the cluster has"
            ) from cause
        except (ray.exceptions.RayError, RayServeException) as cause:
            await self.stop()
            raise BundleError(f"the bundles are deployed, and do not answer: {_last(cause)}") from cause
        except BaseException:
            await self.stop()
            raise
        self._tasks = [asyncio.create_task(self._slot()) for _ in range(self._cluster.in_flight)]
        await self._look()
        self._tasks.append(asyncio.create_task(self._observe()))

    async def stop(self) -> None:
        """Leave the applications; those that nobody else uses end."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._count(-self.ready)
        for model in self._served.values():
            await self._leave(model.application)
        self._served = {}

    async def _deploy(self, folder: Path, number: str, heads: list[str]) -> _Model:
        """Deploy a bundle, or find it deployed with the same settings; other settings are changed replica by replica."""
        name = f"{self._cluster.application}-{number}"
        settings, made = application(folder, number, heads, self._cluster)
        _users[name] = _users.get(name, 0) + 1
        try:
            if await self._settings(name) != settings:
                await asyncio.to_thread(serve.run, made, name=name, route_prefix=None)
        except BaseException as cause:
            why = await asyncio.to_thread(_why, name) if isinstance(cause, RuntimeError) else ""
            await self._leave(name)
            if isinstance(cause, RuntimeError):
                raise BundleError(f"{folder} could not be deployed: {why or _last(cause)}") from cause
            raise
        found = {head: serve.get_deployment_handle(deployment_of(head), name) for head in heads}
        return _Model(name, serve.get_deployment_handle(BODY, name), found)

    async def _settings(self, name: str) -> str | None:
        """Return what an application was deployed with; None where there is none that runs."""
        there = (await asyncio.to_thread(serve.status)).applications.get(name)
        if there is None or there.status != _RUNNING:
            return None
        settings: str = (await serve.get_deployment_handle(BODY, name).describe.remote())[0]
        return settings

    async def _leave(self, name: str) -> None:
        """Use an application no more; the last one of this process takes it away, unless others may use it."""
        _users[name] -= 1
        if not _users[name] and not self._cluster.shared:
            await asyncio.to_thread(serve.delete, name)

    async def _try(self, number: str, packet: bytes) -> None:
        """Send a packet of the bundle's own through all of it."""
        loop = asyncio.get_running_loop()
        job = Job(
            model=number, heads=tuple(self.models[number]["heads"]), packets=(packet,), images=1, pixels=1, form=Form(),
            arrived=loop.time(), deadline=loop.time() + self._config.load_seconds,
        )  # fmt: skip
        begun = loop.time()
        (found,) = await self._call([job])
        if isinstance(found, SplitregError):
            raise BundleError(f"model {number} is deployed, and does not run: {found}")
        self.engine.guess(job.group, loop.time() - begun)

    async def _slot(self) -> None:
        """Take one batch after the other."""
        while True:
            batch = await self.engine.take()
            try:
                # one suspect at a time: what kills replicas meets none that was lost with it
                async with self._suspects if batch[0].attempts else contextlib.nullcontext():
                    await self._run(batch)
            except asyncio.CancelledError:
                for job in batch:
                    self.engine.fail(job, ServiceError("the server stopped"))
                raise
            except Exception as error:
                log("batch failed", logging.ERROR, failure=error)
                for job in batch:
                    self.engine.fail(job, ServiceError("the server failed; its log says more"))

    async def _run(self, batch: list[Job]) -> None:
        loop = asyncio.get_running_loop()
        pause = _PAUSE
        while True:
            begun = loop.time()
            try:
                async with asyncio.timeout_at(max(job.deadline for job in batch)):
                    found = await self._call(batch)
                break
            except (BackPressureError, DeploymentUnavailableError):
                await asyncio.sleep(pause)  # with its batch: the queue fills behind it, and then refuses
                pause = min(2 * pause, _LONGEST_PAUSE)
            except TimeoutError:
                for job in batch:
                    self.engine.fail(job, DeadlinePassed("the deadline passed before a replica had the answer"))
                return
            except (ray.exceptions.RayError, RayServeException) as error:
                self._lose(batch, error)
                await asyncio.sleep(pause)
                return
        seconds = loop.time() - begun
        self.engine.learn(batch[0].group, sum(job.images for job in batch), seconds)
        for job, answer in zip(batch, found, strict=True):
            if isinstance(answer, SplitregError):
                self.engine.fail(job, answer)
            else:
                self.engine.finish(job, answer, seconds)

    async def _call(self, batch: list[Job]) -> list[bytes | SplitregError]:
        """Run a batch: the body's features go to the heads through Ray's store, and not through here."""
        model, heads = self._served[batch[0].model], batch[0].heads
        asks = [Ask(images=job.images, form=job.form) for job in batch]
        full = [Ask(images=j.images, form=j.form, packets=j.packets) for j in batch]
        embedded = model.body.remote(full, heads)
        calls = [model.heads[head].remote(embedded, asks, batch[0].attempts > 0) for head in heads]
        try:
            parts = await asyncio.gather(*calls)
        except BaseException:
            for call in (embedded, *calls):
                call.cancel()
            raise
        found: list[bytes | SplitregError] = []
        for job, row in zip(batch, zip(*parts, strict=True), strict=True):
            pieces: dict[str, Piece] = dict(zip(heads, row, strict=True))
            error = next((piece.error for piece in pieces.values() if piece.error is not None), None)
            found.append(join(job.form, pieces) if error is None else error_from(None, error))
        return found

    def _lose(self, batch: list[Job], error: Exception) -> None:
        cause = getattr(error, "cause", None)
        if isinstance(error, ray.exceptions.RayTaskError) and not isinstance(cause, ray.exceptions.RayError):
            log("replica failed", logging.ERROR, why=_last(error))
            for job in batch:
                self.engine.fail(job, ServiceError("a replica failed; its log says more"))
            return
        log("replica lost", logging.ERROR, model=batch[0].model, why=_last(error))
        self._metrics.restarts.inc()
        self.engine.lost(batch)

    async def _observe(self) -> None:
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            with contextlib.suppress(ray.exceptions.RayError, RayServeException, RuntimeError):
                await self._look()

    async def _look(self) -> None:
        """Count the replicas; none of a deployment is none at all."""
        status = await asyncio.to_thread(serve.status)
        counts = [
            sum(count for state, count in deployment.replica_states.items() if state == _RUNNING)
            for model in self._served.values()
            for deployment in status.applications[model.application].deployments.values()
        ]
        self._count((sum(counts) if all(counts) else 0) - self.ready)


def _why(name: str) -> str:
    """Return the error in what Ray says of an application's deployments; it is the last line of a traceback there."""
    there = serve.status().applications.get(name)
    for deployment in there.deployments.values() if there is not None else ():
        found = [line.strip() for line in deployment.message.splitlines() if _ERROR.match(line.strip())]
        if found:
            why: str = found[-1].partition(": ")[2][:500]
            return why
    return ""


def _last(error: BaseException) -> str:
    """Return the last line of what Ray says, which is the cause."""
    said = str(error).strip().splitlines()
    return said[-1].strip() if said else type(error).__name__
