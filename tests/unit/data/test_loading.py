import os
import signal
from typing import ClassVar

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from splitreg import imaging
from splitreg.data.loading import Loader, LoaderOptions, Mixture, seeded
from splitreg.data.transforms import Augment
from splitreg.errors import DataError
from splitreg.imaging import Preprocess
from splitreg.specs import TargetSpec
from splitreg.tasks import BoxTarget, ClassTarget, ImageTarget, MaskTarget, Sample

PREPROCESS = Preprocess(size=(12, 16))


class Toy:
    """Picture i is of its own size and filled with i; no objects where i is a multiple of 3."""

    targets: ClassVar = {"cls": TargetSpec(task="classification", labels=("a", "b"))}

    def __init__(self, count=10, offset=0):
        self.count, self.offset = count, offset
        self.read = []

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.read.append(index)
        size = (8 + index % 3, 10)
        image = torch.full((3, *size), self.offset + index, dtype=torch.uint8)
        objects = min(1, index % 3)
        boxes = torch.tensor([[1.0, 2.0, 6.0, 7.0]])[:objects]
        return Sample(
            image=tv_tensors.Image(image),
            targets={
                "cls": ClassTarget(index=index % 2),
                "det": BoxTarget(
                    boxes=tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size),
                    labels=torch.zeros(objects, dtype=torch.int64),
                    crowd=torch.zeros(objects, dtype=torch.bool),
                    masks=tv_tensors.Mask(torch.ones(objects, *size, dtype=torch.bool)),
                ),
            },
            name=f"toy-{index}",
        )


class Other(Toy):
    targets: ClassVar = {"seg": TargetSpec(task="segmentation", labels=("x",))}

    def __getitem__(self, index):
        plain = super().__getitem__(index)
        mask = tv_tensors.Mask(torch.zeros(plain.image.shape[-2:], dtype=torch.int64))
        return Sample(image=plain.image, targets={"seg": MaskTarget(mask=mask)}, name=f"other-{index}")


def same(one, other):
    assert one.names == other.names
    assert one.indexes == other.indexes
    assert one.geometries == other.geometries
    assert torch.equal(one.images, other.images)
    assert one.targets.keys() == other.targets.keys()
    for a, b in zip(one.targets["det"], other.targets["det"], strict=True):
        assert torch.equal(a.boxes, b.boxes)
        assert type(a.boxes) is type(b.boxes) is tv_tensors.BoundingBoxes
        assert a.boxes.canvas_size == b.boxes.canvas_size
        assert torch.equal(a.masks, b.masks)
        assert type(b.masks) is tv_tensors.Mask
    return True


def loader(dataset=None, **options):
    options = LoaderOptions(**{"batch_size": 4, "seed": 5, **options})
    return Loader(Toy() if dataset is None else dataset, PREPROCESS, options)


def test_batches_hold_what_a_device_would_see():
    for batch in loader(shuffle=False, batch_size=3):
        for image, index, geometry, target in zip(
            batch.images, batch.indexes, batch.geometries, batch.targets["reconstruction"], strict=True
        ):
            wanted, place = imaging.prepare(Toy()[index].array(), PREPROCESS)
            assert (image.numpy() == wanted).all()
            assert geometry == place
            assert isinstance(target, ImageTarget)
            assert (imaging.normalise(target.image.permute(1, 2, 0).numpy(), PREPROCESS) == wanted).all()


def test_an_epoch_shows_every_sample_once_in_an_order_of_its_own():
    batches = loader()
    assert len(batches) == 3
    orders = [[i for batch in batches.epoch(e) for i in batch.indexes] for e in (0, 1, 0)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(10))
    assert orders[0] == orders[2] != orders[1]
    assert [i for b in loader(seed=6).epoch(0) for i in b.indexes] != orders[0]
    assert [i for b in loader(shuffle=False).epoch(3) for i in b.indexes] == list(range(10))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_epoch_is_the_rest_of_the_epoch(workers):
    augment = Augment(scale=(0.5, 2.0), colour=0.5)
    whole = list(loader(augment=augment).epoch(2))
    torch.manual_seed(123)  # what the program draws has no influence
    resumed_loader = loader(augment=augment, workers=workers)
    next(iter(resumed_loader.epoch(1)))  # nor has what was loaded before, even a part of it
    resumed = list(resumed_loader.epoch(2, start=1))
    assert len(resumed) == 2
    assert all(same(a, b) for a, b in zip(whole[1:], resumed, strict=True))


