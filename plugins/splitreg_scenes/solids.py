"""Convex solids: first hits of rays, and surface normals (numpy only).

Units are metres. Arrays of rays are (3, P) float32: P rays of unit length. A ray intersects a convex
solid in one interval [enter, leave], an intersection of slabs and quadrics (Kay and Kajiya 1986 for
boxes; the same holds for cylinders and cones).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

#: Kinds of solids; the first four are those of 3D Shapes, in its order.
KINDS = ("cube", "cylinder", "sphere", "capsule", "cone")

#: Lengths below this count as zero.
TINY = np.float32(1e-7)


@dataclass(frozen=True, slots=True, kw_only=True)
class Solid:
    """An upright or lying solid.

    Args:
        kind: one of ``KINDS``.
        centre: (3,) metres.
        radius: half width of a cube, radius of all others.
        half: half of the length along the axis; of a sphere the radius, of a capsule with the ends.
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
        """Radius of a sphere around the solid."""
        if self.kind == "cube":
            return float(np.hypot(self.radius * np.sqrt(2), self.half))
        if self.kind in ("cylinder", "cone"):
            return float(np.hypot(self.radius, self.half))
        return max(self.radius, self.half)


def first_hits(origin: Floats, rays: Floats, solids: tuple[Solid, ...]) -> tuple[Floats, NDArray[np.int64]]:
    """Return (P,) distances of the first solid on each ray from ``origin``, or infinity, and its (P,) index."""
    distance = np.full(rays.shape[1], np.inf, np.float32)
    who = np.full(rays.shape[1], -1, np.int64)
    for number, solid in enumerate(solids):
        away = solid.centre - origin
        squared = float(away @ away) - solid.bound**2
        if squared > 0:  # only rays inside the cone around the bounding sphere can hit
            near = np.flatnonzero(away @ rays > np.float32(np.sqrt(squared)))
        else:
            near = np.arange(rays.shape[1])
        enter, leave = _interval(solid, -away @ solid.rotation, solid.rotation.T @ rays[:, near])
        hit = (enter <= leave) & (enter > 1e-4) & (enter < distance[near])
        near = near[hit]
        distance[near] = enter[hit]
        who[near] = number
    return distance, who


def normals_at(solid: Solid, points: Floats) -> Floats:
    """Return outward unit normals (3, M) at points on the surface."""
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
        radial = np.maximum(np.hypot(x, z), TINY)
        normal[0], normal[2] = np.where(base, 0, x / radial), np.where(base, 0, z / radial)
        normal[1] = np.where(base, -1, r / (2 * h))
    else:
        straight = h - r if solid.kind == "capsule" else 0.0
        normal[0], normal[1], normal[2] = x, y - np.clip(y, -straight, straight), z
    return solid.rotation @ unit(normal)


def unit(vectors: Floats) -> Floats:
    """Scale (3,) or (3, P) vectors to unit length."""
    length = np.sqrt((vectors * vectors).sum(0))
    result: Floats = (vectors / np.maximum(length, TINY)).astype(np.float32)
    return result


def _interval(solid: Solid, origin: Floats, rays: Floats) -> tuple[Floats, Floats]:
    """Return enter and leave of each ray, in the frame of the solid."""
    x, y, z = map(float, origin)  # Python numbers keep the arrays float32
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
    lower, upper = _roots(np.where(np.abs(a) < TINY, TINY, a), b, c)
    steep = a < 0  # inside on both sides of the roots: keep the nappe below the apex
    enter = np.where(steep, np.where(v < 0, upper, -np.inf), lower)
    leave = np.where(steep, np.where(v < 0, np.inf, lower), upper)
    return _both((enter, leave), _slab(y, v, h))


def _slab(origin: float, direction: Floats, half: float) -> tuple[Floats, Floats]:
    inverse = 1 / np.where(np.abs(direction) < TINY, TINY, direction)
    one, other = (-half - origin) * inverse, (half - origin) * inverse
    return np.minimum(one, other), np.maximum(one, other)


def _roots(a: Floats | float, b: Floats, c: float) -> tuple[Floats, Floats]:
    """Return the roots of a t^2 + 2 b t + c in order; (inf, -inf) if there are none."""
    square = b * b - a * c
    root = np.sqrt(np.maximum(square, 0))
    one, other = (-b - root) / a, (-b + root) / a
    missed = square < 0
    return np.where(missed, np.inf, np.minimum(one, other)), np.where(missed, -np.inf, np.maximum(one, other))


def _quadric(a: Floats, b: Floats, c: float) -> tuple[Floats, Floats]:
    return _roots(np.maximum(a, TINY), b, c)


def _ball(origin: Floats, rays: Floats, radius: float) -> tuple[Floats, Floats]:
    return _roots(1.0, origin @ rays, float(origin @ origin) - radius * radius)


def _both(*intervals: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
    return np.maximum.reduce([i[0] for i in intervals]), np.minimum.reduce([i[1] for i in intervals])
