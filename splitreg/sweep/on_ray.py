"""Train points as tasks of a Ray cluster, which chooses machines and restarts tasks whose worker has died."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from splitreg.errors import MissingExtra, TrainingError
from splitreg.sweep.local import OnWorker
from splitreg.sweep.outcome import FAILED, Outcome
from splitreg.sweep.point import PointJob, train_point


def run_on_ray(points: Mapping[Path, PointJob], *, jobs: int, retries: int, on_worker: OnWorker) -> None:
    """Train points on a Ray cluster, where every machine must see the folders under the same path.

    Connects to the cluster in ``RAY_ADDRESS``, otherwise starts one on this machine with ``jobs`` CPUs.

    Args:
        points: folder -> job; the folders are absolute and prepared.
        jobs: points at a time, if the cluster is started here.
        retries: how often a point is continued whose worker died.
        on_worker: called at starts and ends.

    Raises:
        MissingExtra: Ray is not installed.
        TrainingError: no connection to the cluster.
    """
    ray = _import_ray()
    own = not ray.is_initialized()
    if own:
        _connect(ray, jobs)
    try:
        gpus = _gpus(ray, next(iter(points.values())).train.device)
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=retries)(_task)
        waiting = {task.remote(str(folder)): folder for folder in points}
        for folder in points:
            on_worker("start", folder)
        while waiting:
            (ready,), _ = ray.wait(list(waiting), num_returns=1)
            folder = waiting.pop(ready)
            try:
                ray.get(ready)
            except ray.exceptions.RayError as error:
                if Outcome.read(folder) is None:
                    lines = str(error).strip().splitlines()
                    message = f"its Ray worker died: {lines[-1] if lines else repr(error)}"
                    Outcome(status=FAILED, message=message).write(folder)
            on_worker("end", folder)
    finally:
        if own:
            ray.shutdown()


def _task(folder: str) -> None:
    train_point(Path(folder))


def _gpus(ray: Any, device: str) -> int:
    """Return the GPUs per point: one, if there is one and it is wanted. Ray hides GPUs that a task does not request."""
    return int(device != "cpu" and ray.cluster_resources().get("GPU", 0) >= 1)


def _import_ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError as cause:
        raise MissingExtra("a sweep on Ray needs ray, which is not installed; pip install 'splitreg[ray]'") from cause
    return ray


def _connect(ray: Any, jobs: int) -> None:
    try:
        if os.environ.get("RAY_ADDRESS"):
            ray.init(logging_level="warning", log_to_driver=False)
        else:
            ray.init(num_cpus=jobs, include_dashboard=False, logging_level="warning", log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as cause:
        raise TrainingError(
            f"no connection to a Ray cluster: {cause}; check RAY_ADDRESS, or unset it to start a cluster here"
        ) from cause