def test_skipped_batches_are_not_read():
    dataset = Toy()
    assert len(list(loader(dataset).epoch(0, start=2))) == 1
    assert len(dataset.read) == 2
    assert list(loader().epoch(0, start=3)) == []


def test_augmentation_differs_between_epochs_and_samples():
    batches = loader(Toy(64), augment=Augment(flip=0, scale=(0.5, 2.0), colour=0), batch_size=64)
    first, second = next(batches.epoch(0)), next(batches.epoch(1))
    sizes = {geometry.original for geometry in first.geometries}
    assert len(sizes) > 10
    by_index = [dict(zip(batch.indexes, batch.geometries, strict=True)) for batch in (first, second)]
    assert sum(by_index[0][i] == by_index[1][i] for i in range(64)) < 32


def test_the_programs_random_state_is_left_alone():
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    for _ in loader(augment=Augment()).epoch(0):
        pass
    with seeded(1, 2):
        torch.rand(5)
    assert torch.equal(torch.rand(3), wanted)


def test_seeded_depends_on_every_part_of_the_key():
    def draw(*key):
        with seeded(*key):
            return float(torch.rand(()))

    assert draw(1, 2, 3) == draw(1, 2, 3)
    assert len({draw(1, 2, 3), draw(2, 2, 3), draw(1, 3, 3), draw(1, 2, 4)}) == 4


@pytest.mark.parametrize("count", [10, 16, 3])
def test_ranks_share_an_epoch(count):
    ranks = [list(loader(Toy(count), batch_size=2, rank=rank, world_size=2).epoch(1)) for rank in range(2)]
    assert len(ranks[0]) == len(ranks[1])
    assert [len(batch) for batch in ranks[0]] == [len(batch) for batch in ranks[1]]
    seen = [i for rank in ranks for batch in rank for i in batch.indexes]
    assert set(seen) == set(range(count))
    assert len(seen) == count + count % 2
    one = [sorted(batch.indexes) for batch in loader(Toy(count), batch_size=4).epoch(1)]
    both = [sorted(a.indexes + b.indexes) for a, b in zip(*ranks, strict=True)]
    assert both[: count // 4] == one[: count // 4], "two ranks see the batches of one with twice the size"


def test_ranks_evaluate_every_sample_exactly_once():
    seen = [
        i
        for rank in range(3)
        for batch in loader(Toy(7), batch_size=2, shuffle=False, rank=rank, world_size=3)
        for i in batch.indexes
    ]
    assert sorted(seen) == list(range(7))


def test_drop_last_drops_what_is_not_full_but_never_all():
    assert [len(b) for b in loader(drop_last=True).epoch(0)] == [4, 4]
    assert [len(b) for b in loader(Toy(3), drop_last=True).epoch(0)] == [3]


def test_a_mixture_leaves_targets_out():
    mixture = Mixture([Toy(6), Other(4, offset=100)])
    assert set(mixture.targets) == {"cls", "seg"}
    (batch,) = loader(mixture, batch_size=10, shuffle=False).epoch(0)
    assert [t is None for t in batch.targets["cls"]] == [False] * 6 + [True] * 4
    assert [t is None for t in batch.targets["seg"]] == [True] * 6 + [False] * 4
    assert all(t is not None for t in batch.targets["reconstruction"])
    assert batch.names[5:7] == ("toy-5", "other-0")
    with pytest.raises(IndexError):
        mixture[10]


def test_weights_set_the_shares():
    mixture = Mixture([Toy(90), Other(10)], weights=[1, 1])
    indexes = [i for batch in loader(mixture, batch_size=50).epoch(0) for i in batch.indexes]
    assert len(indexes) == 100
    assert sum(i < 90 for i in indexes) == 50
    assert sorted(i for i in indexes if i >= 90) == sorted(list(range(90, 100)) * 5)
    assert indexes == [i for batch in loader(mixture, batch_size=50).epoch(0) for i in batch.indexes]
    again = [i for batch in loader(mixture, batch_size=50).epoch(1) for i in batch.indexes]
    assert indexes != again
    tiny = Mixture([Toy(90), Other(10)], weights=[1, 1e-6])
    assert len([i for batch in loader(tiny, batch_size=50).epoch(0) for i in batch.indexes]) == 100


def test_mixtures_that_contradict_themselves():
    class Strange(Toy):
        targets: ClassVar = {"cls": TargetSpec(task="classification", labels=("b", "a"))}

    with pytest.raises(DataError, match="'cls'"):
        Mixture([Toy(), Strange()])
    with pytest.raises(DataError, match="weights"):
        Mixture([Toy()], weights=[0.0])
    with pytest.raises(DataError, match="at least one"):
        Mixture([])


def test_a_batch_moves_whole():
    batch = next(loader(Mixture([Toy(4), Other(4)]), batch_size=8).epoch(0))
    moved = batch.to("meta")
    assert moved.images.device.type == "meta"
    assert {t.boxes.device.type for t in moved.targets["det"] if t} == {"meta"}
    assert {t.mask.device.type for t in moved.targets["seg"] if t} == {"meta"}
    assert moved.names == batch.names


def test_workers_give_the_same_batches():
    both = [list(loader(augment=Augment(), workers=workers).epoch(0)) for workers in (0, 1)]
    assert all(same(a, b) for a, b in zip(*both, strict=True))


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"rank": 1}, {"workers": -1}, {"seed": -1}])
def test_loaders_that_make_no_sense(wrong):
    with pytest.raises(DataError):
        loader(**wrong)


