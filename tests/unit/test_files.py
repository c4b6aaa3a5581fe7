"""Atomic writes: links and devices, which a rename would replace."""

import os
import threading

import pytest

from splitreg.files import parse_json, write_atomic


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real/a").write_bytes(b"old")
    (tmp_path / "a").symlink_to("real/a")
    (tmp_path / "new").symlink_to("real/new")
    for name in ("a", "new"):
        write_atomic(tmp_path / name, b"data")
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / "real" / name).read_bytes() == b"data"
    assert sorted(os.listdir(tmp_path / "real")) == ["a", "new"]


@pytest.mark.parametrize("linked", [False, True])
def test_what_is_no_file_is_written_to_and_stays(tmp_path, linked):
    """A pipe stands for /dev/stdout and /dev/null here: for root they were replaced by files."""
    pipe = path = tmp_path / "pipe"
    os.mkfifo(pipe)
    if linked:
        path = tmp_path / "link"
        path.symlink_to(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write_atomic(path, b"data")
    reader.join(5)
    assert read == [b"data"]
    assert pipe.is_fifo()
    assert path.is_symlink() == linked


def test_json_that_is_nested_too_deep_is_an_error_of_its_values():
    for text in ("[" * 100_000, '{"a":' * 100_000):
        with pytest.raises(ValueError, match="nested"):
            parse_json(text)


def test_an_error_names_the_file(tmp_path):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with pytest.raises(OSError) as error:
            write_atomic(tmp_path / "a", b"x" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert error.value.filename == str(tmp_path / "a")
    assert not list(tmp_path.iterdir())
