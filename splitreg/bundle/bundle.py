"""A bundle on disk: its typed config, and its files, each checked against its SHA-256 when it is read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from splitreg.bundle.config import CONFIG, BundleConfig
from splitreg.errors import BundleError
from splitreg.zoo import find_bundle


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that is open for reading.

    ::

        bundle = Bundle.open("zoo:splitreg-camvid")
        print(bundle.config.codec.name, len(bundle.read("edge.onnx")))

    Args:
        folder: where it is.
        config: its ``config.json``.
    """

    folder: Path
    config: BundleConfig

    @classmethod
    def open(cls, place: str | Path) -> Bundle:
        """Open a folder, or ``zoo:NAME``.

        Raises:
            BundleError: there is none, or its config is not valid.
        """
        folder = find_bundle(place)
        return cls(folder, BundleConfig.read(folder))

    def __contains__(self, name: str) -> bool:
        return name in self.config.files

    def read(self, name: str) -> bytes:
        """Read a file and compare its SHA-256 with the config's.

        Raises:
            BundleError: it is missing, not listed or altered.
        """
        with self._listed(name) as file:
            data = file.read()
        self._compare(hashlib.sha256(data).hexdigest(), name)
        return data

    def check(self, name: str) -> Path:
        """Compare a file's SHA-256 with the config's, without holding the file in memory; return its path.

        Raises:
            BundleError: it is missing, not listed or altered.
        """
        with self._listed(name) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self._compare(digest, name)
        return self.folder / name

    @contextmanager
    def _listed(self, name: str) -> Iterator[BufferedReader]:
        if name not in self.config.files:
            names = ", ".join(sorted(self.config.files))
            raise BundleError(f"the bundle {self.folder} does not list {name}; it lists {names}")
        try:
            with (self.folder / name).open("rb") as file:
                yield file
        except OSError as cause:
            raise BundleError(
                f"the bundle {self.folder} lacks {name}: {cause.strerror or cause}; copy the whole folder"
            ) from cause

    def _compare(self, digest: str, name: str) -> None:
        if digest != self.config.files[name]:
            raise BundleError(
                f"{self.folder / name} was altered or belongs to another bundle: its SHA-256 is not the one in {CONFIG}"
            )


def hash_folder(folder: Path) -> dict[str, str]:
    """Return relative name -> SHA-256 of every file but ``config.json``."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CONFIG)
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