def test_an_empty_dataset():
    with pytest.raises(DataError, match="empty"):
        loader(Toy(0))


def test_images_are_float32():
    assert next(loader().epoch(0)).images.numpy().dtype == np.float32


def test_a_receiver_of_compressed_pictures_learns_from_what_the_codec_gives_at_the_inputs_size():
    from splitreg.data.image_codecs import compress

    class Noise(Toy):
        def __getitem__(self, index):
            generator = torch.Generator().manual_seed(index)
            image = torch.randint(0, 256, (3, 24, 32), generator=generator, dtype=torch.uint8)
            return Sample(image=tv_tensors.Image(image), targets={"cls": ClassTarget(index=0)})

    def first(**options):
        augment = Augment(flip=0, scale=(1, 1), colour=0, **options)
        loader = Loader(Noise(4), PREPROCESS, LoaderOptions(batch_size=4, shuffle=False, augment=augment))
        return next(iter(loader.epoch(0))).images.numpy()

    plain, coarse = first(), first(webp=(5, 5))
    for one, other in zip(plain, coarse, strict=True):
        unit = one.transpose(1, 2, 0) * PREPROCESS.std + PREPROCESS.mean
        pixels = np.rint(unit * 255).astype(np.uint8)
        expected = imaging.normalise(compress(pixels, "webp", 5)[0], PREPROCESS)
        np.testing.assert_array_equal(other, expected)


class Failing(Toy):
    """One sample cannot be read; one kills its process."""

    def __init__(self, failure):
        super().__init__()
        self.failure = failure

    def __getitem__(self, index):
        if index == 5:
            self.failure()
        return super().__getitem__(index)


def test_an_error_of_a_loading_process_stays_one_line():
    def fail():
        raise DataError("5.png is damaged")

    for workers in (0, 1):
        with pytest.raises(DataError) as caught:
            list(Loader(Failing(fail), PREPROCESS, LoaderOptions(batch_size=2, workers=workers)).epoch(0))
        assert str(caught.value) == "5.png is damaged"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGBUS])
def test_a_loading_process_that_dies_is_an_error_with_the_remedy(number):
    def die():
        os.kill(os.getpid(), number)

    loader = Loader(Failing(die), PREPROCESS, LoaderOptions(batch_size=2, workers=2))
    with pytest.raises(DataError, match="--workers 0.*/dev/shm") as caught:
        list(loader.epoch(0))
    assert "\n" not in str(caught.value)


def test_loading_processes_need_no_shared_memory(monkeypatch):
    def full(*args):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(torch.UntypedStorage, "_share_fd_cpu_", full)  # loading processes are forks of this one
    monkeypatch.setattr(torch.UntypedStorage, "_share_filename_cpu_", full)
    both = [list(Loader(Toy(), PREPROCESS, LoaderOptions(batch_size=2, workers=n)).epoch(0)) for n in (0, 2)]
    assert all(same(a, b) for a, b in zip(*both, strict=True))


def test_processes_that_cannot_start_are_an_error(monkeypatch):
    def full(*args, **options):
        raise OSError(28, "No space left on device")

    loader = Loader(Toy(), PREPROCESS, LoaderOptions(batch_size=2, workers=2))
    monkeypatch.setattr(type(loader._loader), "__iter__", full)
    with pytest.raises(DataError, match="No space left.*--workers 0"):
        list(loader.epoch(0))
