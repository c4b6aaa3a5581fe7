"""splitreg's own suites on this package's plugins: one test per check."""

import torch
from splitreg_keypoints.points import KeypointTarget
from torchvision import tv_tensors

from splitreg.testing import BottleneckSuite, DatasetSuite, HeadSuite


class TestHead(HeadSuite):
    component = "keypoints"
    options = {"hidden": 8}
    labels = ("left", "middle", "right")

    def make_target(self, seed):
        generator = torch.Generator().manual_seed(seed)
        height, width = self.size
        points = torch.rand(3, 2, generator=generator) * torch.tensor([width, height])
        return self._target(points, visible=True)

    def make_empty_target(self):
        return self._target(torch.full((3, 2), float("nan")), visible=False)

    def _target(self, points, visible):
        return KeypointTarget(
            points=tv_tensors.KeyPoints(points, canvas_size=self.size), visible=torch.full((3,), visible)
        )


class TestBottleneck(BottleneckSuite):
    component = "average"
    options = {"channels": 4}


class TestDataset(DatasetSuite):
    component = "corners"
    options = {"count": 12, "size": 48}
