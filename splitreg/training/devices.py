"""Devices and processes of a run: one process, or several started by ``torchrun``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor

from splitreg.errors import TrainingError
from splitreg.training.step import StepBatch


def world_size() -> int:
    """Return the number of processes, from the environment of ``torchrun``."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1


def rank() -> int:
    """Return the number of this process among them."""
    return int(os.environ.get("RANK", "0")) if world_size() > 1 else 0


def check_device(device: str) -> None:
    """Check the name of a device, and that this machine has one.

    Raises:
        TrainingError: it has not.
    """
    available = {"auto": True, "cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device not in available:
        raise TrainingError(f"device must be {', '.join(available)}; got {device!r}")
    if not available[device]:
        raise TrainingError(f"torch finds no device {device!r} on this machine; use cpu or auto")


def open_fabric(device: str, precision: str) -> Fabric:
    """Set up this process.

    Args:
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        precision: as in a recipe, e.g. ``"32-true"``.

    Raises:
        TrainingError: there is no such device.
    """
    check_device(device)
    world = world_size()
    local = int(os.environ.get("LOCAL_WORLD_SIZE", str(world))) if world > 1 else 1
    # if no image in the batch of one process has a head's target, the head's weights are unused there
    strategy: Any = DDPStrategy(find_unused_parameters=True) if world > 1 else "auto"
    options: dict[str, Any] = {"strategy": strategy, "precision": precision}
    try:
        fabric = Fabric(accelerator=device, devices=local, num_nodes=world // local, **options)
    except Exception as cause:  # Lightning raises several types for a missing device
        raise TrainingError(f"cannot train on device {device!r}: {cause}") from cause
    fabric.launch()
    return fabric


def leave() -> None:
    """Leave the process group after a run: wait for all processes, so that the files of rank 0 are complete.

    A process that exits with an open group is sometimes aborted.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def seed_step(device: torch.device, seed: int) -> None:
    """Seed dropout and noise. Every step has its own seed, so no random state needs to be saved.

    ``torch.manual_seed`` would seed every backend, which takes longer than the seeding itself.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def balance(fabric: Fabric, batch: StepBatch, heads: Sequence[str]) -> dict[str, Tensor]:
    """Return head -> weight of the loss in this process.

    With it, the mean over processes of the mean loss is the mean over all images that have a target.
    """
    counts = torch.tensor([float(len(batch.targets.get(head, ()))) for head in heads], device=batch.images.device)
    total = fabric.all_reduce(counts.clone(), reduce_op="sum")
    weights = counts * fabric.world_size / total.clamp(min=1)  # type: ignore[union-attr]
    return dict(zip(heads, weights.unbind(), strict=True))
