"""Procedural scenes, and the factor grid of 3D Shapes (numpy only).

An image depends on (mode, split, size, seed, position) and nothing else. There are three modes:

- ``"multi"``: one to six solids of five kinds in a room, a random camera. The class of an image is the
  kind of the solid with the largest number of visible pixels.
- ``"single"``: one solid on the grid of the six factors of 3D Shapes (Burgess and Kim 2018): 480,000
  images. Split ``"test"`` has 25 of the 100 combinations of floor and wall hue, which the other splits
  do not have (120,000 images), like MTL-Split (Capogrosso et al., DAC 2024). A tenth of the other
  images is ``"val"``.
- ``"video"``: clips of ``FRAMES`` frames at ``RATE`` frames per second. Position p is frame
  ``p % FRAMES`` of clip ``p // FRAMES``. Two to six solids; most of them move smoothly and never touch,
  and so does the camera in half of the clips. Solids may leave the image and hide each other.
"""

from __future__ import annotations

import colorsys
import functools
import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from splitreg.errors import DataError, suggest
from splitreg_scenes.motion import FRAMES, RATE, STILL, Motion, MovingScene, Swing, turned
from splitreg_scenes.raycast import Camera, Rendering, Scene, render
from splitreg_scenes.solids import KINDS, Floats, Solid

__all__ = [
    "FACTORS", "FRAMES", "KINDS", "MIN_VISIBLE", "MODES", "RATE", "SEMANTIC", "SHAPES", "SPLITS", "capacity",
    "factors_of", "grid_indexes", "index_of", "multi_scene", "partition", "rendering", "single_scene", "unseen", "video_clip",
]  # fmt: skip

MODES = ("multi", "single", "video")
SPLITS = ("train", "val", "test")

#: Names of the semantic classes of ``Rendering.semantic``.
SEMANTIC = ("floor", "wall", *KINDS)

#: Factors of 3D Shapes and their numbers of values; the last one varies fastest.
FACTORS: Mapping[str, int] = {
    "floor_hue": 10,
    "wall_hue": 10,
    "object_hue": 10,
    "scale": 8,
    "shape": 4,
    "orientation": 15,
}
SHAPES = KINDS[:4]
GRID = math.prod(FACTORS.values())

#: Smallest visible share of the image; solids below it are removed, or marked as crowds in videos.
MIN_VISIBLE = 0.002
#: Largest number of solids.
MAX_SOLIDS = 6


def rendering(mode: str, split: str, position: int, *, size: tuple[int, int], seed: int = 0) -> Rendering:
    """Render image ``position`` of a split.

    Args:
        mode: one of ``MODES``.
        split: one of ``SPLITS``.
        position: 0 to ``capacity(mode, split) - 1``.
        size: (height, width) in pixels.
        seed: seed of the scenes (multi, video) or of their order (single).

    Raises:
        DataError: there is no such mode or split, or the position is past its end.
    """
    if not 0 <= position < capacity(mode, split):
        raise DataError(f"scenes {mode}/{split} has {capacity(mode, split)} images; there is no image {position}")
    if mode == "single":
        return render(single_scene(**factors_of(int(grid_indexes(split, seed)[position]))), size)
    if mode == "video":
        clip, frame = divmod(position, FRAMES)
        return render(_clip(seed, SPLITS.index(split), clip).scene(frame), size)
    rng = np.random.default_rng([seed, SPLITS.index(split), position])
    while True:
        scene = multi_scene(rng)
        image = render(scene, size)
        visible = image.areas >= MIN_VISIBLE * size[0] * size[1]
        if visible.all():
            return image
        if visible.any():
            solids = tuple(s for s, keep in zip(scene.solids, visible, strict=True) if keep)
            return render(_with_solids(scene, solids), size)


def capacity(mode: str, split: str) -> int:
    """Return the largest number of images of a split.

    Raises:
        DataError: there is no such mode or split.
    """
    for what, name, names in (("mode", mode, MODES), ("split", split, SPLITS)):
        if name not in names:
            raise DataError(f"scenes have no {what} {name!r}.{suggest(name, names)} There are: {', '.join(names)}")
    return len(_partition()[split]) if mode == "single" else 2**31


def factors_of(index: int) -> dict[str, int]:
    """Return the factors of an image of the grid.

    >>> factors_of(479_999)
    {'floor_hue': 9, 'wall_hue': 9, 'object_hue': 9, 'scale': 7, 'shape': 3, 'orientation': 14}
    """
    values = np.unravel_index(index, tuple(FACTORS.values()))
    return {name: int(value) for name, value in zip(FACTORS, values, strict=True)}


