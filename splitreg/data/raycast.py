"""A small ray caster: convex solids in a room, analytic intersections for all pixels at once (numpy only).

Units are metres; the floor is the plane y = 0, y points up. Arrays of rays are (3, P) float32, P rays of unit length.

Every solid is convex, so a ray meets it in one interval [enter, leave]: an intersection of slabs and quadrics (Kay and
Kajiya 1986 for boxes; the same idea serves cylinders and cones). Shadows are first hits seen from the light; contact
shade is the closed form for a sphere over a plane (a solid angle of about r^2 / d^2, weighted by its cosine).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

#: Kinds of solid; the first four are the ones of 3D Shapes, in its order.
KINDS = ("cube", "cylinder", "sphere", "capsule", "cone")

#: Values of ``Rendering.surface``; object i is ``OBJECT + i``.
FLOOR, WALL, OBJECT = 0, 1, 2

_TINY = np.float32(1e-7)


@dataclass(frozen=True, slots=True, kw_only=True)
class Solid:
    """An upright or lying solid.

    Args:
        kind: one of ``KINDS``.
        centre: (3,) metres.
        radius: half width of a cube, radius of all others.
        half: half of its length along its axis (a sphere's is its radius; a capsule's includes its round ends).
        rotation: (3, 3) local to world; the local axis is y.
        colour: (3,) linear RGB in 0..1.
    """

    kind: str
    centre: Floats
    radius: float
    half: float
    rotation: Floats
    colour: Floats

    @property
    def bound(self) -> float:
        """Radius of a sphere around it."""
        if self.kind == "cube":
            return float(np.hypot(self.radius * np.sqrt(2), self.half))
        if self.kind in ("cylinder", "cone"):
            return float(np.hypot(self.radius, self.half))
        return max(self.radius, self.half)


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """A pinhole camera at ``eye`` that looks at ``target``; ``view`` is its vertical field of view in radians."""

    eye: Floats
    target: Floats
    view: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A room of half size ``room`` (x, z) around the origin, its solids, one point light and a camera.

    ``floor`` is two linear RGB colours, the tiles'; ``tile`` their side in metres (0: one colour only).
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
    """What a camera sees.

    Args:
        image: (H, W, 3) uint8.
        surface: (H, W) uint8: ``FLOOR``, ``WALL`` or ``OBJECT`` + number of the solid.
        depth: (H, W) float32 metres along the optical axis.
        kinds: (N,) int64 indexes into ``KINDS``, a solid each.
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
        found: NDArray[np.bool_] = self.surface[None] == numbers[:, None, None]
        return found

    @property
    def boxes(self) -> Floats:
        """(N, 4) x0, y0, x1, y1 around the visible pixels of each solid; zeros where none is visible."""
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
    """Cast a ray through the middle of each pixel of an image of ``size`` (height, width), four more where edges are.

    The labels are the middle ray's; only the colours of edge pixels are averages.
    """
    height, width = size
    rows, columns = (axis.ravel().astype(np.float32) + np.float32(0.5) for axis in np.indices(size))
    colours, surface, depth = _trace(scene, columns, rows, size)
    picture = _encode(colours).reshape(3, height, width)
    edges = np.flatnonzero(_edges(picture))
    if edges.size:
        corners = [(-0.25, -0.25), (0.25, -0.25), (-0.25, 0.25), (0.25, 0.25)]
        across = np.concatenate([columns[edges] + np.float32(x) for x, _ in corners])
        down = np.concatenate([rows[edges] + np.float32(y) for _, y in corners])
        around, _, _ = _trace(scene, across, down, size)
        colours[:, edges] = around.reshape(3, 4, -1).mean(1)
        picture = _encode(colours).reshape(3, height, width)
    return Rendering(
        image=np.ascontiguousarray(picture.transpose(1, 2, 0)),
        surface=surface.reshape(size),
        depth=depth.reshape(size),
        kinds=np.array([KINDS.index(solid.kind) for solid in scene.solids], np.int64),
    )


def _trace(
    scene: Scene, columns: Floats, rows: Floats, size: tuple[int, int]
) -> tuple[Floats, NDArray[np.uint8], Floats]:
    """Return (3, P) linear colours, (P,) surfaces and (P,) depths at P places of the image, in pixels."""
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
            normals[:, pixels] = _normals(solid, points[:, pixels])
            albedo[:, pixels] = solid.colour[:, None]
        colours = _shade(scene, points, normals, albedo, rays, who)
    surface = np.where(who >= 0, who + OBJECT, np.where(wall, WALL, FLOOR)).astype(np.uint8)
    return colours, surface, (distance * (forward @ rays)).astype(np.float32)


