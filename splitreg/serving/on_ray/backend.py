"""The backend of a Ray cluster: batches run through body and heads; lost ones are repeated."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import ray
import ray.exceptions
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException

from splitreg.coding import Packet
from splitreg.errors import BundleError, DeadlinePassed, ServiceError, SplitregError
from splitreg.serving.backend import record_reload
from splitreg.serving.batch_queue import BatchQueue
from splitreg.serving.bundles import select_bundles
from splitreg.serving.config import ServeConfig
from splitreg.serving.inference import InferenceRequest
from splitreg.serving.jobs import Job
from splitreg.serving.logs import log
from splitreg.serving.metrics import Metrics
from splitreg.serving.on_ray import applications
from splitreg.serving.on_ray.applications import DeployedModel
from splitreg.serving.on_ray.config import ClusterConfig
from splitreg.wire import AnswerFormat, error_from

#: Seconds before a batch is sent again to busy or unavailable replicas: the first pause, doubled up
#: to the longest.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
#: Seconds between counts of the replicas.
_COUNT_SECONDS = 2.0
_POLL_SECONDS = 0.02


class RayBackend:
    """Computes in deployments on a Ray cluster.

    The application of a bundle is named after its model id. A reload deploys the bundles that are
    new, and removes those that are no longer served once their jobs are done. Ray replaces replicas
    that die.

    Args:
        cluster: the replicas.
        config: bundles and limits.
        metrics: updated with replicas, batches and reloads.
    """

    def __init__(self, cluster: ClusterConfig, config: ServeConfig, metrics: Metrics) -> None:
        self._cluster = cluster
        self._config = config
        self._metrics = metrics
        self._queue = BatchQueue(config, metrics)
        self._deployed: dict[str, DeployedModel] = {}  # with models that are being retired
        self._models: dict[str, dict[str, Any]] = {}
        self._replicas = 0
        self._reload_lock = asyncio.Lock()
        self._suspects = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self._retiring: set[asyncio.Task[None]] = set()

    @property
    def models(self) -> Mapping[str, dict[str, Any]]:
        """See ``Backend``."""
        return self._models

    @property
    def ready(self) -> bool:
        """See ``Backend``."""
        return self._replicas > 0

    @property
    def queue(self) -> BatchQueue:
        """The jobs of this ingress."""
        return self._queue

    async def start(self) -> None:
        """See ``Backend``."""
        try:
            await self._deploy_bundles()
            await self._count_replicas()
        except BaseException:
            await self.close()
            raise
        self._tasks = [asyncio.create_task(self._run_batches()) for _ in range(self._cluster.max_batches)]
        self._tasks.append(asyncio.create_task(self._watch_replicas()))

    def submit(self, job: Job) -> None:
        """See ``Backend``."""
        self._queue.submit(job)

    def cancel(self, job: Job) -> None:
        """See ``Backend``."""
        self._queue.cancel(job)

    async def reload(self) -> None:
        """See ``Backend``."""
        async with self._reload_lock:
            with record_reload(self, self._metrics):
                await self._deploy_bundles()
            for model_id in self._deployed.keys() - self._models.keys():
                task = asyncio.create_task(self._retire(model_id))
                self._retiring.add(task)
                task.add_done_callback(self._retiring.discard)

    async def drain(self) -> None:
        """See ``Backend``."""
        while self._queue.busy:
            await asyncio.sleep(_POLL_SECONDS)

    async def close(self) -> None:
        """See ``Backend``."""
        tasks = [*self._tasks, *self._retiring]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._set_replicas(0)
        for model in self._deployed.values():
            await self._delete(model.application)
        self._deployed = {}

    async def _deploy_bundles(self) -> None:
        """Deploy the bundles, or find them deployed, run a packet through each, and switch to them.

        Raises:
            BundleError: a bundle cannot be loaded, or the cluster has no resources for it.
            RecipeError: a head does not exist.
        """
        selected = select_bundles(self._config.bundles, self._config.heads)
        attempted: dict[str, str] = {}  # model id -> name of its application
        deployed: dict[str, DeployedModel] = {}
        seconds = self._config.load_timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                for bundle, heads in selected:
                    model_id = bundle.config.id
                    attempted[model_id] = applications.application_name(self._cluster, model_id)
                    model = await applications.deploy(bundle.folder, model_id, heads, self._cluster)
                    await self._warm_up(model, bundle.read("testvectors/packet.bin"))
                    deployed[model_id] = model
        except BaseException as cause:
            for model_id in attempted.keys() - self._deployed.keys():
                await self._delete(attempted[model_id])
            if isinstance(cause, TimeoutError):
                raise BundleError(
                    f"the replicas were not ready within load_timeout_seconds={seconds:g}; `ray status` and "
                    "`serve status` show what they wait for, often more cpus or gpus than the cluster has"
                ) from cause
            if isinstance(cause, ray.exceptions.RayError | RayServeException):
                reason = applications.last_line(cause)
                raise BundleError(f"the bundles were deployed, but do not answer: {reason}") from cause
            raise
        self._deployed = {**self._deployed, **deployed}
        self._models = {model_id: model.entry for model_id, model in deployed.items()}

    async def _delete(self, application: str) -> None:
        """Delete an application unless other ingresses may use it."""
        if not self._cluster.shared:
            await applications.delete(application)

    async def _retire(self, model_id: str) -> None:
        """Delete the application of a model that is no longer served, once its jobs are done."""
        while self._queue.has_model(model_id):
            await asyncio.sleep(_POLL_SECONDS)
        async with self._reload_lock:  # a reload may be about to serve it again
            if model_id not in self._models:
                await self._delete(self._deployed.pop(model_id).application)

    async def _warm_up(self, model: DeployedModel, packet: bytes) -> None:
        """Send a packet of the bundle through body and heads."""
        loop = asyncio.get_running_loop()
        heads = tuple(model.entry["heads"])
        start = loop.time()
        request = InferenceRequest(images=1, answer_format=AnswerFormat(), packets=(packet,))
        (answer,) = await self._infer(model, heads, [request])
        if isinstance(answer, SplitregError):
            raise BundleError(f"model {model.entry['id']} was deployed, but fails on its own test packet: {answer}")
        height, width = Packet.parse(packet).original
        self._queue.set_initial_cost((model.entry["id"], heads), height * width, loop.time() - start)

    async def _run_batches(self) -> None:
        """Run one batch after the other."""
        while True:
            batch = await self._queue.take()
            try:
                # lost batches run one at a time, which singles out the one that kills replicas
                async with self._suspects if batch[0].attempts else contextlib.nullcontext():
                    await self._run(batch)
            except asyncio.CancelledError:
                self._queue.abort(batch, ServiceError("the server was stopped"))
                raise
            except Exception as error:
                log("batch failed", logging.ERROR, exception=error)
                self._queue.abort(batch, ServiceError("the server failed; see its log"))

    async def _run(self, batch: list[Job]) -> None:
        loop = asyncio.get_running_loop()
        model, heads, alone = self._deployed[batch[0].model], batch[0].heads, batch[0].attempts > 0
        requests = [
            InferenceRequest(images=job.images, answer_format=job.answer_format, packets=job.packets) for job in batch
        ]
        pause = _FIRST_PAUSE
        while True:
            start = loop.time()
            try:
                async with asyncio.timeout_at(max(job.deadline for job in batch)):
                    answers = await self._infer(model, heads, requests, alone=alone)
                break
            except (BackPressureError, DeploymentUnavailableError):
                await asyncio.sleep(pause)  # meanwhile the queue fills up, then refuses jobs
                pause = min(2 * pause, _LONGEST_PAUSE)
            except TimeoutError:
                return self._queue.abort(
                    batch, DeadlinePassed("the deadline passed before a replica had computed the answer")
                )
            except (ray.exceptions.RayError, RayServeException) as error:
                self._handle_failure(batch, error)
                return await asyncio.sleep(pause)
        self._queue.complete(batch, answers, elapsed_seconds=loop.time() - start)

    async def _infer(
        self, model: DeployedModel, heads: Sequence[str], requests: Sequence[InferenceRequest], *, alone: bool = False
    ) -> list[bytes | SplitregError]:
        """Return the answers to requests or their errors.

        The features go from the body to the heads through Ray's object store, and not through this
        process.

        Args:
            model: where to run them.
            heads: heads to run.
            requests: with their packets.
            alone: do not run them together with other batches.
        """
        features = model.body.remote(list(requests), heads)
        without_packets = [
            InferenceRequest(images=request.images, answer_format=request.answer_format) for request in requests
        ]
        calls = [model.heads[head].remote(features, without_packets, alone) for head in heads]
        try:
            parts = await asyncio.gather(*calls)
        except BaseException:
            for call in (features, *calls):
                call.cancel()
            raise
        answers: list[bytes | SplitregError] = []
        for request, row in zip(requests, zip(*parts, strict=True), strict=True):
            error = next((part.error for part in row if part.error is not None), None)
            if error is not None:
                answers.append(error_from(None, error))
            else:
                written = {head: part.blobs for head, part in zip(heads, row, strict=True)}
                answers.append(request.answer_format.join_heads(written))
        return answers

    def _handle_failure(self, batch: list[Job], error: Exception) -> None:
        """Queue a batch again if its replica died; fail it if the replica raised an exception."""
        cause = getattr(error, "cause", None)
        if isinstance(error, ray.exceptions.RayTaskError) and not isinstance(cause, ray.exceptions.RayError):
            log("replica failed", logging.ERROR, reason=applications.last_line(error))
            self._queue.abort(batch, ServiceError("a replica failed; see its log"))
            return
        log("replica lost", logging.ERROR, model=batch[0].model, reason=applications.last_line(error))
        self._metrics.restarts.inc()
        self._queue.requeue(batch)

    async def _watch_replicas(self) -> None:
        while True:
            await asyncio.sleep(_COUNT_SECONDS)
            with contextlib.suppress(ray.exceptions.RayError, RayServeException, RuntimeError):
                await self._count_replicas()

    async def _count_replicas(self) -> None:
        names = [self._deployed[model_id].application for model_id in self._models]
        self._set_replicas(await applications.count_replicas(names))

    def _set_replicas(self, count: int) -> None:
        self._replicas = count
        self._metrics.workers.set(count)
