"""Batches in an order that depends on (seed, epoch) alone, so that a resumed run is the run that was cut short.

Every sample is drawn under a random state of its own, made from (seed, epoch, position in the epoch): neither worker
processes nor what was drawn before can change it, and the program's own random state stays as it was.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from splitreg import imaging
from splitreg.data.batches import Batch, Item, collate, collate_packed, unpacked
from splitreg.data.transforms import Augment, FitInput
from splitreg.errors import DataError
from splitreg.imaging import Preprocess
from splitreg.specs import TargetSpec
from splitreg.tasks import Sample

__all__ = ["Batch", "Loader", "Mixture", "Source", "collate", "seeded"]


class Source(Protocol):
    """What a loader reads: a dataset, or a mixture of some."""

    @property
    def targets(self) -> Mapping[str, TargetSpec]:
        """Target name -> task and labels."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


@contextlib.contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Run a block under the CPU random state that ``key`` gives; the state of before comes back after it."""
    seed = int(np.random.SeedSequence([k % 2**63 for k in key]).generate_state(1, np.uint64)[0] >> np.uint64(1))
    before = torch.random.get_rng_state()
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed accelerators too
    try:
        yield
    finally:
        torch.random.set_rng_state(before)


class Mixture:
    """Several datasets as one; what a sample's own dataset does not give is missing from its targets.

    Args:
        datasets: at least one. A target name that two of them give must have the same task and labels.
        weights: share of each dataset in an epoch, of any sum; None: every sample once. With weights an epoch has as
            many samples as there are, some repeated and some left to later epochs.

    Raises:
        DataError: targets that contradict each other, or weights that do not fit.
    """

    def __init__(self, datasets: Sequence[Source], weights: Sequence[float] | None = None) -> None:
        if not datasets or not all(len(dataset) for dataset in datasets):
            raise DataError("a mixture needs at least one dataset, and none of them empty")
        if weights is not None and (len(weights) != len(datasets) or not all(0 < w < float("inf") for w in weights)):
            raise DataError(
                f"a mixture of {len(datasets)} datasets needs as many weights above zero, got {list(weights)}"
            )
        self.datasets, self.weights = tuple(datasets), weights
        self._ends = np.cumsum([len(dataset) for dataset in datasets])
        self.targets: dict[str, TargetSpec] = {}
        for dataset in datasets:
            for name, spec in dataset.targets.items():
                if self.targets.setdefault(name, spec) != spec:
                    raise DataError(
                        f"target {name!r} differs between the datasets of a mixture: {_brief(self.targets[name])} and "
                        f"{_brief(spec)}; mix only datasets that share its labels"
                    )

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        which = int(np.searchsorted(self._ends, index, side="right"))
        begin = int(self._ends[which - 1]) if which else 0
        return self.datasets[which][index - begin]

    def order(self, generator: torch.Generator) -> Tensor:
        """Return the (N,) indexes of one shuffled epoch."""
        if self.weights is None:
            return torch.randperm(len(self), generator=generator)
        shares = np.cumsum(np.asarray(self.weights, np.float64) / np.sum(self.weights))
        counts = np.diff(np.rint(shares * len(self)).astype(int), prepend=0)
        parts = []
        for dataset, end, count in zip(self.datasets, self._ends, counts, strict=True):
            rounds = -(-int(count) // len(dataset))
            drawn = [torch.randperm(len(dataset), generator=generator) for _ in range(rounds)]
            parts.append(torch.cat([*drawn, torch.zeros(0, dtype=torch.int64)])[:count] + int(end) - len(dataset))
        joined = torch.cat(parts)
        return joined[torch.randperm(len(joined), generator=generator)]


class Loader:
    """Batches of a dataset.

    ::

        loader = Loader(dataset, preprocess, batch_size=16, seed=1, augment=Augment(), workers=2)
        for batch in loader.epoch(3, start=40):    # exactly what epoch 3 gives from its batch 40 on
            ...

    Args:
        dataset: what is read.
        preprocess: the network's input.
        batch_size: samples a batch, on each rank.
        seed: of order and augmentation.
        shuffle: another order in every epoch; otherwise the dataset's.
        augment: changes samples before they are brought to size, e.g. ``Augment()``; draws from torch's CPU generator.
        workers: processes that load ahead; 0: none.
        rank: this process among ``world_size``. All ranks together see the batches of one with a ``world_size`` times
            larger batch.
        world_size: see ``rank``.
        drop_last: leave out a batch that is not full (unless it is the only one). Shuffled epochs on several ranks
            are filled up to the same length on all of them instead.
        reconstruction: give every sample its own picture as the target ``"reconstruction"``.

    Raises:
        DataError: an empty dataset, or numbers that make no sense.
    """

    def __init__(
        self,
        dataset: Source,
        preprocess: Preprocess,
        *,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        augment: Callable[[Sample], Sample] | None = None,
        workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
        reconstruction: bool = True,
    ) -> None:
        if not len(dataset):
            raise DataError("the dataset is empty: nothing to load")
        if batch_size < 1 or workers < 0 or seed < 0 or not 0 <= rank < world_size:
            raise DataError(
                "a loader needs batch_size >= 1, workers >= 0, seed >= 0 and 0 <= rank < world_size; "
                f"got {batch_size}, {workers}, {seed}, {rank} and {world_size}"
            )
        self.dataset, self.batch_size, self.seed, self.shuffle = dataset, batch_size, seed, shuffle
        self.rank, self.world_size, self.drop_last = rank, world_size, drop_last
        self._plan = _Plan()
        self._loader: DataLoader[Batch] = DataLoader(
            _View(dataset, FitInput(preprocess), augment, seed, reconstruction),  # type: ignore[arg-type]
            batch_sampler=self._plan,
            num_workers=workers,
            collate_fn=collate_packed if workers else collate,
            persistent_workers=workers > 0,
            generator=torch.Generator(),  # or it would draw from the program's own
            worker_init_fn=_one_thread,
        )

    def __len__(self) -> int:
        """Batches in an epoch, on this rank."""
        return len(self._batches(0))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Give the batches of an epoch from number ``start`` on; those before it are not loaded.

        One epoch of a loader runs at a time.
        """
        self._plan.batches = self._batches(epoch)[start:]
        for batch in self._loader:
            yield batch if isinstance(batch, Batch) else unpacked(*batch)

    def __iter__(self) -> Iterator[Batch]:
        """Epoch 0."""
        return self.epoch(0)

    def _batches(self, epoch: int) -> list[list[tuple[int, int, int]]]:
        """(epoch, position, index) of every sample of this rank, by batches."""
        order = self._order(epoch)
        if self.shuffle and len(order) % self.world_size:
            order += order[: self.world_size - len(order) % self.world_size] or order
        step = self.batch_size * self.world_size
        keys = [(epoch, position, index) for position, index in enumerate(order)]
        groups = [keys[begin : begin + step] for begin in range(0, len(keys), step)]
        if self.drop_last and len(groups) > 1 and len(groups[-1]) < step:
            del groups[-1]
        mine = [group[self.rank :: self.world_size] for group in groups]
        return [group for group in mine if group]

    def _order(self, epoch: int) -> list[int]:
        if not self.shuffle:
            return list(range(len(self.dataset)))
        state = np.random.SeedSequence([self.seed, epoch, 1]).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(state >> np.uint64(1)))
        if isinstance(self.dataset, Mixture):
            order = self.dataset.order(generator)
        else:
            order = torch.randperm(len(self.dataset), generator=generator)
        indexes: list[int] = order.tolist()
        return indexes


