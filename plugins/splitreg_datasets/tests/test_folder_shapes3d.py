import io
import pickle
import tarfile
import zipfile

import h5py
import numpy as np
import pytest
from PIL import Image
from splitreg_datasets.folder import Folder
from splitreg_datasets.shapes3d import RANGES, Shapes3D
from splitreg_datasets.stores import open_store
from splitreg_scenes.rendering import FACTORS, factors_of, unseen

from splitreg.errors import DataError
from splitreg.testing import run

FILES = {
    f"{split}/{name}/{i}.png": (i, i, i) for split in ("train", "val") for name in ("ant", "bee") for i in range(5)
}


def png(colour=(1, 2, 3), size=(4, 5)):
    data = io.BytesIO()
    Image.new("RGB", size[::-1], colour).save(data, "PNG")
    return data.getvalue()


def write(kind, path, files):
    """Put pictures into a folder, a .tar or a .zip; returns the path."""
    files = {name: data if isinstance(data, bytes) else png(data) for name, data in files.items()}
    if kind == "folder":
        for name, data in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
        return path
    path = path / f"archive.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    else:
        with tarfile.open(path, "w") as archive:
            for name, data in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize("kind", ["folder", "tar", "zip"])
@pytest.mark.parametrize("prefix", ["", "./", "all/"])
def test_class_folders_of_splits(tmp_path, kind, prefix):
    files = {**FILES, "train/._hidden.png": b"", "train/ant/notes.txt": b"x"}
    path = write(kind, tmp_path, {prefix + name: data for name, data in files.items()})
    dataset = Folder(str(path), "train")
    assert (
        dataset.targets["classification"].labels
        == ("ant", "bee")
        == Folder.describe(str(path))["classification"].labels
    )
    assert len(dataset) == len(Folder(str(path), "val")) == 10
    assert len(Folder(str(path), "all")) == 20
    for index in range(10):
        sample = dataset[index]
        assert sample.targets["classification"].index == ("/bee/" in sample.name)
        assert sample.array()[0, 0, 0] == int(sample.name[-5])
    again = pickle.loads(pickle.dumps(dataset))
    assert (again[3].array() == dataset[3].array()).all()
    with pytest.raises(DataError, match="no split 'test'.*all, train, val"):
        Folder(str(path), "test")


def test_an_archive_alone_in_its_folder(tmp_path):
    write("tar", tmp_path, FILES)
    (tmp_path / "README.md").write_text("")
    assert len(Folder(str(tmp_path), "train")) == 10


def test_classes_without_splits_are_parted(tmp_path):
    files = {f"{name}/{i:02d}.png": (i, 0, 0) for name in ("ant", "bee") for i in range(10)}
    path = str(write("folder", tmp_path, files))
    train, val = (
        [s.name for s in map(d.__getitem__, range(len(d)))] for d in (Folder(path, "train"), Folder(path, "val"))
    )
    assert (len(train), len(val)) == (16, 4)
    assert sorted(train + val) == sorted(files)
    assert {name[:3] for name in val} == {"ant", "bee"}


def test_a_flat_folder_has_no_labels(tmp_path):
    path = str(write("folder", tmp_path, {f"{i}.png": (i, 0, 0) for i in range(3)}))
    dataset = Folder(path, "val")
    assert len(dataset) == 3
    assert dataset.targets == {}
    assert dataset[0].targets == {}
    write("folder", tmp_path, {"ant/1.png": (0, 0, 0)})
    with pytest.raises(DataError, match=r"0\.png lies in none"):
        Folder(path)


