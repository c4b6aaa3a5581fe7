"""Points as tasks of a Ray cluster: Ray finds machines for them, and starts one anew whose worker died."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from splitreg.errors import MissingExtra, TrainingError
from splitreg.sweep.local import OnWorker
from splitreg.sweep.point import FAILED, Outcome, train_point


def run_on_ray(folders: Sequence[Path], *, jobs: int, retries: int, on_worker: OnWorker) -> None:
    """Train the points of prepared folders, which every machine of the cluster must see under the same path.

    Connects to the cluster that ``RAY_ADDRESS`` names, else starts one on this machine with ``jobs`` places.

    Args:
        folders: of the points, absolute.
        jobs: points at a time, where the cluster is started here.
        retries: how often a point goes on whose worker died.
        on_worker: told of starts and ends.

    Raises:
        MissingExtra: Ray is not installed.
        TrainingError: the cluster cannot be reached.
    """
    ray = _ray()
    ours = not ray.is_initialized()
    if ours:
        _connect(ray, jobs)
    try:
        gpus = _gpus(ray, folders[0])
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=retries)(_task)
        waiting = {task.remote(str(folder)): folder for folder in folders}
        for folder in folders:
            on_worker("start", folder)
        while waiting:
            (ready,), _ = ray.wait(list(waiting), num_returns=1)
            folder = waiting.pop(ready)
            try:
                ray.get(ready)
            except ray.exceptions.RayError as error:
                if Outcome.read(folder) is None:
                    said = str(error).strip().splitlines()
                    Outcome(status=FAILED, message=f"its Ray worker died: {said[-1] if said else error!r}").write(
                        folder
                    )
            on_worker("end", folder)
    finally:
        if ours:
            ray.shutdown()


def _task(folder: str) -> None:
    train_point(Path(folder))


def _gpus(ray: Any, folder: Path) -> int:
    """A whole accelerator a point, where there is one and it is wanted; Ray hides what a task does not ask for."""
    device = json.loads((folder / "point.json").read_text(encoding="utf-8"))["settings"]["device"]
    return int(device != "cpu" and ray.cluster_resources().get("GPU", 0) >= 1)


def _ray() -> Any:
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
        raise TrainingError(f"no Ray cluster: {cause}; check RAY_ADDRESS, or leave it out to start one here") from cause
