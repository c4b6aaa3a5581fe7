import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from splitreg_scenes import rendering as scenes
from splitreg_scenes.raycast import FLOOR, OBJECT, WALL, Camera, Scene, render
from splitreg_scenes.solids import KINDS, Solid, first_hits

from splitreg.errors import DataError


def rotation(seed):
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return (basis * np.sign(np.linalg.det(basis))).astype(np.float32)


def solid(kind, seed=0, centre=(0.0, 0.0, 0.0), radius=0.5, half=0.8):
    half = radius if kind == "sphere" else half
    return Solid(
        kind=kind,
        centre=np.array(centre, np.float32),
        radius=radius,
        half=half,
        rotation=rotation(seed),
        colour=np.ones(3, np.float32),
    )


def is_inside(thing, points, grow=1.0):
    """The solid as a set of points, written independently of how rays are cast; `grow` scales it about its centre."""
    x, y, z = thing.rotation.T.astype(float) @ (points - thing.centre[:, None]) / grow
    r, h, radial = thing.radius, thing.half, np.hypot(x, z)
    if thing.kind == "cube":
        return (abs(x) <= r) & (abs(y) <= h) & (abs(z) <= r)
    if thing.kind == "sphere":
        return x * x + y * y + z * z <= r * r
    if thing.kind == "cylinder":
        return (radial <= r) & (abs(y) <= h)
    if thing.kind == "cone":
        return (abs(y) <= h) & (radial <= r * (h - y) / (2 * h))
    return np.hypot(radial, np.maximum(abs(y) - (h - r), 0)) <= r


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_first_hits_are_where_sampling_finds_the_surface(kind, seed):
    rng = np.random.default_rng(seed)
    thing = solid(kind, seed)
    eye = rng.normal(size=3)
    eye = (3 * eye / np.linalg.norm(eye)).astype(np.float32)
    rays = rng.normal(scale=0.7, size=(3, 40)) - eye[:, None]
    rays = (rays / np.linalg.norm(rays, axis=0)).astype(np.float32)
    distance, who = first_hits(eye, rays, (thing,))
    steps = np.linspace(1, 5, 4001)
    for ray, t, found in zip(rays.T, distance, who, strict=True):
        points = eye[:, None] + ray[:, None] * steps
        if found < 0:
            assert not is_inside(thing, points, 0.999).any()
        else:
            assert not is_inside(thing, points[:, steps < t - 1e-3], 0.999).any(), "something came before the hit"
            assert is_inside(thing, (eye + ray * t)[:, None], 1.003).all(), "the hit is not on the solid"


def test_the_nearer_of_two_solids_is_hit_whatever_their_order():
    near, far = solid("sphere", centre=(0, 0, 1)), solid("cube", centre=(0, 0, -2))
    eye, rays = np.array([0, 0, 4], np.float32), np.array([[0], [0], [-1]], np.float32)
    assert first_hits(eye, rays, (near, far))[1] == 0
    assert first_hits(eye, rays, (far, near))[1] == 1
    assert first_hits(eye, rays, (near,))[0] == pytest.approx(2.5)


def plain_room(*solids):
    grey = np.full(3, 0.5, np.float32)
    camera = Camera(eye=np.array([0, 2, 4], np.float32), target=np.array([0, 1, 0], np.float32), view=math.radians(50))
    light = np.array([0, 6, 3], np.float32)
    return Scene(solids=solids, camera=camera, light=light, room=(6, 6), floor=(grey, grey), wall=grey)


def test_depth_is_metres_along_the_optical_axis():
    seen = render(plain_room(), (101, 101))
    # the axis falls by 1 m in 4, so it meets the floor 8 m away and the wall at z = -6 (10 m away) comes later
    assert seen.surface[50, 50] == FLOOR
    assert seen.depth[50, 50] == pytest.approx(2 * math.sqrt(17), rel=1e-4)
    row = seen.depth[90]
    assert seen.surface[90].max() == FLOOR
    assert np.ptp(row) < 1e-4 * row[0], "pixels of one row of the floor lie in one plane across the axis"
    assert seen.surface[0, 50] == WALL


