"""The interface between the service and whatever computes its answers."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from splitreg.errors import SplitregError
from splitreg.serving.logs import log
from splitreg.wire import error_body

if TYPE_CHECKING:
    from splitreg.serving.config import ServeConfig
    from splitreg.serving.jobs import Job
    from splitreg.serving.metrics import Metrics


class Backend(Protocol):
    """Computes the answers of a service.

    There are two implementations: ``splitreg.serving.local.LocalBackend`` (worker processes on
    this machine) and ``splitreg.serving.on_ray.backend.RayBackend`` (deployments on a Ray cluster).
    Both put jobs into a ``BatchQueue``, so limits, batching and deadlines are the same.

    A backend is used from one event loop and lives as long as its service. Every job that
    ``submit`` accepts gets a result or an error, whatever happens to workers and across reloads.
    """

    @property
    def models(self) -> Mapping[str, dict[str, Any]]:
        """Model id -> entry of ``/v1/models``; empty until started, a new object after a reload."""

    @property
    def ready(self) -> bool:
        """Whether at least one worker, or one replica of every deployment, is running."""

    async def start(self) -> None:
        """Load the bundles and wait until jobs can be computed.

        Raises:
            BundleError: a bundle cannot be loaded, or its workers do not start.
            RecipeError: none of the bundles has a requested head, or an option is invalid.
        """

    def submit(self, job: Job) -> None:
        """Queue a job; its result or error arrives in ``job.done``.

        Raises:
            Unavailable: the queue is full, or the result would come after the job's deadline.
        """

    def cancel(self, job: Job) -> None:
        """Drop a job whose client has disconnected; a job that already runs is not affected."""

    async def reload(self) -> None:
        """Load the bundles again and switch to them once they are ready.

        Jobs that were accepted before still get their result.

        Raises:
            SplitregError: the bundles cannot be loaded; the previous ones remain in use.
        """

    async def drain(self) -> None:
        """Wait until every accepted job has its result."""

    async def close(self) -> None:
        """Stop computing and release workers or deployments; jobs that still run get an error."""


CreateBackend = Callable[["ServeConfig", "Metrics"], Backend]


@contextlib.contextmanager
def record_reload(backend: Backend, metrics: Metrics) -> Iterator[None]:
    """Count and log how the reload in this block ends."""
    try:
        yield
    except SplitregError as error:
        metrics.reloads.labels("failed").inc()
        log("reload failed", logging.ERROR, **error_body(error))
        raise
    metrics.reloads.labels("done").inc()
    log("reloaded", models=list(backend.models))
