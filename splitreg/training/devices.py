"""Where a run computes: one process on the best device, or one of several that ``torchrun`` started."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor

from splitreg.errors import TrainingError
from splitreg.training.step import Work


def world_size() -> int:
    """Processes of this run, as ``torchrun`` tells."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1


def rank() -> int:
    """Number of this process among them."""
    return int(os.environ.get("RANK", "0")) if world_size() > 1 else 0


def fabric(device: str, precision: str) -> Fabric:
    """Set up this process; ``device`` is ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.

    Raises:
        TrainingError: there is no such device.
    """
    world = world_size()
    local = int(os.environ.get("LOCAL_WORLD_SIZE", str(world))) if world > 1 else 1
    # a head may find no target in the batch of one process: its weights are then unused there
    strategy: Any = DDPStrategy(find_unused_parameters=True) if world > 1 else "auto"
    options: dict[str, Any] = {"strategy": strategy, "precision": precision}
    try:
        made = Fabric(accelerator=device, devices=local, num_nodes=world // local, **options)
    except Exception as cause:  # lightning raises several kinds for a device that is not there
        raise TrainingError(f"cannot train on device {device!r}: {cause}") from cause
    made.launch()
    return made


def leave() -> None:
    """Part from the other processes after a run: all wait for the last one, the first one's files are then there.

    (A process that ends with its group open is aborted now and then.)
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def seed_step(device: torch.device, seed: int) -> None:
    """Seed what draws dropout and noise: every step has its own seed, so no random state has to be saved.

    (``torch.manual_seed`` would visit every backend there is, which costs more than the seeding itself.)
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def balance(made: Fabric, work: Work, heads: Sequence[str]) -> dict[str, Tensor]:
    """Return head -> weight of this process's mean loss, such that the mean over processes is the mean over images."""
    counts = torch.tensor([float(len(work.targets.get(head, ()))) for head in heads], device=work.images.device)
    total = made.all_reduce(counts.clone(), reduce_op="sum")
    weights = counts * made.world_size / total.clamp(min=1)  # type: ignore[union-attr]
    return dict(zip(heads, weights.unbind(), strict=True))
