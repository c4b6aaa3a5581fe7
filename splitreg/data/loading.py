"""Data loading with an order that depends on (seed, epoch) alone, so that a run can be resumed exactly.

Each sample has a random state of its own, derived from (seed, epoch, position in the epoch). The number
of workers and earlier random numbers do not change it, and the program's random state is left alone.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling

from splitreg.data.batches import LOADER_REMEDY, Batch, Item, collate, collate_packed, unpacked
from splitreg.data.transforms import Augment, FitInput
from splitreg.errors import DataError, SplitregError
from splitreg.imaging import Preprocess
from splitreg.specs import TargetSpec
from splitreg.tasks import RECONSTRUCTION, Sample

__all__ = ["Batch", "Loader", "LoaderOptions", "Mixture", "OrderedSource", "Source", "collate", "seeded"]


class Source(Protocol):
    """A dataset, or a mixture of datasets."""

    @property
    def targets(self) -> Mapping[str, TargetSpec]:
        """Target name -> task and labels."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


class OrderedSource(Source, Protocol):
    """A dataset that decides which samples an epoch has."""

    def order(self, generator: torch.Generator, count: int | None = None) -> Tensor:
        """Return the (count,) indexes of one shuffled epoch; ``count`` is the size of the dataset by default."""
        ...


@contextlib.contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Run a block with the CPU random state of ``key``; restores the previous state afterwards."""
    seed = int(np.random.SeedSequence([k % 2**63 for k in key]).generate_state(1, np.uint64)[0] >> np.uint64(1))
    before = torch.random.get_rng_state()
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed accelerators too
    try:
        yield
    finally:
        torch.random.set_rng_state(before)


class Mixture:
    """Several datasets as one. A sample has only the targets of its own dataset.

    Args:
        datasets: at least one. A target name in two of them must have the same task and labels.
        weights: share of each dataset in an epoch, of any sum; None: every sample once. With weights, an
            epoch has as many samples as the datasets together; some come twice, some not at all.

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
                        f"target {name!r} differs between the datasets of a mixture: {_describe(self.targets[name])} "
                        f"and {_describe(spec)}; mix only datasets that share its labels"
                    )

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        which = int(np.searchsorted(self._ends, index, side="right"))
        begin = int(self._ends[which - 1]) if which else 0
        return self.datasets[which][index - begin]

    def order(self, generator: torch.Generator, count: int | None = None) -> Tensor:
        """Return the (count,) indexes of one shuffled epoch; ``count`` is the number of samples by default."""
        count = len(self) if count is None else count
        if self.weights is None and count == len(self) and not any(map(_ordered, self.datasets)):
            return torch.randperm(len(self), generator=generator)
        sizes = [len(dataset) for dataset in self.datasets]
        shares = np.asarray(sizes if self.weights is None else self.weights, np.float64)
        counts = np.diff(np.rint(np.cumsum(shares / np.sum(shares)) * count).astype(int), prepend=0)
        parts = [
            _epoch_order(dataset, generator, int(drawn)) + int(end) - len(dataset)
            for dataset, end, drawn in zip(self.datasets, self._ends, counts, strict=True)
        ]
        joined = torch.cat(parts)
        return joined[torch.randperm(len(joined), generator=generator)]


def _ordered(dataset: Source) -> bool:
    return callable(getattr(type(dataset), "order", None))


