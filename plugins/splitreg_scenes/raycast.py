"""A small ray caster: solids in a room, for all pixels at once (numpy only).

Units are metres; the floor is the plane y = 0, and y points up. Shadows are first hits as seen from the
light. Contact shade is that of a sphere over a plane: a solid angle of about r^2 / d^2, times its cosine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from splitreg_scenes.solids import KINDS, TINY, Floats, Solid, first_hits, normals_at, unit

#: Values of ``Rendering.surface``; solid i is ``OBJECT + i``.
FLOOR, WALL, OBJECT = 0, 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """A pinhole camera at ``eye``, directed at ``target``; ``view`` is the vertical field of view in radians."""

    eye: Floats
    target: Floats
    view: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A room of half size ``room`` (x, z) around the origin, solids, one point light and a camera.

    ``floor`` has the two linear RGB colours of the tiles; ``tile`` is their side in metres, 0 for none.
    """

    solids: tuple[Solid, ...]
    camera: Camera
    light: Floats
    room: tuple[float, float]
    floor: tuple[Floats, Floats]
    wall: Floats
    tile: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendering:
    """An image of a scene, with labels.

    Args:
        image: (H, W, 3) uint8.
        surface: (H, W) uint8: ``FLOOR``, ``WALL`` or ``OBJECT`` + index of the solid.
        depth: (H, W) float32 metres along the optical axis.
        kinds: (N,) int64 index into ``KINDS`` of each solid.
    """

    image: NDArray[np.uint8]
    surface: NDArray[np.uint8]
    depth: Floats
    kinds: NDArray[np.int64]

    @property
    def semantic(self) -> NDArray[np.int64]:
        """(H, W): 0 floor, 1 wall, 2 + index into ``KINDS``."""
        return np.concatenate([[FLOOR, WALL], OBJECT + self.kinds])[self.surface].astype(np.int64)

    @property
    def masks(self) -> NDArray[np.bool_]:
        """(N, H, W): the visible pixels of each solid."""
        numbers = OBJECT + np.arange(len(self.kinds), dtype=np.uint8)
        masks: NDArray[np.bool_] = self.surface[None] == numbers[:, None, None]
        return masks

    @property
    def boxes(self) -> Floats:
        """(N, 4) x0, y0, x1, y1 around the visible pixels of each solid; zeros if none is visible."""
        boxes = np.zeros((len(self.kinds), 4), np.float32)
        for box, mask in zip(boxes, self.masks, strict=True):
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            if rows.size:
                box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        return boxes

    @property
    def areas(self) -> NDArray[np.int64]:
        """(N,) visible pixels of each solid."""
        return np.bincount(self.surface.ravel(), minlength=OBJECT + len(self.kinds))[OBJECT:]


def render(scene: Scene, size: tuple[int, int]) -> Rendering:
    """Cast a ray through the centre of each pixel, and four more through pixels at edges.

    Labels are those of the central ray; colours at edges are averages.

    Args:
        scene: the scene.
        size: (height, width) of the image.
    """
    height, width = size
    rows, columns = (axis.ravel().astype(np.float32) + np.float32(0.5) for axis in np.indices(size))
    colours, surface, depth = _trace(scene, columns, rows, size)
    pixels = _encode(colours).reshape(3, height, width)
    edges = np.flatnonzero(_edges(pixels))
    if edges.size:
        corners = [(-0.25, -0.25), (0.25, -0.25), (-0.25, 0.25), (0.25, 0.25)]
        across = np.concatenate([columns[edges] + np.float32(x) for x, _ in corners])
        down = np.concatenate([rows[edges] + np.float32(y) for _, y in corners])
        around, _, _ = _trace(scene, across, down, size)
        colours[:, edges] = around.reshape(3, 4, -1).mean(1)
        pixels = _encode(colours).reshape(3, height, width)
    return Rendering(
        image=np.ascontiguousarray(pixels.transpose(1, 2, 0)),
        surface=surface.reshape(size),
        depth=depth.reshape(size),
        kinds=np.array([KINDS.index(solid.kind) for solid in scene.solids], np.int64),
    )


def _trace(
    scene: Scene, columns: Floats, rows: Floats, size: tuple[int, int]
) -> tuple[Floats, NDArray[np.uint8], Floats]:
    """Return (3, P) linear colours, (P,) surfaces and (P,) depths at P positions in pixels."""
    eye = scene.camera.eye
    rays, forward = _rays(scene.camera, columns, rows, size)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        distance, who = first_hits(eye, rays, scene.solids)
        room_distance, wall, normals = _room_hits(scene, eye, rays)
        outside = distance >= room_distance
        who[outside] = -1
        distance = np.where(outside, room_distance, distance)
        points = eye[:, None] + rays * distance
        albedo = _room_colours(scene, points, wall)
        for number, solid in enumerate(scene.solids):
            pixels = np.flatnonzero(who == number)
            normals[:, pixels] = normals_at(solid, points[:, pixels])
            albedo[:, pixels] = solid.colour[:, None]
        colours = _shade(scene, points, normals, albedo, rays, who)
    surface = np.where(who >= 0, who + OBJECT, np.where(wall, WALL, FLOOR)).astype(np.uint8)
    return colours, surface, (distance * (forward @ rays)).astype(np.float32)


