"""``Bundle``: a typed config and files, each checked against its SHA-256 when it is read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from io import BufferedReader
from pathlib import Path

from splitreg.bundle.config import CONFIG, BundleConfig
from splitreg.errors import BundleError, HubError
from splitreg.hub import discard, fetch, snapshot_place
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
        """Open a folder, ``zoo:NAME``, or ``hf:ORG/NAME[@REVISION]``.

        Of a bundle on the Hub, a file is fetched when it is read for the first time.

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

    def fetch_all(self) -> None:
        """Of a bundle on the Hub, fetch every file that is not in the cache yet.

        Raises:
            HubError: a file cannot be fetched, or is damaged.
        """
        for name in self.config.files:
            self._fetch(name)

    @contextmanager
    def _listed(self, name: str) -> Iterator[BufferedReader]:
        if name not in self.config.files:
            names = ", ".join(sorted(self.config.files))
            raise BundleError(f"no {name} in the config of the bundle {self.folder}; it lists {names}")
        self._fetch(name)
        try:
            with (self.folder / name).open("rb") as file:
                yield file
        except OSError as cause:
            raise BundleError(
                f"cannot read {name} of the bundle {self.folder}: {cause.strerror or cause}; copy the whole folder"
            ) from cause

    def _fetch(self, name: str) -> None:
        """Of a bundle on the Hub, fetch a file that is missing or damaged: a download is not hashed by the library."""
        place = snapshot_place(self.folder)
        if place is None:
            return
        place, path = replace(place, file=name), self.folder / name
        if not path.exists():
            fetch(place)
        if self._is_intact(path, name):
            return
        try:
            fetch(place, again=True)
        except HubError as cause:
            raise HubError(f"{name} in the cache is damaged, and was not replaced: {cause}") from cause
        if not self._is_intact(path, name):
            discard(path)
            raise HubError(f"{place} is damaged: its SHA-256 is not the one in {CONFIG}; publish the bundle again")

    def _is_intact(self, path: Path, name: str) -> bool:
        with suppress(OSError), path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == self.config.files[name]
        return False

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