def test_solids_throw_shadows_and_hide_what_is_behind():
    ball = dataclasses.replace(solid("sphere", centre=(0, 0.5, 0)), colour=np.zeros(3, np.float32))
    with_ball, without = render(plain_room(ball), (64, 64)), render(plain_room(), (64, 64))
    assert (with_ball.depth <= without.depth + 1e-4).all()
    floor = with_ball.surface == FLOOR
    difference = with_ball.image[floor].astype(int) - without.image[floor]
    assert difference.min() < -40
    assert difference.max() <= 0


def test_labels_of_a_rendering_agree_with_each_other():
    for position in range(12):
        seen = scenes.rendering("multi", "train", position, size=(48, 64))
        assert seen.image.shape == (48, 64, 3)
        assert seen.image.dtype == np.uint8
        assert np.isfinite(seen.depth).all()
        assert seen.depth.min() > 0
        assert 1 <= len(seen.kinds) <= scenes.MAX_SOLIDS
        assert (seen.areas >= scenes.MIN_VISIBLE * 48 * 64 * 0.5).all()
        for number, (mask, box, kind) in enumerate(zip(seen.masks, seen.boxes, seen.kinds, strict=True)):
            assert (mask == (seen.surface == OBJECT + number)).all()
            assert mask.sum() == seen.areas[number]
            assert (seen.semantic[mask] == OBJECT + kind).all()
            x0, y0, x1, y1 = box.astype(int)
            assert mask[y0:y1, x0:x1].sum() == mask.sum()
            assert mask[y0].any()
            assert mask[y1 - 1].any()
            assert mask[:, x0].any()
            assert mask[:, x1 - 1].any()
        assert set(np.unique(seen.semantic)) <= set(range(len(scenes.SEMANTIC)))


def test_an_image_depends_on_its_key_alone_and_on_all_of_it():
    def image(split="train", position=3, seed=0):
        return scenes.rendering("multi", split, position, size=(32, 32), seed=seed).image

    before = image()
    assert (image() == before).all()
    for other in (image(split="val"), image(position=4), image(seed=1)):
        assert (other != before).any()


def test_all_kinds_and_numbers_of_solids_occur():
    drawn = [scenes.rendering("multi", "train", position, size=(32, 32)).kinds for position in range(60)]
    assert {int(kind) for kinds in drawn for kind in kinds} == set(range(len(KINDS)))
    assert {1, 2, 3, 4} <= {len(kinds) for kinds in drawn}


@given(st.integers(0, scenes.GRID - 1))
def test_factors_and_indexes_are_inverse(index):
    factors = scenes.factors_of(index)
    assert scenes.index_of(factors) == index
    assert all(0 <= factors[name] < count for name, count in scenes.FACTORS.items())


def test_the_splits_of_the_grid_are_those_of_mtl_split():
    parts = {split: scenes.grid_indexes(split) for split in scenes.SPLITS}
    assert {split: len(part) for split, part in parts.items()} == {"train": 324_000, "val": 36_000, "test": 120_000}
    assert len(np.unique(np.concatenate(list(parts.values())))) == scenes.GRID
    combinations = {split: set(map(int, part // 4800)) for split, part in parts.items()}  # floor hue, wall hue
    assert len(combinations["test"]) == 25
    assert not combinations["test"] & (combinations["train"] | combinations["val"])
    for side in (lambda c: c // 10, lambda c: c % 10):  # every single hue is in all splits
        assert {side(c) for c in combinations["train"]} == {side(c) for c in combinations["test"]} == set(range(10))


def test_a_seed_changes_the_order_but_never_the_set():
    one, other = scenes.grid_indexes("val", 0), scenes.grid_indexes("val", 1)
    assert (one != other).any()
    assert (np.sort(one) == np.sort(other)).all()


@pytest.mark.parametrize("factor", scenes.FACTORS)
def test_every_factor_shows(factor):
    middle = {name: count // 2 for name, count in scenes.FACTORS.items()}
    pictures = [
        render(scenes.single_scene(**{**middle, factor: value}), (32, 32)).image
        for value in range(scenes.FACTORS[factor])
    ]
    for one, other in itertools.pairwise(pictures):
        assert np.abs(one.astype(int) - other).max() > 20


def test_what_is_not_there_is_named():
    with pytest.raises(DataError, match="'mulit'.*'multi'"):
        scenes.rendering("mulit", "train", 0, size=(8, 8))
    with pytest.raises(DataError, match="'tset'"):
        scenes.capacity("single", "tset")
    with pytest.raises(DataError, match="36000"):
        scenes.rendering("single", "val", 36_000, size=(8, 8))