def test_folders_that_hold_none(tmp_path):
    with pytest.raises(DataError, match="there is nothing"):
        Folder(str(tmp_path))
    (tmp_path / "x.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(DataError, match="compressed as a whole"):
        Folder(str(tmp_path / "x.gz"))
    (tmp_path / "x.tar").write_bytes(b"nothing")
    with pytest.raises(DataError, match="neither a folder nor a whole"):
        Folder(str(tmp_path / "x.tar"))


def test_a_broken_picture_is_named(tmp_path):
    path = write("zip", tmp_path, {"ant/1.png": png()[:40]})
    with pytest.raises(DataError, match=r"archive\.zip.*ant/1\.png"):
        Folder(str(path))[0]


@pytest.mark.parametrize("name", ["../up.png", "/etc/up.png", "a/../../up.png"])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_archives_that_lead_out_of_themselves(tmp_path, kind, name):
    path = write(kind, tmp_path, {"ant/1.png": (0, 0, 0), name: (0, 0, 0)})
    with pytest.raises(DataError, match="leads out"):
        Folder(str(path))


def test_links_in_a_tar_are_not_followed(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        link = tarfile.TarInfo("ant/1.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(DataError, match="expected"):
        Folder(str(tmp_path / "x.tar"))


def test_files_that_unpack_to_too_much(tmp_path, monkeypatch):
    path = write("zip", tmp_path, {"ant/1.png": bytes(2_000)})
    write("folder", tmp_path, {"ant/1.png": bytes(2_000)})
    monkeypatch.setattr("splitreg_datasets.stores.MAX_BYTES", 1_000)
    for place in (path, write("tar", tmp_path, {"ant/1.png": bytes(2_000)})):
        with pytest.raises(DataError, match="more than 1000 bytes"):
            open_store(place).names()
    with pytest.raises(DataError, match="more than 1000 bytes"):
        open_store(tmp_path).read("ant/1.png")


def test_archives_cut_short(tmp_path):
    for kind in ("tar", "zip"):
        path = write(kind, tmp_path, {f"ant/{i}.png": np.random.default_rng(i).bytes(3_000) for i in range(4)})
        path.write_bytes(path.read_bytes()[:6_000])
        with pytest.raises(DataError):
            store = open_store(path)
            [store.read(name) for name in store.names()]


@pytest.fixture
def shapes(tmp_path):
    """A thin slice of the published file: two values of each of the small factors, all hues of floor and wall."""
    rng = np.random.default_rng(0)
    rows = [factors_of(i) for i in rng.choice(480_000, 300, replace=False)]
    index = np.array([[row[name] for name in FACTORS] for row in rows])
    low, high = (np.array([bounds[i] for bounds in RANGES.values()]) for i in (0, 1))
    values = low + index / (np.array(list(FACTORS.values())) - 1) * (high - low)
    with h5py.File(tmp_path / "3dshapes.h5", "w") as file:
        file["images"] = np.broadcast_to(
            np.arange(300, dtype=np.uint16)[:, None, None, None] % 256, (300, 64, 64, 3)
        ).astype("u1")
        file["labels"] = values
    return tmp_path, index


def test_shapes3d_factors_and_splits(shapes):
    root, index = shapes
    parts = {split: Shapes3D(str(root), split) for split in ("train", "val", "test")}
    assert sum(map(len, parts.values())) == 300
    names = []
    for split, dataset in parts.items():
        for number in range(len(dataset)):
            sample = dataset[number]
            row = int(sample.name)
            names.append(row)
            assert [target.index for target in sample.targets.values()] == index[row].tolist()
            assert list(sample.targets) == list(FACTORS)
            assert sample.array()[0, 0, 0] == row % 256
            assert unseen(index[row, 0], index[row, 1]) == (split == "test")
    assert sorted(names) == list(range(300))


def test_shapes3d_options(shapes):
    root, _ = shapes
    assert len(Shapes3D(str(root / "3dshapes.h5"), "train", count=7)) == 7
    noisy = Shapes3D(str(root), "train", noise=0.5)
    assert (noisy[0].array() == noisy[0].array()).all()
    assert len(np.unique(noisy[0].array())) == 3
    again = pickle.loads(pickle.dumps(noisy))
    assert (again[1].array() == noisy[1].array()).all()
    with pytest.raises(DataError, match="no split 'trian'"):
        Shapes3D(str(root), "trian")
    with pytest.raises(DataError, match="not 1000"):
        Shapes3D(str(root), "train", count=1000)


def test_files_that_are_not_shapes3d(shapes, tmp_path):
    root, _ = shapes
    with h5py.File(root / "3dshapes.h5", "a") as file:
        file["labels"][5, 3] = 0.8
    with pytest.raises(DataError, match=r"label 5 has 0\.8 for scale"):
        Shapes3D(str(root))
    with h5py.File(root / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(DataError, match=r"expected datasets.*there is \['x'\]"):
        Shapes3D(str(root / "other.h5"))
    (root / "3dshapes.h5").write_bytes(b"no")
    with pytest.raises(DataError, match="HDF5"):
        Shapes3D(str(root))
    (root / "3dshapes.h5").unlink()
    with pytest.raises(DataError, match=r"expected 3dshapes\.h5"):
        Shapes3D.describe(str(root))


def test_the_contract_is_kept(shapes, tmp_path_factory):
    root = write("zip", tmp_path_factory.mktemp("classes"), FILES)
    for reader, place in (("shapes3d", shapes[0]), ("folder", root)):
        assert [result for result in run("dataset", reader, options={"root": str(place)}) if not result.passed] == []
