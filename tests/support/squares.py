"""Images of one square, with its box, outline and pixels."""

import torch
from torchvision import tv_tensors

from splitreg.tasks import BoxTarget, MaskTarget, Sample


def square(value, size=(40, 60), side=20):
    """An image with one bright square on a dark ground, its box, its outline and its pixels."""
    height, width = size
    image = torch.full((3, height, width), 10, dtype=torch.uint8)
    top, left = (height - side) // 2, (width - side) // 2
    image[:, top : top + side, left : left + side] = value
    mask = (image[0] == value).long()
    return Sample(
        image=tv_tensors.Image(image),
        targets={
            "detection": BoxTarget(
                boxes=tv_tensors.BoundingBoxes(
                    torch.tensor([[left, top, left + side, top + side]]).float(), format="XYXY", canvas_size=size
                ),
                labels=torch.tensor([value]), crowd=torch.tensor([False]),
                masks=tv_tensors.Mask(mask.bool()[None]),
            ),
            "segmentation": MaskTarget(mask=tv_tensors.Mask(mask * value)),
        },
        name=str(value),
    )  # fmt: skip


VALUES = (100, 150, 200, 250)


class Squares:
    targets: dict = {}

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return square(VALUES[index])
