import pytest
import torch
from torchvision import tv_tensors

from splitreg.data.augmentations import NAMES, NamedTransforms
from splitreg.errors import RecipeError
from splitreg.imaging import FILL
from splitreg.tasks import IGNORE, BoxTarget, DepthTarget, MaskTarget, Sample
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


@pytest.mark.parametrize("item", [
    {"name": "RandomRotation", "degrees": [30, 30]}, {"name": "RandomZoomOut", "p": 1.0},
    {"name": "RandomPerspective", "p": 1.0}, {"name": "RandomAffine", "degrees": 0, "translate": [0.5, 0.5]},
    {"name": "RandomRotation", "degrees": [30, 30], "fill": 200},
])  # fmt: skip
def test_the_border_is_unknown_in_every_target(item):
    depth = DepthTarget(depth=tv_tensors.Mask(torch.full((40, 60), 2.125)))
    classes = MaskTarget(mask=tv_tensors.Mask(torch.ones((40, 60), dtype=torch.int64)))
    white = tv_tensors.Image(torch.full((3, 40, 60), 255, dtype=torch.uint8))
    torch.manual_seed(1)
    changed = NamedTransforms([item])(Sample(image=white, targets={"depth": depth, "segmentation": classes}))
    depth, mask = changed.targets["depth"].depth, changed.targets["segmentation"].mask
    assert set(depth.unique().tolist()) == {0, 2.125} and set(mask.unique().tolist()) == {1, IGNORE}
    assert torch.equal(depth.as_subclass(torch.Tensor) == 0, mask.as_subclass(torch.Tensor) == IGNORE)
    assert changed.image.as_subclass(torch.Tensor)[0][mask == IGNORE].median() == item.get("fill", FILL)


def test_a_crop_by_boxes_leaves_samples_without_boxes():
    plain = Sample(image=sample().image, targets={"segmentation": sample().targets["segmentation"], "detection": None})
    assert NamedTransforms(["RandomIoUCrop"])(plain) is plain


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
        ({"transforms": [{"name": "RandomPosterize", "bits": "a"}]}, "RandomPosterize"),
        ({"transforms": [{"name": "RandomResizedCrop", "size": "a"}]}, "RandomResizedCrop"),
        ({"scale": 2}, "scale is"),
        ({"scale": [1, "a"]}, "scale is"),
        ({"mosaik": 1}, "mosaik.*mosaic"),
    ],
)
def test_wrong_names_and_options(options, fact):
    with pytest.raises(RecipeError, match=fact):
        augmentation(options)
