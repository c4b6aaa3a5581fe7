"""Videos: the MOTChallenge layout and folders of frames."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from splitreg_datasets.clips import Frames, natural_key
from splitreg_datasets.mot import Mot
from splitreg_datasets.mottext import read_info, read_rows

from splitreg.data.recognition import recognise
from splitreg.errors import DataError
from splitreg.testing import run

#: frame, id, left, top, width, height, counts, class, visibility
TRUTH = """\
2,1,3,1,4,5,1,1,1.0
1,1,1,1,4,5,1,1,1
1,2,5,2,4,4,1,1,0.2
1,3,2,2,3,3,0,1,1
1,4,2,2,3,3,1,3,1
1,5,2,2,3,3,1,8,1
2,2,11,7,30,30,1,1,0.9
"""


@pytest.fixture
def mot(tmp_path, picture):
    for sequence, frames in (("train/A-01", 3), ("train/A-02", 2), ("test/B-01", 2)):
        for number in range(1, frames + 1):
            picture(f"{sequence}/img1/{number:06d}.jpg")
        (tmp_path / sequence / "seqinfo.ini").write_text(
            "[Sequence]\nname=x\nimDir=img1\nframeRate=14\nseqLength=3\nimWidth=12\nimHeight=8\nimExt=.jpg\n"
        )
        (tmp_path / sequence / "gt").mkdir()
    (tmp_path / "train/A-01/gt/gt.txt").write_text(TRUTH)
    (tmp_path / "train/A-02/gt/gt.txt").write_text("")
    (tmp_path / "test/B-01/gt").rmdir()
    (tmp_path / "train/A-01/det").mkdir()
    (tmp_path / "train/A-01/det/det.txt").write_text("1,-1,1,1,2,3,0.4\n1,-1,3,3,2,2,0.9\n")
    return tmp_path


def test_objects_crowds_and_identities(mot):
    dataset = Mot(str(mot), "all")
    assert [(clip.name, clip.frames, clip.rate) for clip in dataset.clips] == [
        ("test/B-01", range(0, 2), 14.0), ("train/A-01", range(2, 5), 14.0), ("train/A-02", range(5, 7), 14.0),
    ]  # fmt: skip
    assert dataset[0].targets == {}, "the test split has no ground truth"
    boxes = dataset[2].targets["detection"]
    assert dataset[2].name == "train/A-01/000001.jpg"
    assert boxes.boxes.tolist() == [[0, 0, 4, 5], [4, 1, 8, 5], [1, 1, 4, 4], [1, 1, 4, 4]], "counted from 0"
    assert boxes.identities.tolist() == [1, 2, 3, 5]
    assert boxes.crowd.tolist() == [False, False, True, True], "a row that does not count, a distractor"
    assert dataset[3].targets["detection"].boxes.tolist() == [[2, 0, 6, 5], [10, 6, 12, 8]], "clipped"
    assert dataset[4].targets["detection"].identities.tolist() == []
    assert dataset.targets["detection"].labels == ("pedestrian",)


def test_halves_of_sequences_are_held_out(mot):
    assert [len(clip.frames) for clip in Mot(str(mot), "train").clips] == [2, 1]
    assert [Mot(str(mot), "val")[i].name for i in (0, 1)] == ["train/A-01/000003.jpg", "train/A-02/000002.jpg"]
    assert len(Mot(str(mot), "test")) == 2
    with pytest.raises(DataError, match="'tset'.*'test'"):
        Mot(str(mot), "tset")
    (mot / "val").mkdir()
    (mot / "train/A-02").rename(mot / "val/A-02")
    assert [clip.name for clip in Mot(str(mot), "train").clips] == ["train/A-01"]
    assert [clip.name for clip in Mot(str(mot), "val").clips] == ["val/A-02"]


def test_names_visibility_and_origin(mot):
    names = "pedestrian,rider,car,bicycle,motorbike,cart,sitting,distractor"
    boxes = Mot(str(mot), "train", classes=names, min_visibility=0.5, origin="0")[0].targets["detection"]
    assert boxes.labels.tolist() == [0, 0, 0, 2, 7]
    assert boxes.crowd.tolist() == [False, True, True, False, False]
    assert boxes.boxes[0].tolist() == [1, 1, 5, 6]
    with pytest.raises(DataError, match=r"gt\.txt, frame 1: class 3 of 2"):
        Mot(str(mot), "train", classes="a,b")[0]
    for wrong in ({"origin": "2"}, {"min_visibility": 2}):
        with pytest.raises(DataError, match=next(iter(wrong))):
            Mot(str(mot), "train", **wrong)


def test_public_detections(mot):
    dataset = Mot(str(mot), "train")
    detections = dataset.detections(0)
    assert detections.boxes.tolist() == [[2, 2, 4, 4], [0, 0, 2, 3]]
    assert detections.scores.tolist() == pytest.approx([0.9, 0.4])
    assert len(dataset.detections(1).boxes) == 0
    assert dataset.detections(2) is None, "A-02 has no file"


def test_one_sequence_and_exports_of_cvat(mot, tmp_path):
    assert [clip.name for clip in Mot(str(mot / "train/A-01"), "all").clips] == ["A-01"]
    assert len(Mot(str(mot / "train"), "all")) == 5, "sequences without splits"
    sequence = mot / "train/A-01"
    (sequence / "seqinfo.ini").unlink()
    (sequence / "gt/labels.txt").write_text("cat\ndog\nbird\n")
    (sequence / "gt/gt.txt").write_text("1,1,1,1,4,5,1,2,1\n")
    dataset = Mot(str(sequence), "all")
    assert dataset.targets["detection"].labels == ("cat", "dog", "bird") and dataset.clips[0].rate == 0
    boxes = dataset[0].targets["detection"]
    assert boxes.boxes.tolist() == [[1, 1, 5, 6]] and boxes.labels.tolist() == [1], "CVAT counts from 0"


def test_conformance(mot, tmp_path, picture):
    for reader, root in (("mot", mot), ("frames", mot)):
        failed = [result for result in run("dataset", reader, options={"root": str(root)}) if not result.passed]
        assert failed == []
    assert dict(recognise(mot))["mot"] == "mot: 3 sequences, 7 frames, 2 with gt.txt"


def test_files_of_mot15_have_no_classes(mot):
    path = mot / "train/A-01/gt/gt.txt"
    path.write_text("1,1,1,1,4,5,1,-1,-1,-1\n1,2,3,1,4,5,0,-1,-1,-1\n")
    boxes = Mot(str(mot), "train")[0].targets["detection"]
    assert boxes.crowd.tolist() == [False, True] and boxes.labels.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("1,1,1,1,4,5,1\n1,2,3,x,4,5,1", 2), ("1,1,1,1,4", 1), ("\n1,1,1,1,4,5,1\n0,1,1,1,4,5,1", 3),
        ("1,1,1,1,4,5,1\n1,1,1,1,4,5", 2), ("1.5,1,1,1,4,5,1", 1), ("1,1,nan,1,4,5,1", 1), ("1,1,1,1,4,5,1,1.5", 1),
        ("99999999999,1,1,1,1,1", 1),
    ],
)  # fmt: skip
def test_lines_that_are_none(text, line, tmp_path):
    (tmp_path / "gt.txt").write_text(text)
    with pytest.raises(DataError, match=rf"gt\.txt, line {line}:"):
        read_rows(tmp_path / "gt.txt")


def test_two_objects_of_one_identity(mot):
    (mot / "train/A-01/gt/gt.txt").write_text("1,7,1,1,4,5,1,1,1\n1,7,2,1,4,5,1,1,1\n")
    with pytest.raises(DataError, match="frame 1: two objects have the identity 7"):
        Mot(str(mot), "train")[0]


@pytest.mark.parametrize("text", ["[Sequence]\nimDir=../x\n", "[Sequence]\nframeRate=fast\n", "frameRate=3", "[x\ny"])
def test_sequence_files_that_are_none(text, tmp_path):
    (tmp_path / "seqinfo.ini").write_text(text)
    with pytest.raises(DataError, match=r"seqinfo\.ini"):
        read_info(tmp_path / "seqinfo.ini")


def test_frames_of_odd_names(mot, picture):
    picture("train/A-01/img1/1.jpg")
    with pytest.raises(DataError, match="two images of frame 1"):
        Mot(str(mot), "train")
    (mot / "train/A-01/img1/1.jpg").rename(mot / "train/A-01/img1/cover.jpg")
    with pytest.raises(DataError, match=r"cover\.jpg"):
        Mot(str(mot), "train")


def test_what_is_not_of_the_layout(tmp_path, picture):
    picture("cats/one.jpg")
    with pytest.raises(DataError, match="img1"):
        Mot(str(tmp_path), "train")
    assert Mot.recognise(str(tmp_path)) is None
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="frames"):
        Frames(str(tmp_path / "empty"), "train")


ROWS = st.lists(
    st.tuples(
        st.integers(1, 9), st.integers(-1, 99), *[st.floats(-99, 999, allow_nan=False).map(lambda v: round(v, 2))] * 4,
        st.sampled_from([0, 1]), st.integers(1, 13), st.floats(0, 1).map(lambda v: round(v, 3)),
    )
)  # fmt: skip


@given(ROWS)
def test_rows_survive_writing(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "gt.txt"
    path.write_text("\r\n".join(",".join(map(str, row)) for row in rows))
    read = read_rows(path)
    expected = sorted(rows, key=lambda row: row[0])
    np.testing.assert_allclose(read.boxes, np.array([row[2:6] for row in expected]).reshape(-1, 4))
    assert read.identities.tolist() == [row[1] for row in expected]
    for frame in range(1, 10):
        assert len(read.frames[read.of_frame(frame)]) == sum(row[0] == frame for row in rows)


@given(st.text(alphabet="0123456789.,-e \n\rnaif", max_size=80))
def test_any_text_is_read_or_refused(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_text(text)
    try:
        rows = read_rows(path)
    except DataError as error:
        assert "any.txt" in str(error)
    else:
        assert np.isfinite(rows.boxes).all() and (rows.frames >= 1).all()


def test_frames_by_clip_and_split(tmp_path, picture):
    for name in ("a/f10.png", "a/f9.png", "b/deep/1.png", "b/deep/2.png", "b/deep/3.png"):
        picture(name)
    dataset = Frames(str(tmp_path), "val", rate=10, every=2)
    assert [(clip.name, len(clip.frames), clip.rate) for clip in dataset.clips] == [("a", 1, 5.0), ("b/deep", 2, 5.0)]
    assert [dataset[i].name for i in range(3)] == ["a/f9.png", "b/deep/1.png", "b/deep/3.png"]
    assert [clip.name for clip in Frames(str(tmp_path / "a"), "train").clips] == ["a"]
    for wrong in ({"rate": -1}, {"every": 0}):
        with pytest.raises(DataError, match=next(iter(wrong))):
            Frames(str(tmp_path), "train", **wrong)
    picture("train/c/1.png")
    picture("val/d/1.png")
    assert [clip.name for clip in Frames(str(tmp_path), "val").clips] == ["val/d"]
    with pytest.raises(DataError, match="'test'"):
        Frames(str(tmp_path), "test")


@given(st.lists(st.text(alphabet="ab01 2", max_size=5), max_size=6))
def test_names_have_one_order(names):
    assert sorted(names, key=natural_key) == sorted(reversed(names), key=natural_key)
