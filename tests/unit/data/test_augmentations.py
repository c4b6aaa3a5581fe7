import pytest
import torch
from torchvision import tv_tensors

from splitreg.data.augmentations import NAMES, NamedTransforms
from splitreg.errors import RecipeError
from splitreg.tasks import IGNORE, BoxTarget, MaskTarget, Sample
from splitreg.training.data import augmentation


def sample():
    """A white square on black, with its box, its instance mask and its semantic mask."""
    image = torch.zeros(3, 40, 60, dtype=torch.uint8)
    image[:, 10:20, 30:50] = 255
    square = image[0] == 255
    boxes = BoxTarget(
        boxes=tv_tensors.BoundingBoxes(torch.tensor([[30.0, 10, 50, 20]]), format="XYXY", canvas_size=(40, 60)),
        labels=torch.tensor([0]), crowd=torch.tensor([False]), masks=tv_tensors.Mask(square[None]),
    )  # fmt: skip
    masks = MaskTarget(mask=tv_tensors.Mask(square.long()))
    return Sample(image=tv_tensors.Image(image), targets={"detection": boxes, "segmentation": masks}, name="a")


@pytest.mark.parametrize("name", NAMES)
def test_every_transform_moves_image_and_targets_alike(name):
    needed = {"RandomAffine": {"degrees": 20}, "RandomRotation": {"degrees": 20}, "RandomPosterize": {"bits": 4},
              "RandomSolarize": {"threshold": 128.0}, "RandomAdjustSharpness": {"sharpness_factor": 2.0},
              "GaussianBlur": {"kernel_size": 3}, "RandomResizedCrop": {"size": [40, 60]}}  # fmt: skip
    transform = NamedTransforms([{"name": name, **needed.get(name, {})}])
    for seed in range(5):
        torch.manual_seed(seed)
        changed = transform(sample())
        boxes, mask = changed.targets["detection"], changed.targets["segmentation"].mask
        assert changed.image.dtype == torch.uint8 and boxes.masks.dtype == torch.bool and mask.dtype == torch.int64
        assert changed.image.shape[-2:] == mask.shape == boxes.masks.shape[-2:] == boxes.boxes.canvas_size
        assert set(mask.unique().tolist()) <= {0, 1, IGNORE}
        if len(boxes.masks) and boxes.masks.any():
            assert ((mask == 1) == boxes.masks[0]).float().mean() > 0.98


def test_a_geometric_transform_moves_pixels_with_their_masks():
    torch.manual_seed(1)
    changed = NamedTransforms([{"name": "RandomHorizontalFlip", "p": 1.0}])(sample())
    assert changed.targets["detection"].boxes.tolist() == [[10.0, 10.0, 30.0, 20.0]]
    assert ((changed.image[0] == 255) == changed.targets["segmentation"].mask.bool()).all()


def test_a_preset_gives_the_values_that_are_not_set():
    augment = augmentation({"preset": "light", "flip": 0.0})
    assert augment.flip == 0.0 and augment.scale == (0.8, 1.25)
    assert augmentation({"preset": "segmentation"}).named.transforms
    assert augmentation({"preset": "detection", "transforms": ["RandomGrayscale"]})(sample()).image.shape[0] == 3


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ({"preset": "lihgt"}, "light"),
        ({"transforms": ["RandomRotatoin"]}, "RandomRotation"),
        ({"transforms": [{"name": "RandomRotation", "degree": 3}]}, "degrees"),
        ({"transforms": [{"name": "RandomRotation"}]}, "degrees"),
        ({"transforms": ["ToDtype"]}, "ToDtype"),
        ({"mosaik": 1}, "mosaik.*mosaic"),
    ],
)
def test_wrong_names_and_options(options, fact):
    with pytest.raises(RecipeError, match=fact):
        augmentation(options)
