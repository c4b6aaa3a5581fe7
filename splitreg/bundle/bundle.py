"""``Bundle``: a typed config and files, each checked against its SHA-256 when it is read."""

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
    """A bundle, opened for reading.

    ::

        bundle = Bundle.open("zoo:splitreg-camvid")
        print(bundle.config.codec.name, len(bundle.read("edge.onnx")))

    Args:
        folder: the folder.
        config: the parsed ``config.json``.
    """

    folder: Path
    config: BundleConfig

    @classmethod
    def open(cls, place: str | Path) -> Bundle:
        """Open a folder, or ``zoo:NAME``.

        Raises:
            BundleError: there is no bundle, or its config is not valid.
        """
        folder = find_bundle(place)
        return cls(folder, BundleConfig.read(folder))

    def __contains__(self, name: str) -> bool:
        return name in self.config.files

    def read(self, name: str) -> bytes:
        """Read a file and check its SHA-256.

        Raises:
            BundleError: the file is missing, not listed or altered.
        """
        with self._listed(name) as file:
            data = file.read()
        self._compare(hashlib.sha256(data).hexdigest(), name)
        return data

    def check(self, name: str) -> Path:
        """Check the SHA-256 of a file without reading it into memory; return its path.

        Raises:
            BundleError: the file is missing, not listed or altered.
        """
        with self._listed(name) as file:
            digest = hashlib.sha256()
            while block := file.read(2**20):
                digest.update(block)
        self._compare(digest.hexdigest(), name)
        return self.folder / name

    @contextmanager
    def _listed(self, name: str) -> Iterator[BufferedReader]:
        if name not in self.config.files:
            names = ", ".join(sorted(self.config.files))
            raise BundleError(f"no {name} in the config of the bundle {self.folder}; it lists {names}")
        try:
            with (self.folder / name).open("rb") as file:
                yield file
        except OSError as cause:
            raise BundleError(
                f"cannot read {name} of the bundle {self.folder}: {cause.strerror or cause}; copy the whole folder"
            ) from cause

    def _compare(self, digest: str, name: str) -> None:
        if digest != self.config.files[name]:
            raise BundleError(
                f"{self.folder / name} is altered or from another bundle: its SHA-256 is {digest[:12]}..., {CONFIG} "
                f"states {self.config.files[name][:12]}..."
            )


def hash_folder(folder: Path) -> dict[str, str]:
    """Return relative name -> SHA-256 of every file except ``config.json``."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CONFIG)
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