class _Plan:
    """The batches to load next; a worker gets its keys from here, so that it needs no state."""

    def __init__(self) -> None:
        self.batches: list[list[tuple[int, int, int]]] = []

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class _View:
    """The dataset by keys, at the input's size."""

    def __init__(
        self,
        dataset: Source,
        fit: FitInput,
        augment: Callable[[Sample], Sample] | None,
        seed: int,
        reconstruction: bool,
    ) -> None:
        self.dataset, self.fit, self.augment = dataset, fit, augment
        self.seed, self.reconstruction = seed, reconstruction

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int, int]) -> Item:
        epoch, position, index = key
        with seeded(self.seed, epoch, position, 2):
            sample = self.dataset[index]
            if self.augment is not None:
                sample = self.augment(sample)
            geometry = self.fit.geometry(sample)
            sample = self.fit(sample)
            if isinstance(self.augment, Augment):
                sample = self.augment.sent(sample)
        image = imaging.normalise(sample.array(), self.fit.preprocess)
        if self.reconstruction:
            sample = sample.with_reconstruction()
        return Item(sample=sample, geometry=geometry, index=index, image=image)


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)  # workers share the cores with training
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def _brief(spec: TargetSpec) -> str:
    return f"{spec.task} of {len(spec.labels)} labels ({', '.join(spec.labels[:3])}...)"
