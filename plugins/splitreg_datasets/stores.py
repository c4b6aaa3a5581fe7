"""Pictures in a folder, a .tar or a .zip: their names, and the bytes of one. Nothing is ever unpacked to disk.

A store opens its file when first asked, once a process, so that it can be handed to data loader workers.
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
from splitreg_datasets.layout import images_in, inside, visible

#: A picture's file may not be larger, nor unpack to more.
MAX_BYTES = 512_000_000
#: Nor may an archive hold more files.
MAX_FILES = 5_000_000


class Store(Protocol):
    """Pictures by name; names are relative, with forward slashes."""

    path: Path

    def names(self) -> list[str]:
        """Return the names of all pictures, sorted."""
        ...

    def read(self, name: str) -> bytes:
        """Return the bytes of one."""
        ...


def open_store(path: Path) -> Store:
    """Return the store of a folder, a .tar or a .zip.

    Raises:
        DataError: none of them, or a compressed .tar, which cannot be read in any order.
    """
    if path.is_dir():
        return FolderStore(path)
    if zipfile.is_zipfile(path):
        return ZipStore(path)
    if path.suffix in (".gz", ".tgz", ".xz", ".bz2", ".zst"):
        raise DataError(f"{path} is compressed as a whole, so that each picture would cost all before it; unpack it")
    if tarfile.is_tarfile(path):
        return TarStore(path)
    raise DataError(f"{path} is neither a folder nor a whole .tar or .zip")


class FolderStore:
    """Pictures in a folder, at most three folders deep; what is hidden does not count."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> list[str]:
        """Return the names of all pictures, sorted."""
        return sorted(images_in(self.path, depth=3))

    def read(self, name: str) -> bytes:
        """Return the bytes of one."""
        path = self.path / name
        try:
            if path.stat().st_size > MAX_BYTES:
                raise DataError(f"{path} has more than {MAX_BYTES} bytes")
            return path.read_bytes()
        except OSError as cause:
            raise DataError(f"cannot read {path}: {cause.strerror}") from cause


class TarStore:
    """Pictures in an uncompressed .tar, read in any order at the places that its headers give."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places = _tar_places(path, path.stat().st_mtime_ns, path.stat().st_size)

    def names(self) -> list[str]:
        """Return the names of all pictures, sorted."""
        return sorted(self._places)

    def read(self, name: str) -> bytes:
        """Return the bytes of one."""
        begin, size = self._places[name]
        with self.path.open("rb") as file:
            file.seek(begin)
            data = file.read(size)
        if len(data) != size:
            raise DataError(f"{self.path} ends in the middle of {name}")
        return data


@functools.lru_cache(maxsize=8)
def _tar_places(path: Path, modified: int, size: int) -> dict[str, tuple[int, int]]:
    places: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for number, member in enumerate(archive):
                if number >= MAX_FILES:
                    raise DataError(f"{path} holds more than {MAX_FILES} files")
                if not member.isreg() or member.issparse() or not _is_picture(member.name):
                    continue  # links and devices too: an archive must not lead out of itself
                _check(path, member.name, member.size)
                if member.offset_data + member.size > size:
                    raise DataError(f"{path} is cut short: {member.name} lies beyond its end")
                places[_clean(member.name)] = (member.offset_data, member.size)
    except (tarfile.TarError, OSError, ValueError) as cause:
        raise DataError(f"{path} is not a whole uncompressed .tar: {cause}") from cause
    return places


class ZipStore:
    """Pictures in a .zip."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: zipfile.ZipFile | None = None
        self._process = 0
        self._members: dict[str, str] = {}

    def names(self) -> list[str]:
        """Return the names of all pictures, sorted."""
        self._open()
        return sorted(self._members)

    def read(self, name: str) -> bytes:
        """Return the bytes of one."""
        archive = self._open()
        try:
            with archive.open(self._members[name]) as member:
                data = member.read(MAX_BYTES + 1)
        except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError, EOFError, ValueError) as cause:
            raise DataError(f"{self.path}: cannot read {name}: {cause}") from cause
        _check(self.path, name, len(data))  # a header may understate what it unpacks to
        return data

    def _open(self) -> zipfile.ZipFile:
        if self._file is None or self._process != os.getpid():  # a child must not share the parent's file position
            try:
                archive = zipfile.ZipFile(self.path)
            except (zipfile.BadZipFile, OSError) as cause:
                raise DataError(f"{self.path} is not a whole .zip: {cause}") from cause
            members = [m for m in archive.infolist() if not m.is_dir() and _is_picture(m.filename)]
            if len(members) > MAX_FILES:
                raise DataError(f"{self.path} holds more than {MAX_FILES} files")
            for member in members:
                _check(self.path, member.filename, member.file_size)
            self._members = {_clean(member.filename): member.filename for member in members}
            self._file, self._process = archive, os.getpid()
        return self._file

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}


def _is_picture(name: str) -> bool:
    """Whether a name is an image's, and neither it nor a folder on the way is hidden."""
    return is_image(name) and all(visible(part) or part in (".", "..") for part in name.split("/"))


def _clean(name: str) -> str:
    return "/".join(part for part in name.replace("\\", "/").split("/") if part != ".")


def _check(path: Path, name: str, size: int) -> None:
    if not inside(name):
        raise DataError(f"{path} holds {name!r}, which leads out of it; refused")
    if size > MAX_BYTES:
        raise DataError(f"{path}: {name} has more than {MAX_BYTES} bytes")
