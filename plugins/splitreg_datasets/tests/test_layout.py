"""Names of files, texts, splits, and the recognition of folders."""

import codecs
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from splitreg_datasets import layout

from splitreg.data.recognition import describe_folder, detect, hint, recognise
from splitreg.errors import DataError, SplitregError
from splitreg.interfaces import Dataset
from splitreg.registry import Registry, discover
from splitreg.specs import ComponentSpec, TargetSpec


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def test_hidden_files_and_folders_of_systems_do_not_count(tmp_path):
    touch(
        tmp_path, "a.jpg", "._a.jpg", ".b.png", ".cache/c.png", "__MACOSX/d.png", "@eaDir/a.jpg/thumb.jpg", "e/F.AVIF"
    )
    assert layout.images_in(tmp_path) == ["a.jpg", "e/F.AVIF"]


def test_links_are_followed_and_cycles_are_not(tmp_path):
    touch(tmp_path, "store/x/1.jpg", "store/2.jpg")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/folder").symlink_to(tmp_path / "store")
    (tmp_path / "set/file.jpg").symlink_to(tmp_path / "store/2.jpg")
    (tmp_path / "store/x/up").symlink_to(tmp_path / "set")
    names = layout.images_in(tmp_path / "set")
    assert names == ["file.jpg", "folder/2.jpg", "folder/x/1.jpg"]


def test_an_endless_link_ends(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "a")
    (tmp_path / "b").symlink_to(tmp_path)
    touch(tmp_path, "1.jpg")
    assert layout.images_in(tmp_path) == ["1.jpg"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    "encode",
    [
        lambda text: text.encode(),
        lambda text: codecs.BOM_UTF8 + text.encode(),
        lambda text: codecs.BOM_UTF16_LE + text.encode("utf-16-le"),
        lambda text: text.encode("latin-1"),
    ],
)
def test_texts_of_every_system(tmp_path, encode, end):
    path = tmp_path / "x.txt"
    path.write_bytes(encode(f"café{end}  {end}straße "))
    assert layout.read_lines(path) == ["café", "straße"]


def test_what_is_no_text(tmp_path):
    (tmp_path / "x").write_bytes(b"a\0b")
    for name in ("x", "missing", "."):
        with pytest.raises(DataError, match=str(tmp_path)):
            layout.read_text(tmp_path / name)


@pytest.mark.parametrize("name", ["../a", "/a", "a/../../b", "C:/a", "a\0b", "..\\a"])
def test_names_that_lead_out(name):
    assert not layout.inside(name)


@given(st.lists(st.text(min_size=1, max_size=8), unique=True, min_size=2, max_size=60), st.floats(0.01, 0.99))
def test_held_out_images_do_not_depend_on_their_order(stems, fraction):
    chosen = {stem for stem, out in zip(stems, layout.held_out(stems, fraction), strict=True) if out}
    again = list(reversed(stems))
    assert chosen == {stem for stem, out in zip(again, layout.held_out(again, fraction), strict=True) if out}
    assert 1 <= len(chosen) <= len(stems) - 1
    assert abs(len(chosen) - fraction * len(stems)) <= 1


def test_splits_in_every_spelling():
    named = {"Training": [1, 2], "VALID": [3], "testing": [4], "extra": [5]}
    splits = layout.make_splits(named, stem=str)
    assert splits.images == {"train": [1, 2], "val": [3], "test": [4], "extra": [5], "all": [1, 2, 3, 4, 5]}
    for spelling in ("val", "valid", "Validation"):
        assert splits.select(spelling, "x", "root") == [3]
    assert splits.counts() == "2 train, 1 val, 1 test and 1 extra images"


def test_every_class_is_in_both_splits_if_it_has_two_images():
    images = [("a", "1"), ("a", "2"), ("b", "3"), *[("c", str(i)) for i in range(10)]]
    splits = layout.make_splits({"": images}, stem=lambda i: i[1], group=lambda i: i[0])
    train, val = splits.images["train"], splits.images["val"]
    assert sorted(train + val) == sorted(images)
    assert [sum(kind == name for kind, _ in val) for name in "abc"] == [1, 0, 2]
    assert "20%" in splits.counts()


