"""Images in a folder, a .tar or a .zip: their names, and the bytes of one. Nothing is unpacked to disk.

A store opens its file on first use in each process, so that it can be sent to data loader workers.
"""

from __future__ import annotations

import functools
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any, Protocol

from splitreg.errors import DataError
from splitreg.files import is_image
from splitreg_datasets.instances import inside

#: Largest image file, in bytes, packed or unpacked.
MAX_BYTES = 512_000_000
#: Largest number of files in an archive.
MAX_FILES = 5_000_000


class Store(Protocol):
    """Images by name; names are relative, with forward slashes."""

    path: Path

    def names(self) -> list[str]:
        """Return the names of all images, sorted."""
        ...

    def read(self, name: str) -> bytes:
        """Return the bytes of an image file."""
        ...


def open_store(path: Path) -> Store:
    """Return the store of a folder, a .tar or a .zip.

    Raises:
        DataError: the path is none of them, or a compressed .tar, which has no random access.
    """
    if path.is_dir():
        return FolderStore(path)
    if zipfile.is_zipfile(path):
        return ZipStore(path)
    if path.suffix in (".gz", ".tgz", ".xz", ".bz2", ".zst"):
        raise DataError(f"{path} is compressed as a whole and has no random access; unpack it")
    if tarfile.is_tarfile(path):
        return TarStore(path)
    raise DataError(f"{path} is neither a folder nor a complete .tar or .zip")


class FolderStore:
    """Images in a folder, at most three folders deep, without hidden files."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> list[str]:
        """Return the names of all images, sorted."""
        names: list[str] = []
        for folder, inner, files in os.walk(self.path):
            relative = Path(folder).relative_to(self.path)
            inner[:] = [name for name in inner if not name.startswith(".") and len(relative.parts) < 3]
            names += [(relative / name).as_posix() for name in files if is_image(name)]
        return sorted(names)

    def read(self, name: str) -> bytes:
        """Return the bytes of an image file."""
        path = self.path / name
        try:
            if path.stat().st_size > MAX_BYTES:
                raise DataError(f"{path} has more than {MAX_BYTES} bytes")
            return path.read_bytes()
        except OSError as cause:
            raise DataError(f"cannot read {path}: {cause.strerror}") from cause


class TarStore:
    """Images in an uncompressed .tar, read at the offsets in its headers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offsets = _tar_offsets(path, path.stat().st_mtime_ns, path.stat().st_size)

    def names(self) -> list[str]:
        """Return the names of all images, sorted."""
        return sorted(self._offsets)

    def read(self, name: str) -> bytes:
        """Return the bytes of an image file."""
        begin, size = self._offsets[name]
        with self.path.open("rb") as file:
            file.seek(begin)
            data = file.read(size)
        if len(data) != size:
            raise DataError(f"{self.path} ends in the middle of {name}")
        return data


@functools.lru_cache(maxsize=8)
def _tar_offsets(path: Path, modified: int, size: int) -> dict[str, tuple[int, int]]:
    offsets: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for number, member in enumerate(archive):
                if number >= MAX_FILES:
                    raise DataError(f"{path} holds more than {MAX_FILES} files")
                if not member.isreg() or member.issparse() or not is_image(member.name):
                    continue  # no links or devices: they could point outside the archive
                _check(path, member.name, member.size)
                if member.offset_data + member.size > size:
                    raise DataError(f"{path} is cut short: {member.name} is beyond its end")
                offsets[_clean(member.name)] = (member.offset_data, member.size)
    except (tarfile.TarError, OSError, ValueError) as cause:
        raise DataError(f"{path} is not a complete uncompressed .tar: {cause}") from cause
    return offsets


class ZipStore:
    """Images in a .zip."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: zipfile.ZipFile | None = None
        self._process = 0
        self._members: dict[str, str] = {}

    def names(self) -> list[str]:
        """Return the names of all images, sorted."""
        self._open()
        return sorted(self._members)

    def read(self, name: str) -> bytes:
        """Return the bytes of an image file."""
        archive = self._open()
        try:
            with archive.open(self._members[name]) as member:
                data = member.read(MAX_BYTES + 1)
        except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError, EOFError, ValueError) as cause:
            raise DataError(f"{self.path}: cannot read {name}: {cause}") from cause
        _check(self.path, name, len(data))  # the size in the header may be wrong
        return data

    def _open(self) -> zipfile.ZipFile:
        if self._file is None or self._process != os.getpid():  # a forked child shares the file position
            try:
                archive = zipfile.ZipFile(self.path)
            except (zipfile.BadZipFile, OSError) as cause:
                raise DataError(f"{self.path} is not a complete .zip: {cause}") from cause
            members = [m for m in archive.infolist() if not m.is_dir() and is_image(m.filename)]
            if len(members) > MAX_FILES:
                raise DataError(f"{self.path} holds more than {MAX_FILES} files")
            for member in members:
                _check(self.path, member.filename, member.file_size)
            self._members = {_clean(member.filename): member.filename for member in members}
            self._file, self._process = archive, os.getpid()
        return self._file

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}


def _clean(name: str) -> str:
    return "/".join(part for part in name.replace("\\", "/").split("/") if part != ".")


def _check(path: Path, name: str, size: int) -> None:
    if not inside(name):
        raise DataError(f"{path} holds {name!r}, which leads out of the archive")
    if size > MAX_BYTES:
        raise DataError(f"{path}: {name} has more than {MAX_BYTES} bytes")
