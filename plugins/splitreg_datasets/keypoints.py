"""Keypoints of a COCO JSON: the names that its categories list, and the points of each object."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torchvision import tv_tensors

from splitreg.errors import DataError
from splitreg.files import is_finite
from splitreg.specs import TargetSpec
from splitreg.tasks import POSE, PoseTarget
from splitreg_datasets.files import read_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Keypoints:
    """What the categories of a COCO JSON say about keypoints.

    Args:
        path: of the JSON.
        classes: category id -> class index, of the categories that have keypoints.
        labels: names of these categories, by class index.
        names: names of the K keypoints.
        mirror: index of each keypoint's counterpart in a mirrored image, by ``left`` and ``right`` in the names.
    """

    path: Path
    classes: Mapping[int, int]
    labels: tuple[str, ...]
    names: tuple[str, ...]
    mirror: tuple[int, ...]

    def spec(self) -> TargetSpec:
        """Return the target."""
        return TargetSpec(task=POSE, labels=self.labels)

    def target(self, objects: Sequence[tuple[dict[str, Any], Sequence[float]]], size: tuple[int, int]) -> PoseTarget:
        """Return the objects of the categories with keypoints.

        Args:
            objects: annotations, each with its box inside the image: x0, y0, x1, y1.
            size: (height, width) of the image.

        Raises:
            DataError: an object has another number of values than three per keypoint.
        """
        posed = [(item, box) for item, box in objects if item["category_id"] in self.classes]
        rows = torch.tensor([self._points(item) for item, _ in posed], dtype=torch.float32)
        rows = rows.reshape(-1, len(self.names), 3)
        boxes = torch.tensor([box for _, box in posed], dtype=torch.float32).reshape(-1, 4)
        return PoseTarget(
            boxes=tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size),
            labels=torch.tensor([self.classes[item["category_id"]] for item, _ in posed], dtype=torch.int64),
            crowd=torch.tensor([bool(item.get("iscrowd", 0)) for item, _ in posed], dtype=torch.bool),
            points=tv_tensors.KeyPoints(rows[..., :2], canvas_size=size),
            visible=rows[..., 2] > 0, mirror=self.mirror,
        )  # fmt: skip

    def _points(self, item: Mapping[str, Any]) -> list[float]:
        count = 3 * len(self.names)
        values = item.get("keypoints") or [0.0] * count  # crowds, and objects that nobody annotated
        valid = isinstance(values, list) and all(map(is_finite, values))
        if not valid or len(values) != count:
            raise DataError(
                f"{self.path}: annotation {item.get('id')} has the keypoints {str(values)[:80]}; expected x, y and "
                f"visibility for each of {len(self.names)}: {count} numbers"
            )
        return values


def read_keypoints(path: Path, categories: Mapping[int, str]) -> Keypoints | None:
    """Return the keypoints of a COCO JSON; None if no category has some.

    Args:
        path: of the JSON.
        categories: id -> name, of the categories that the dataset reads.

    Raises:
        DataError: a category's list holds something else than different names, or two categories have different lists.
    """
    lists: dict[int, tuple[str, ...]] = {}
    for category in read_json(path)["categories"]:
        names = category.get("keypoints")
        if names and category["id"] in categories:
            if not isinstance(names, list) or not all(isinstance(n, str) for n in names) or len({*names}) < len(names):
                raise DataError(
                    f"{path}: keypoints of category {category['name']} must be different names; got {names}"
                )
            lists[category["id"]] = tuple(names)
    if not lists:
        return None
    identities = sorted(lists)
    first, *others = identities
    for other in others:
        if lists[other] != lists[first]:
            raise DataError(
                f"{path}: the categories {categories[first]} and {categories[other]} have different keypoints, "
                f"{len(lists[first])} and {len(lists[other])}; the target pose has one list, so put them into two files"
            )
    return Keypoints(
        path=path, classes={identity: index for index, identity in enumerate(identities)},
        labels=tuple(categories[identity] for identity in identities), names=lists[first], mirror=mirror(lists[first]),
    )  # fmt: skip


def mirror(names: Sequence[str]) -> tuple[int, ...]:
    """Return the index of each name's counterpart: the one with ``left`` and ``right`` exchanged, or itself.

    >>> mirror(["nose", "left_eye", "Right_eye", "right_eye"])
    (0, 3, 2, 1)
    """
    other = {"left": "right", "right": "left", "Left": "Right", "Right": "Left", "LEFT": "RIGHT", "RIGHT": "LEFT"}
    places = {name: place for place, name in enumerate(names)}
    swapped = (re.sub("|".join(other), lambda found: other[found.group()], name) for name in names)
    return tuple(places.get(name, place) for place, name in enumerate(swapped))