def test_messages_say_why_a_split_is_empty(tmp_path):
    single = layout.make_splits({"": ["a"]}, stem=str)
    with pytest.raises(DataError, match=r"2 images"):
        single.select("val", "x", tmp_path)
    named = layout.make_splits({"train": ["a"], "test": ["b"]}, stem=str)
    with pytest.raises(DataError, match="hold_out.*test"):
        named.select("val", "x", tmp_path)
    with pytest.raises(DataError, match="'train'"):
        named.select("trian", "x", tmp_path)
    with pytest.raises(DataError, match="'val'.*hold_out|hold_out.*'val'"):
        layout.make_splits({"train": ["a"], "val": ["b"]}, stem=str, hold_out=0.5)
    for fraction in (-0.1, 1.0):
        with pytest.raises(DataError, match="hold_out"):
            layout.make_splits({"train": ["a", "b"]}, stem=str, hold_out=fraction)
    parted = layout.make_splits({"train": list("abcdefgh"), "test": ["x"]}, stem=str, hold_out=0.25)
    assert [len(parted.images[name]) for name in ("train", "val", "test")] == [6, 2, 1]


# --- recognition


class Third(Dataset):
    """A third-party dataset."""

    @classmethod
    def describe(cls, root, **options):
        return {}

    @classmethod
    def recognise(cls, root):
        if os.path.basename(root) == "broken":
            raise RuntimeError("a plugin's own bug")
        if os.path.basename(root) == "damaged":
            raise DataError("third.bin is cut short")
        return "third: 7 images" if os.path.exists(os.path.join(root, "third.bin")) else None

    def __len__(self):
        return 0

    def __getitem__(self, index):
        raise IndexError(index)


class Labelled(Third):
    """One with classes."""

    @classmethod
    def describe(cls, root, **options):
        return {"classification": TargetSpec(task="classification", labels=("a", "b"))}

    @classmethod
    def recognise(cls, root):
        return "third: 2 classes, 1 images"


class Silent(Third):
    """One without an answer."""

    recognise = Dataset.recognise


REGISTRY = Registry.of(
    *(
        ComponentSpec(kind="dataset", name=name, api=1, target=f"{__name__}:{kind}", summary="x")
        for name, kind in (("third", "Third"), ("silent", "Silent"))
    )
)

LABELLED = Registry.of(
    ComponentSpec(kind="dataset", name="folder", api=1, target="splitreg_datasets.folder:Folder", summary="x"),
    ComponentSpec(kind="dataset", name="third", api=1, target=f"{__name__}:Labelled", summary="x"),
)


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    import sys

    monkeypatch.setitem(
        sys.modules, __name__, sys.modules.get(__name__) or __import__("types").SimpleNamespace(**globals())
    )


def test_third_party_datasets_are_asked_too(tmp_path):
    touch(tmp_path, "third.bin")
    assert recognise(tmp_path, REGISTRY) == [("third", "third: 7 images")]
    assert " third " in hint(tmp_path, "coco", REGISTRY)
    assert hint(tmp_path, "third", REGISTRY) == ""
    assert describe_folder("silent", tmp_path, REGISTRY) is None
    (tmp_path / "damaged").mkdir()
    [(name, line)] = recognise(tmp_path / "damaged", REGISTRY)
    assert name == "third" and "third.bin is cut short" in line
    (tmp_path / "broken").mkdir()
    assert recognise(tmp_path / "broken", REGISTRY) == []
    with pytest.raises(SplitregError, match="third.*own bug"):
        describe_folder("third", tmp_path / "broken", REGISTRY)


def test_a_dataset_with_labels_comes_before_one_without(tmp_path):
    touch(tmp_path, "train/a_1.jpg", "val/b_1.jpg")
    assert [name for name, _ in recognise(tmp_path, LABELLED)] == ["folder", "third"]
    assert detect(tmp_path, registry=LABELLED)[0::2] == ("third", ["folder"])


def test_a_huge_folder_is_answered_quickly(tmp_path, monkeypatch):
    """The answer "not mine" needs the names of a few thousand files, and no file is opened."""
    for number in range(6000):
        (tmp_path / f"{number:05d}.dat").touch()
    opened = []
    real = open
    monkeypatch.setattr("builtins.open", lambda *a, **k: opened.append(a[0]) or real(*a, **k))
    registry = discover()
    for name in registry["dataset"]:
        assert registry.component("dataset", name).cls.recognise(str(tmp_path)) is None
    assert not [path for path in opened if str(tmp_path) in str(path)]


def test_nothing_is_recognised_in_nothing(tmp_path):
    assert recognise(tmp_path) == []
    assert recognise(tmp_path / "missing") == []
    (tmp_path / "x.txt").write_text("hello")
    assert recognise(tmp_path / "x.txt") == []