def _epoch_order(dataset: Source, generator: torch.Generator, count: int) -> Tensor:
    """Return ``count`` shuffled indexes: every sample equally often, or as the dataset decides."""
    if _ordered(dataset):
        return cast("OrderedSource", dataset).order(generator, count)
    rounds = -(-count // len(dataset))
    drawn = [torch.randperm(len(dataset), generator=generator) for _ in range(rounds)]
    return torch.cat([*drawn, torch.zeros(0, dtype=torch.int64)])[:count]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderOptions:
    """How a ``Loader`` reads a dataset.

    Args:
        batch_size: samples per batch on each rank.
        seed: seed of order and augmentation.
        shuffle: use another order in every epoch; otherwise the dataset's order.
        augment: changes samples before they are resized, e.g. ``Augment()``; uses torch's CPU generator.
        targets: names of the targets to keep; None keeps all. Saves the work of transforming the others.
        workers: loading processes; 0 loads in this process.
        rank: this process among ``world_size``. Together, all ranks see the batches of one process with
            a ``world_size`` times larger batch.
        world_size: number of processes.
        drop_last: leave out the last batch if it is not full, unless it is the only one. Shuffled epochs
            on several ranks are padded, so that all ranks take the same number of steps.

    Raises:
        DataError: a value out of range.
    """

    batch_size: int
    seed: int = 0
    shuffle: bool = True
    augment: Callable[[Sample], Sample] | None = None
    targets: frozenset[str] | None = None
    workers: int = 0
    rank: int = 0
    world_size: int = 1
    drop_last: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.workers < 0 or self.seed < 0 or not 0 <= self.rank < self.world_size:
            raise DataError(
                "a loader needs batch_size >= 1, workers >= 0, seed >= 0 and 0 <= rank < world_size; got "
                f"{self.batch_size}, {self.workers}, {self.seed}, {self.rank} and {self.world_size}"
            )


class Loader:
    """Batches of a dataset.

    ::

        loader = Loader(dataset, preprocess, LoaderOptions(batch_size=16, seed=1, augment=Augment()))
        for batch in loader.epoch(3, start=40):    # epoch 3, from batch 40 on
            ...

    Args:
        dataset: where samples come from.
        preprocess: size, mode and normalisation of the network's input.
        options: how to read it.

    Raises:
        DataError: the dataset is empty.
    """

    def __init__(self, dataset: Source, preprocess: Preprocess, options: LoaderOptions) -> None:
        if not len(dataset):
            raise DataError("the dataset is empty")
        self.dataset, self.options = dataset, options
        self._plan, self._preprocess = _Plan(), preprocess
        self._loader: DataLoader[Batch] = DataLoader(
            _Items(dataset, FitInput(preprocess), options),  # type: ignore[arg-type]
            batch_sampler=self._plan,
            num_workers=options.workers,
            collate_fn=collate_packed if options.workers else functools.partial(collate, preprocess=preprocess),
            persistent_workers=options.workers > 0,
            generator=torch.Generator(),  # otherwise it would draw from the program's own
            worker_init_fn=_one_thread,
        )

    def __len__(self) -> int:
        """Return the number of batches per epoch on this rank."""
        return len(self._batches(0))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from number ``start`` on; earlier ones are not loaded.

        Only one epoch of a loader can run at a time.

        Raises:
            DataError: an image cannot be read, or a loading process died.
        """
        self._plan.batches = self._batches(epoch)[start:]
        batches = None
        while True:
            try:
                batches = iter(self._loader) if batches is None else batches
                batch = next(batches, None)
            except (RuntimeError, OSError) as cause:
                if isinstance(cause, RuntimeError) and "DataLoader worker" not in str(cause):
                    raise
                _stop(batches)
                reason = str(cause).splitlines()[0].rstrip(". ")
                raise DataError(f"a loading process died: {reason}; {LOADER_REMEDY}") from cause
            if batch is None:
                return
            if isinstance(batch, SplitregError):
                raise batch
            if isinstance(batch, Batch):
                yield batch
            else:
                yield unpacked(batch, self._preprocess)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of epoch 0."""
        return self.epoch(0)

    def _batches(self, epoch: int) -> list[list[tuple[int, int, int]]]:
        """Return the batches of this rank as lists of (epoch, position, index)."""
        options, order = self.options, self._order(epoch)
        if options.shuffle and len(order) % options.world_size:
            order += order[: options.world_size - len(order) % options.world_size] or order
        step = options.batch_size * options.world_size
        keys = [(epoch, position, index) for position, index in enumerate(order)]
        groups = [keys[begin : begin + step] for begin in range(0, len(keys), step)]
        if options.drop_last and len(groups) > 1 and len(groups[-1]) < step:
            del groups[-1]
        shares = [group[options.rank :: options.world_size] for group in groups]
        return [group for group in shares if group]

    def _order(self, epoch: int) -> list[int]:
        if not self.options.shuffle:
            return list(range(len(self.dataset)))
        state = np.random.SeedSequence([self.options.seed, epoch, 1]).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(state >> np.uint64(1)))
        indexes: list[int] = _epoch_order(self.dataset, generator, len(self.dataset)).tolist()
        return indexes


class _Plan:
    """The batches to load next. Workers get keys from here, so they need no state."""

    def __init__(self) -> None:
        self.batches: list[list[tuple[int, int, int]]] = []

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class _Items:
    """The samples of a dataset by key, at the size of the network's input."""

    def __init__(self, dataset: Source, fit: FitInput, options: LoaderOptions) -> None:
        self.dataset, self.fit, self.options = dataset, fit, options

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int, int]) -> Item | SplitregError:
        if not self.options.workers:
            return self._read(key)
        try:
            return self._read(key)
        except SplitregError as error:
            return error

    def _read(self, key: tuple[int, int, int]) -> Item:
        epoch, position, index = key
        augment, targets = self.options.augment, self.options.targets
        with seeded(self.options.seed, epoch, position, 2):
            sample = self._sample(index)
            if isinstance(augment, Augment):
                sample = augment.combined(sample, self._random)
            if augment is not None:
                sample = augment(sample)
            geometry = self.fit.geometry(sample)
            sample = self.fit(sample)
            if isinstance(augment, Augment):
                sample = augment.recompress(sample)
        image = sample.array()
        if targets is None or RECONSTRUCTION in targets:
            sample = sample.with_reconstruction()
        return Item(sample=sample, geometry=geometry, index=index, image=image)

    def _sample(self, index: int) -> Sample:
        """Return a sample with the targets that are used."""
        sample, targets = self.dataset[index], self.options.targets
        if targets is None:
            return sample
        return replace(sample, targets={name: sample.targets[name] for name in sample.targets if name in targets})

    def _random(self) -> Sample:
        return self._sample(int(torch.randint(0, len(self.dataset), ())))


def _stop(batches: object) -> None:
    """End the other loading processes; torch would do it later, with the same error once more.

    Its signal handler may raise that error again at any line, until the processes are forgotten.
    """
    for _ in range(3):
        with contextlib.suppress(RuntimeError, ValueError, AttributeError):
            batches._shutdown_workers()  # type: ignore[attr-defined]
    with contextlib.suppress(RuntimeError, ValueError, AttributeError):
        signal_handling._remove_worker_pids(id(batches))  # type: ignore[attr-defined]


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)  # workers share the cores with training
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def _describe(spec: TargetSpec) -> str:
    return f"{spec.task} of {len(spec.labels)} labels ({', '.join(spec.labels[:3])}...)"