def index_of(factors: Mapping[str, int]) -> int:
    """Return the index on the grid of all six factors: the inverse of ``factors_of``."""
    return int(np.ravel_multi_index(tuple(factors[name] for name in FACTORS), tuple(FACTORS.values())))


def unseen(floor_hue: NDArray[np.int64], wall_hue: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return whether only the test split has a combination of hues: 25 of 100, two or three per hue."""
    held_out: NDArray[np.bool_] = (3 * np.asarray(floor_hue) + np.asarray(wall_hue)) % 4 == 1
    return held_out


def grid_indexes(split: str, seed: int = 0) -> NDArray[np.int64]:
    """Return the grid indexes of a split, in an order by ``seed``; the set does not depend on it."""
    return _ordered(split, seed)


def partition(floor_hue: NDArray[np.int64], wall_hue: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """Assign N images to splits by their hues: split -> indexes."""
    held_out = unseen(floor_hue, wall_hue)
    known = np.random.default_rng(20180501).permutation(np.flatnonzero(~held_out))
    tenth = len(known) // 10
    return {"train": known[tenth:], "val": known[:tenth], "test": np.flatnonzero(held_out)}


@functools.cache
def _partition() -> dict[str, NDArray[np.int64]]:
    return partition(*np.unravel_index(np.arange(GRID), tuple(FACTORS.values()))[:2])


@functools.lru_cache(maxsize=8)
def _ordered(split: str, seed: int) -> NDArray[np.int64]:
    order = np.random.default_rng([seed, SPLITS.index(split)]).permutation(_partition()[split])
    order.flags.writeable = False
    return order


def single_scene(*, floor_hue: int, wall_hue: int, object_hue: int, scale: int, shape: int, orientation: int) -> Scene:
    """Return the scene of six factors: hues in tenths, scale 0.75 to 1.25, orientation -30° to 30°."""
    size = 0.75 + 0.5 * scale / 7
    kind = SHAPES[shape]
    half = {"cube": 0.62, "cylinder": 0.72, "sphere": 0.75, "capsule": 0.95}[kind] * size
    radius = {"cube": 0.62, "cylinder": 0.6, "sphere": 0.75, "capsule": 0.52}[kind] * size
    angle = math.radians(-30 + 60 * orientation / 14)
    eye = np.array([5.0 * math.sin(angle), 2.6, 5.0 * math.cos(angle)], np.float32)
    floor = _rgb(floor_hue / 10, 0.85, 0.85)
    solid = Solid(
        kind=kind,
        centre=np.array([0, half, 0], np.float32),
        radius=radius,
        half=half,
        rotation=turned(math.radians(20)),
        colour=_rgb(object_hue / 10, 0.9, 0.95),
    )
    return Scene(
        solids=(solid,),
        camera=Camera(eye=eye, target=np.array([0, 0.75, 0], np.float32), view=math.radians(42)),
        light=np.array([1.5, 5.0, 4.0], np.float32),
        room=(5.2, 5.2),
        floor=(floor, floor),
        wall=_rgb(wall_hue / 10, 0.8, 0.9),
    )


def multi_scene(rng: np.random.Generator) -> Scene:
    """Sample a room with one to ``MAX_SOLIDS`` solids that do not touch, and a camera directed at its centre."""
    solids: list[Solid] = []
    for _ in range(int(rng.integers(1, MAX_SOLIDS + 1))):
        for _ in range(20):
            solid = _draw_solid(rng)
            if all(_apart(solid, other) for other in solids):
                solids.append(solid)
                break
    around, distance, height = rng.uniform(0, 2 * math.pi), rng.uniform(3.4, 5.2), rng.uniform(1.1, 2.7)
    eye = np.array([distance * math.sin(around), height, distance * math.cos(around)], np.float32)
    target = np.array([rng.uniform(-0.3, 0.3), rng.uniform(0.2, 0.5), rng.uniform(-0.3, 0.3)], np.float32)
    light = np.array([rng.uniform(-3, 3), rng.uniform(3.2, 5.0), rng.uniform(-3, 3)], np.float32)
    hue, dim = rng.uniform(), rng.uniform(0.55, 1.0)
    strength, value = rng.uniform(0.1, 0.5), rng.uniform(0.6, 0.9)
    return Scene(
        solids=tuple(solids),
        camera=Camera(eye=eye, target=target, view=math.radians(rng.uniform(44, 58))),
        light=light,
        room=(float(rng.uniform(5.4, 7)), float(rng.uniform(5.4, 7))),
        floor=(_rgb(hue, strength, value), _rgb(hue, strength, value * dim)),
        wall=_rgb(rng.uniform(), rng.uniform(0.05, 0.4), rng.uniform(0.6, 0.92)),
        tile=float(rng.choice([0.0, 0.5, 1.0])),
    )


def video_clip(rng: np.random.Generator) -> MovingScene:
    """Sample a clip: the room of ``multi_scene`` with moving solids and, in half of the clips, a moving camera."""
    scene = multi_scene(rng)
    while len(scene.solids) < 2:
        scene = multi_scene(rng)
    moves = rng.uniform() < 0.5
    clip = MovingScene(
        start=scene,
        motions=(STILL,) * len(scene.solids),
        orbit=_swing(rng, rng.uniform(0.05, 0.4)) if moves else Swing(),
        lift=_swing(rng, rng.uniform(0, 0.15)) if moves else Swing(),
    )
    eyes = clip.eyes()[:, [0, 2]]
    motions = list(clip.motions)
    for number, solid in enumerate(scene.solids):
        if rng.uniform() < 0.25 and number:
            continue
        for _ in range(20):
            motion = Motion(
                x=_swing(rng, rng.uniform(0, 1.6)),
                z=_swing(rng, rng.uniform(0, 1.2)),
                turn=_swing(rng, rng.uniform(0, 1)),
            )
            places = motion.positions(solid)
            others = [m.positions(s) for m, s in zip(motions, scene.solids, strict=True)]
            gaps = [
                np.hypot(*(places - other).T).min() - _reach(solid) - _reach(scene.solids[i]) - 0.05
                for i, other in enumerate(others)
                if i != number
            ]
            before_camera = np.hypot(*(places - eyes).T).min() - _reach(solid) - 0.8
            if min([*gaps, before_camera]) > 0:
                motions[number] = motion
                break
    return MovingScene(start=scene, motions=tuple(motions), orbit=clip.orbit, lift=clip.lift)


def _swing(rng: np.random.Generator, amplitude: float) -> Swing:
    return Swing(amplitude=amplitude, period=rng.uniform(6, 18), phase=rng.uniform(0, 2 * math.pi))


@functools.lru_cache(maxsize=4)
def _clip(seed: int, split: int, clip: int) -> MovingScene:
    return video_clip(np.random.default_rng([seed, split, clip, FRAMES]))


def _draw_solid(rng: np.random.Generator) -> Solid:
    kind = KINDS[int(rng.integers(len(KINDS)))]
    size = rng.uniform(0.26, 0.58)
    stretch = rng.uniform(0.8, 1.5)
    radius = size
    half = (
        size * {"cube": 1.0, "cylinder": stretch, "sphere": 1.0, "capsule": 1.3 + 0.6 * stretch, "cone": stretch}[kind]
    )
    if kind == "capsule":
        radius, half = size * 0.7, half * 0.7
    lying = kind in ("cylinder", "capsule") and rng.uniform() < 0.3
    rotation = turned(rng.uniform(0, 2 * math.pi))
    if lying:
        rotation = rotation @ np.array([[0, 1, 0], [1, 0, 0], [0, 0, -1]], np.float32)  # the axis along x, then rotated
    far, around = 2.1 * math.sqrt(rng.uniform()), rng.uniform(0, 2 * math.pi)
    return Solid(
        kind=kind,
        centre=np.array([far * math.sin(around), radius if lying else half, far * math.cos(around)], np.float32),
        radius=float(radius),
        half=float(half),
        rotation=rotation.astype(np.float32),
        colour=_rgb(rng.uniform(), rng.uniform(0.55, 0.95), rng.uniform(0.55, 0.98)),
    )


def _apart(one: Solid, other: Solid) -> bool:
    """Whether there is a gap between the circles around two solids on the floor, for any rotation."""
    x, _, z = one.centre - other.centre
    return math.hypot(float(x), float(z)) > _reach(one) + _reach(other) + 0.05


def _reach(solid: Solid) -> float:
    """Return the radius of a vertical cylinder around a solid, for any rotation about the vertical axis."""
    upright = abs(float(solid.rotation[1, 1])) > 0.5
    return solid.radius * (math.sqrt(2) if solid.kind == "cube" else 1) if upright else solid.bound


def _with_solids(scene: Scene, solids: tuple[Solid, ...]) -> Scene:
    return Scene(
        solids=solids, camera=scene.camera, light=scene.light, room=scene.room, floor=scene.floor, wall=scene.wall,
        tile=scene.tile,
    )  # fmt: skip


def _rgb(hue: float, saturation: float, value: float) -> Floats:
    """Return the linear RGB of a colour; images are encoded with gamma 2."""
    return np.square(np.array(colorsys.hsv_to_rgb(hue, saturation, value), np.float32))