def _encode(linear: Floats) -> NDArray[np.uint8]:
    """Encode with gamma 2: close to sRGB, and faster."""
    return (np.sqrt(np.clip(linear, 0, 1)) * np.float32(255) + np.float32(0.5)).astype(np.uint8)


def _edges(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return (H, W): pixels that differ from a neighbour by more than 12."""
    signed = pixels.astype(np.int16)
    across = (np.abs(np.diff(signed, axis=2)) > 12).any(0)
    down = (np.abs(np.diff(signed, axis=1)) > 12).any(0)
    edges = np.zeros(pixels.shape[1:], bool)
    edges[:, 1:] |= across
    edges[:, :-1] |= across
    edges[1:] |= down
    edges[:-1] |= down
    return edges


def _rays(camera: Camera, columns: Floats, rows: Floats, size: tuple[int, int]) -> tuple[Floats, Floats]:
    """Return (3, P) unit rays through positions of the image, and the (3,) direction of the camera."""
    forward = unit(camera.target - camera.eye)
    right = unit(np.cross(forward, np.array([0, 1, 0], np.float32)))
    up = np.cross(right, forward)
    scale = np.float32(np.tan(camera.view / 2) * 2 / size[0])
    across = (columns - np.float32(size[1] / 2)) * scale
    down = (rows - np.float32(size[0] / 2)) * scale
    return unit(forward[:, None] + right[:, None] * across - up[:, None] * down), forward


def _room_hits(scene: Scene, eye: Floats, rays: Floats) -> tuple[Floats, NDArray[np.bool_], Floats]:
    """Return (P,) distances to floor or wall, (P,) whether it is a wall, (3, P) inward normals."""
    down = np.where(rays[1] < -TINY, -eye[1] / np.minimum(rays[1], -TINY), np.inf)
    to_x = (np.sign(rays[0]) * scene.room[0] - eye[0]) / np.where(np.abs(rays[0]) < TINY, TINY, rays[0])
    to_z = (np.sign(rays[2]) * scene.room[1] - eye[2]) / np.where(np.abs(rays[2]) < TINY, TINY, rays[2])
    to_x, to_z = (np.where(t > 0, t, np.inf) for t in (to_x, to_z))
    walls = np.minimum(to_x, to_z)
    is_wall = walls < down
    side = is_wall & (to_x < to_z)
    normals = np.zeros_like(rays)
    normals[0] = np.where(side, -np.sign(rays[0]), 0)
    normals[1] = ~is_wall
    normals[2] = np.where(is_wall & ~side, -np.sign(rays[2]), 0)
    return np.minimum(down, walls).astype(np.float32), is_wall, normals


def _room_colours(scene: Scene, points: Floats, wall: NDArray[np.bool_]) -> Floats:
    one, other = scene.floor
    albedo = np.where(wall, scene.wall[:, None], one[:, None])
    if scene.tile:
        odd = (np.floor(points[0] / scene.tile) + np.floor(points[2] / scene.tile)) % 2 == 1
        albedo = np.where(~wall & odd, other[:, None], albedo)
    skirting = wall & (points[1] < 0.12)
    return np.where(skirting, albedo * np.float32(0.55), albedo).astype(np.float32)


def _shade(
    scene: Scene, points: Floats, normals: Floats, albedo: Floats, rays: Floats, who: NDArray[np.int64]
) -> Floats:
    """Lambert, a highlight on solids, hard shadows and contact shade: (3, P) linear RGB."""
    to_light = scene.light[:, None] - points
    length = np.sqrt((to_light * to_light).sum(0))
    to_light /= length
    facing = np.maximum((normals * to_light).sum(0), 0)
    blocked, _ = first_hits(scene.light, -to_light, scene.solids)
    facing *= blocked > length - np.float32(2e-3)  # a lit point is the first hit of the light
    ambient = 0.30 + 0.08 * normals[1]
    for number, solid in enumerate(scene.solids):
        away = solid.centre[:, None] - points
        squared = np.maximum((away * away).sum(0), TINY)
        cosine = np.maximum((normals * away).sum(0), 0) / np.sqrt(squared)
        shade = np.minimum(cosine * (0.7 * solid.radius * max(solid.radius, solid.half)) / squared, 0.75)
        ambient *= np.where(who == number, 1, 1 - shade)
    colours: Floats = (albedo * (ambient + 0.75 * facing)).astype(np.float32)
    lit = np.flatnonzero((who >= 0) & (facing > 0))
    halfway = unit(to_light[:, lit] - rays[:, lit])
    shine = np.maximum((halfway * normals[:, lit]).sum(0), 0)
    for _ in range(5):  # to the power of 32
        shine = shine * shine
    colours[:, lit] += np.float32(0.25) * shine
    return colours
