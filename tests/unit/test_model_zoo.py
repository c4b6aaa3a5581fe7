"""Every recipe of the zoo stays short, plans on a dataset of its layout and takes a step; every bundle verifies."""

import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from support.training import train, train_late_head

import splitreg
import splitreg.publishing
from splitreg.demo.run import recipe as demo_recipe
from splitreg.training import Datasets, open_split

pytestmark = pytest.mark.integration

ZOO = Path(__file__).parents[2] / "model_zoo"
RECIPES = sorted((ZOO / "recipes").rglob("*.toml"))
BUNDLES = sorted(path.parent for path in ZOO.glob("*/config.json"))
#: Keys that make a recipe small, and pretrained weights unnecessary.
SMALL = {
    "ladon-ilsvrc": ["backbone=resnet18", "teacher.backbone=resnet18", "teacher.pretrained=false"],
    "ladon-coco": ["backbone=resnet18"],
    "compressible-camvid": ["backbone=resnet18"],
    "mtl-split-shapes3d": ["backbone=mobilenetv3_small_050", "cut=blocks.5"],
    "splitreg-three-datasets": ["backbone.pretrained=false", "teacher.pretrained=false", "heads.cls.pretrained=false"],
    "splitreg-pets": ["backbone.pretrained=false", "teacher.pretrained=false"],
    "entropic-student-camvid": ["backbone=resnet18", "teacher.backbone=resnet18", "teacher.pretrained=false"],
}


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """Dataset -> a folder of its layout, with three images per split."""
    folders = {
        name: tmp_path_factory.mktemp(name) for name in ("camvid", "coco", "folder", "scenes", "shapes3d", "voc")
    }
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        images = [{"id": i, "file_name": f"{i}.png", "height": 24, "width": 32} for i in range(3)]
        boxes = [{"id": i, "image_id": i, "category_id": 1, "bbox": [2, 3, 12, 9], "area": 108} for i in range(3)]
        categories = [{"id": i + 1, "name": name} for i, name in enumerate(("car", "pedestrian", "bicyclist"))]
        table = json.dumps({"images": images, "annotations": boxes, "categories": categories})
        (folders["camvid"] / f"instances_{split}.json").write_text(table)
        (folders["coco"] / "annotations").mkdir(exist_ok=True)
        (folders["coco"] / "annotations" / f"instances_{split}2017.json").write_text(table)
        for index in range(3):
            image = Image.fromarray(generator.integers(0, 255, (24, 32, 3), dtype=np.uint8))
            mask = Image.fromarray(generator.integers(0, 12, (24, 32), dtype=np.uint8))
            places = [folders["camvid"] / split, folders["coco"] / f"{split}2017"]
            for folder, content in (
                (places[0], image),
                (places[1], image),
                (folders["camvid"] / f"{split}annot", mask),
            ):
                folder.mkdir(exist_ok=True)
                content.save(folder / f"{index}.png")
        for index in range(1000):  # ImageNet's classes, with one image
            folder = folders["folder"] / split / f"n{index:04}"
            folder.mkdir(parents=True)
            (folder / "a.png").hardlink_to(places[0] / "0.png")
        write_voc(folders["voc"], split, generator)
    with h5py.File(folders["shapes3d"] / "3dshapes.h5", "w") as file:  # every combination of floor and wall hue
        file["images"] = generator.integers(0, 255, (100, 64, 64, 3), dtype=np.uint8)
        file["labels"] = [[i // 10 / 10, i % 10 / 10, 0.0, 0.75, 0.0, -30.0] for i in range(100)]
    return folders


def write_voc(root, split, generator):
    """Write three images of a split in VOC's layout, each with a dog and its mask."""
    for folder in ("JPEGImages", "Annotations", "SegmentationClass", "ImageSets/Main", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    names = [f"{split}{index}" for index in range(3)]
    for name in names:
        Image.fromarray(generator.integers(0, 255, (24, 32, 3), dtype=np.uint8)).save(root / f"JPEGImages/{name}.jpg")
        Image.fromarray(np.full((24, 32), 1, np.uint8)).save(root / f"SegmentationClass/{name}.png")
        box = "<xmin>3</xmin><ymin>4</ymin><xmax>20</xmax><ymax>18</ymax>"
        size = "<size><width>32</width><height>24</height><depth>3</depth></size>"
        (root / f"Annotations/{name}.xml").write_text(
            f"<annotation>{size}<object><name>dog</name><difficult>0</difficult><bndbox>{box}</bndbox></object></annotation>"
        )
    for image_set in ("Main", "Segmentation"):
        (root / f"ImageSets/{image_set}/{split}.txt").write_text("\n".join(names))
    lines = [f"{name}.jpg,0,dog" for name in names]
    (root / f"classes_{split}.csv").write_text("\n".join(["file_name,class_index,name", *lines]))


def read(path, roots, *overrides):
    names = [part.name for part in splitreg.Recipe.read(path).data]
    places = [f"data.{name}.root={roots[name]}" for name in names]
    return splitreg.Recipe.read(path, [*places, *overrides])


class First:
    """The first images of a dataset."""

    def __init__(self, source, count):
        self._source, self._count, self.targets = source, count, source.targets

    def __len__(self):
        return self._count

    def __getitem__(self, index):
        return self._source[index]


def a_few_steps(path, roots, folder, *overrides, model=None):
    """Train every stage of a recipe for one step or two, on small images."""
    small = [f"input.size={[64, 96]}", *SMALL.get(path.stem, []), *overrides]
    recipe = next(point for _, point in read(path, roots, *small).points())
    keys = [f"stages.{i}.{key}" for i in range(len(recipe.stages)) for key in ("epochs=1", "batch_size=2")]
    recipe = next(point for _, point in read(path, roots, *small, *keys).points())
    few = Datasets(train=First(open_split(recipe, "train"), 3), val=First(open_split(recipe, "val"), 2))
    options = {"output": folder, "datasets": few, "device": "cpu", "tensorboard": False, "progress": False}
    if model is not None:
        return train_late_head(model, recipe, recipe.heads[0].name, **options)
    return train(recipe, **options)


def moved(before, after):
    return {name.split(".")[0] for name, tensor in after.items() if not torch.equal(tensor, before[name])}


def test_there_are_recipes():
    assert RECIPES


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_recipe_is_short_and_plans(path, roots):
    assert len(path.read_text().splitlines()) <= 40
    planned_models = []
    for _, point in read(path, roots).points():
        if (model := replace(point, stages=())) in planned_models:
            continue  # points that differ in training only have one plan
        planned_models.append(model)
        planned = splitreg.plan(point)
        assert planned.shapes.latent[0] == planned.bottleneck.meta.latent.channels


@pytest.mark.parametrize(
    "name",
    [
        "compressible-camvid", "compressible-camvid-small", "compressible-scenes", "entropic-student-camvid",
        "mtl-split-scenes", "mtl-split-shapes3d", "splitreg-dense-scenes", "splitreg-pets",
        "splitreg-three-datasets",
    ],
)  # fmt: skip
def test_recipe_trains(name, roots, tmp_path, monkeypatch):
    monkeypatch.setenv("SPLITREG_CACHE", str(tmp_path / "cache"))
    extra = ["data.count=3", "data.size=32"] if name.endswith("-scenes") else []
    result = a_few_steps(ZOO / "recipes" / f"{name}.toml", roots, tmp_path / "run", *extra)
    assert all(np.isfinite(line["train"]["loss"]) for line in result.history)
    assert [line["stage"] for line in result.history] == [stage.name for stage in result.model.recipe.stages]


def test_ladon_trains_on_one_bitstream_and_takes_a_late_head(roots, tmp_path):
    stages = a_few_steps(ZOO / "recipes" / "ladon-ilsvrc.toml", roots, tmp_path / "first")
    assert [line["stage"] for line in stages.history] == ["bottleneck", "server", "head"]
    late = a_few_steps(ZOO / "recipes" / "ladon-coco.toml", roots, tmp_path / "late", model=stages.model)
    assert late.model.heads == ("cls", "det") and late.packets_compared
    third = a_few_steps(ZOO / "recipes" / "ladon-voc.toml", roots, tmp_path / "third", model=late.model)
    assert third.model.heads == ("cls", "det", "seg") and third.packets_compared


def test_ladon_on_camvid_starts_as_its_teacher_and_trains_stage_by_stage(roots, tmp_path):
    recipes = ZOO / "recipes"
    teacher = a_few_steps(recipes / "camvid-small-unsplit.toml", roots, tmp_path / "teacher")
    bundle = splitreg.save(teacher.model, tmp_path / "bundle")
    states = [splitreg.load(bundle).state_dict()]
    for count in (1, 2, 3):  # a run of the first stages is what a longer one passes through
        whole = read(recipes / "ladon-camvid.toml", roots).to_mapping()["stages"][:count]
        path = tmp_path / f"{count}.toml"
        text = (recipes / "ladon-camvid.toml").read_text().split("[[stages]]")
        path.write_text("[[stages]]".join(text[: count + 1]))
        result = a_few_steps(path, roots, tmp_path / f"run-{count}", f"teacher.bundle={bundle}")
        assert [line["stage"] for line in result.history] == [stage["name"] for stage in whole]
        states.append(result.model.state_dict())
    teacher_weights, first, second, third = states
    for name, tensor in first.items():
        if name.startswith(("body", "branches")):
            assert torch.equal(tensor, teacher_weights[name]), f"{name} was to start as the teacher's and stay so"
    for name in (n for n, tensor in second.items() if not torch.equal(tensor, first[n])):
        assert not name.startswith(("bottleneck.encoder", "bottleneck.prior", "branches.det")), name
    assert moved(first, second) == {"bottleneck", "body", "branches"}
    assert {n.split(".")[1] for n, t in third.items() if not torch.equal(t, second[n])} == {"det"}


def test_the_demo_plans():
    assert [head.name for head in splitreg.plan(demo_recipe()).heads] == ["cls", "det", "seg"]


@pytest.mark.parametrize("path", BUNDLES, ids=lambda p: p.name)
def test_bundle_verifies(path):
    assert all(check.passed for check in splitreg.publishing.verify(path)), splitreg.publishing.verify(path)
    assert sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) <= 7_500_000