def _encode(linear: Floats) -> NDArray[np.uint8]:
    """Gamma 2: close to sRGB and much cheaper."""
    return (np.sqrt(np.clip(linear, 0, 1)) * np.float32(255) + np.float32(0.5)).astype(np.uint8)


def _edges(picture: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """(H, W): pixels that differ visibly from a neighbour."""
    signed = picture.astype(np.int16)
    across = (np.abs(np.diff(signed, axis=2)) > 12).any(0)
    down = (np.abs(np.diff(signed, axis=1)) > 12).any(0)
    edges = np.zeros(picture.shape[1:], bool)
    edges[:, 1:] |= across
    edges[:, :-1] |= across
    edges[1:] |= down
    edges[:-1] |= down
    return edges


def first_hits(origin: Floats, rays: Floats, solids: tuple[Solid, ...]) -> tuple[Floats, NDArray[np.int64]]:
    """Return (P,) distance of the first solid that each ray from ``origin`` meets (or infinity) and (P,) its number."""
    distance = np.full(rays.shape[1], np.inf, np.float32)
    who = np.full(rays.shape[1], -1, np.int64)
    for number, solid in enumerate(solids):
        away = solid.centre - origin
        squared = float(away @ away) - solid.bound**2
        if squared > 0:  # only rays inside the cone around the solid's bounding sphere can meet it
            near = np.flatnonzero(away @ rays > np.float32(np.sqrt(squared)))
        else:
            near = np.arange(rays.shape[1])
        enter, leave = _interval(solid, -away @ solid.rotation, solid.rotation.T @ rays[:, near])
        hit = (enter <= leave) & (enter > 1e-4) & (enter < distance[near])
        near = near[hit]
        distance[near] = enter[hit]
        who[near] = number
    return distance, who


def _rays(camera: Camera, columns: Floats, rows: Floats, size: tuple[int, int]) -> tuple[Floats, Floats]:
    """Return (3, P) unit rays through places of the image, and (3,) the direction that the camera looks in."""
    forward = _unit(camera.target - camera.eye)
    right = _unit(np.cross(forward, np.array([0, 1, 0], np.float32)))
    up = np.cross(right, forward)
    scale = np.float32(np.tan(camera.view / 2) * 2 / size[0])
    across = (columns - np.float32(size[1] / 2)) * scale
    down = (rows - np.float32(size[0] / 2)) * scale
    return _unit(forward[:, None] + right[:, None] * across - up[:, None] * down), forward


def _interval(solid: Solid, origin: Floats, rays: Floats) -> tuple[Floats, Floats]:
    """Enter and leave of each ray, in the solid's own frame."""
    x, y, z = map(float, origin)  # plain numbers keep the arrays float32 under every numpy
    u, v, w = rays
    r, h = solid.radius, solid.half
    if solid.kind == "sphere":
        return _ball(origin, rays, r)
    if solid.kind == "cube":
        return _both(_slab(x, u, r), _slab(y, v, h), _slab(z, w, r))
    if solid.kind == "cylinder":
        return _both(_quadric(u * u + w * w, x * u + z * w, x * x + z * z - r * r), _slab(y, v, h))
    if solid.kind == "capsule":
        straight = h - r
        lift = np.array([0, straight, 0], np.float32)
        body = _both(_quadric(u * u + w * w, x * u + z * w, x * x + z * z - r * r), _slab(y, v, straight))
        parts = [body, _ball(origin - lift, rays, r), _ball(origin + lift, rays, r)]
        enters = [np.where(enter <= leave, enter, np.inf) for enter, leave in parts]
        leaves = [np.where(enter <= leave, leave, -np.inf) for enter, leave in parts]
        return np.minimum.reduce(enters), np.maximum.reduce(leaves)
    slope = r / (2 * h)  # cone: the apex is at y = h
    k, top = slope * slope, h - y
    a = u * u + w * w - k * v * v
    b = x * u + z * w + k * top * v
    c = x * x + z * z - k * top * top
    lower, upper = _roots(np.where(np.abs(a) < _TINY, _TINY, a), b, c)
    steep = a < 0  # inside on both sides of the roots: keep the nappe below the apex
    enter = np.where(steep, np.where(v < 0, upper, -np.inf), lower)
    leave = np.where(steep, np.where(v < 0, np.inf, lower), upper)
    return _both((enter, leave), _slab(y, v, h))


def _slab(origin: float, direction: Floats, half: float) -> tuple[Floats, Floats]:
    inverse = 1 / np.where(np.abs(direction) < _TINY, _TINY, direction)
    one, other = (-half - origin) * inverse, (half - origin) * inverse
    return np.minimum(one, other), np.maximum(one, other)


def _roots(a: Floats | float, b: Floats, c: float) -> tuple[Floats, Floats]:
    """Roots of a t^2 + 2 b t + c, in order; (inf, -inf) where there is none."""
    square = b * b - a * c
    root = np.sqrt(np.maximum(square, 0))
    one, other = (-b - root) / a, (-b + root) / a
    missed = square < 0
    return np.where(missed, np.inf, np.minimum(one, other)), np.where(missed, -np.inf, np.maximum(one, other))


def _quadric(a: Floats, b: Floats, c: float) -> tuple[Floats, Floats]:
    return _roots(np.maximum(a, _TINY), b, c)


def _ball(origin: Floats, rays: Floats, radius: float) -> tuple[Floats, Floats]:
    return _roots(1.0, origin @ rays, float(origin @ origin) - radius * radius)


def _both(*intervals: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
    return np.maximum.reduce([i[0] for i in intervals]), np.minimum.reduce([i[1] for i in intervals])


def _normals(solid: Solid, points: Floats) -> Floats:
    """Outward unit normals (3, M) at points on the solid's surface."""
    local = solid.rotation.T @ (points - solid.centre[:, None])
    x, y, z = local
    r, h = solid.radius, solid.half
    normal = np.zeros_like(local)
    if solid.kind == "cube":
        ratio = np.abs(local) / np.array([[r], [h], [r]], np.float32)
        axis, each = ratio.argmax(0), np.arange(local.shape[1])
        normal[axis, each] = np.sign(local[axis, each])
    elif solid.kind == "cylinder":
        cap = np.abs(y) / h > np.hypot(x, z) / r
        normal[0], normal[1], normal[2] = np.where(cap, 0, x), np.where(cap, np.sign(y), 0), np.where(cap, 0, z)
    elif solid.kind == "cone":
        base = y < -0.999 * h
        radial = np.maximum(np.hypot(x, z), _TINY)
        normal[0], normal[2] = np.where(base, 0, x / radial), np.where(base, 0, z / radial)
        normal[1] = np.where(base, -1, r / (2 * h))
    else:
        straight = h - r if solid.kind == "capsule" else 0.0
        normal[0], normal[1], normal[2] = x, y - np.clip(y, -straight, straight), z
    return solid.rotation @ _unit(normal)


def _room_hits(scene: Scene, eye: Floats, rays: Floats) -> tuple[Floats, NDArray[np.bool_], Floats]:
    """(P,) distance to the room, (P,) whether it is a wall, (3, P) inward normals."""
    down = np.where(rays[1] < -_TINY, -eye[1] / np.minimum(rays[1], -_TINY), np.inf)
    to_x = (np.sign(rays[0]) * scene.room[0] - eye[0]) / np.where(np.abs(rays[0]) < _TINY, _TINY, rays[0])
    to_z = (np.sign(rays[2]) * scene.room[1] - eye[2]) / np.where(np.abs(rays[2]) < _TINY, _TINY, rays[2])
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
    facing *= blocked > length - np.float32(2e-3)  # a lit point is itself the light's first hit
    ambient = 0.30 + 0.08 * normals[1]
    for number, solid in enumerate(scene.solids):
        away = solid.centre[:, None] - points
        squared = np.maximum((away * away).sum(0), _TINY)
        cosine = np.maximum((normals * away).sum(0), 0) / np.sqrt(squared)
        shade = np.minimum(cosine * (0.7 * solid.radius * max(solid.radius, solid.half)) / squared, 0.75)
        ambient *= np.where(who == number, 1, 1 - shade)
    halfway = _unit(to_light - rays)
    shine = np.maximum((halfway * normals).sum(0), 0) * (who >= 0) * (facing > 0)
    for _ in range(5):
        shine = shine * shine
    colours: Floats = (albedo * (ambient + 0.75 * facing) + np.float32(0.25) * shine).astype(np.float32)
    return colours


def _unit(vectors: Floats) -> Floats:
    length = np.sqrt((vectors * vectors).sum(0))
    unit: Floats = (vectors / np.maximum(length, _TINY)).astype(np.float32)
    return unit
