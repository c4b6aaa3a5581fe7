"""Files on the Hugging Face Hub: ``hf:ORG/NAME[/FILE][@REVISION]``; no torch.

``huggingface_hub`` downloads them into its cache and is imported only where a place on the Hub is used.
Its settings hold: ``HF_HOME``, ``HF_HUB_CACHE``, ``HF_HUB_OFFLINE``, ``HF_ENDPOINT``, ``HF_TOKEN`` and the
token of ``hf auth login``.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splitreg.errors import HubError, MissingExtra

if TYPE_CHECKING:
    from typing import Self  # Python 3.11

#: Prefix of places on the Hub.
PREFIX = "hf:"
#: A snapshot in the cache: ``models--ORG--NAME/snapshots/COMMIT``.
_SNAPSHOT = re.compile(r"(.*)/models--(.+?)--(.+)/snapshots/([0-9a-f]{40})/?")
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_-])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class HubPlace:
    """A repository of models on the Hub, or a file in it.

    Args:
        repo: ``"ORG/NAME"``.
        file: path in the repository; empty for the repository.
        revision: branch, tag or commit; None for the main branch.
        cache: folder of the cache; None for that of ``huggingface_hub``.
    """

    repo: str
    file: str = ""
    revision: str | None = None
    cache: str | None = None

    @classmethod
    def parse(cls, place: str | Path) -> Self:
        """Read ``hf:ORG/NAME[/FILE][@REVISION]``.

        Raises:
            HubError: it has another form.

        >>> HubPlace.parse("hf:me/detector@v1").revision
        'v1'
        """
        text, _, revision = str(place).removeprefix(PREFIX).partition("@")
        parts = text.split("/")
        valid = len(parts) >= 2 and all(_NAME.fullmatch(part) for part in parts[:2]) and all(parts)
        if not valid or ".." in parts or ("@" in str(place) and not revision):
            raise HubError(
                f"{place} is not a place on the Hub; it must be hf:ORG/NAME, hf:ORG/NAME@REVISION or hf:ORG/NAME/FILE"
            )
        return cls(repo="/".join(parts[:2]), file="/".join(parts[2:]), revision=revision or None)

    def __str__(self) -> str:
        file = f"/{self.file}" if self.file else ""
        return f"{PREFIX}{self.repo}{file}" + (f"@{self.revision}" if self.revision else "")


def is_hub(place: str | Path) -> bool:
    """Whether a place is on the Hub.

    >>> is_hub("hf:me/detector"), is_hub("zoo:camvid")
    (True, False)
    """
    return isinstance(place, str) and place.startswith(PREFIX)


def snapshot_place(folder: Path) -> HubPlace | None:
    """Return the repository and commit of a folder in the cache; None for any other folder."""
    match = _SNAPSHOT.fullmatch(folder.absolute().as_posix())
    if match is None:
        return None
    cache, org, name, commit = match.groups()
    return HubPlace(repo=f"{org}/{name}", revision=commit, cache=cache)


def fetch(place: HubPlace, *, again: bool = False) -> Path:
    """Return a file of the Hub, from the cache if it is there; otherwise it is downloaded, completely or not at all.

    Args:
        place: a place with a file.
        again: download it even if it is in the cache.

    Raises:
        HubError: no such repository, revision or file, no access, no connection or a broken one, or
            offline without the file in the cache.
        MissingExtra: ``huggingface_hub`` is not installed.
    """
    hub = library()
    with quiet_log(), hub_errors(f"cannot fetch {place}", place):
        path = hub.hf_hub_download(
            place.repo, place.file, revision=place.revision, cache_dir=place.cache, force_download=again
        )
    return Path(path)


def fetch_first(place: HubPlace, names: tuple[str, ...]) -> Path:
    """Return the first of some files that a repository has, or the file of the place if it names one.

    Raises:
        HubError: as ``fetch``; or it has none of them.
    """
    if place.file:
        return fetch(place)
    for name in names:
        try:
            return fetch(replace(place, file=name))
        except HubError as error:
            if not error.no_such_file:
                raise
    raise HubError(f"{place} has none of the files {', '.join(names)}; name one: {PREFIX}{place.repo}/FILE")


def discard(path: Path) -> None:
    """Remove a damaged file from the cache."""
    with suppress(OSError):
        blob = path.resolve()
        path.unlink()
        if blob.parent.name == "blobs":
            blob.unlink()


def library() -> Any:
    """Return the module ``huggingface_hub``.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import huggingface_hub
    except ImportError as cause:
        raise MissingExtra("places on the Hub (hf:) need huggingface_hub; pip install 'splitreg[hub]'") from cause
    return huggingface_hub


@contextmanager
def quiet_log() -> Iterator[None]:
    """Hide the library's warnings about repeated requests in a block that reports the failure itself.

    ``HF_HUB_VERBOSITY`` and ``HF_DEBUG`` show them.
    """
    log = logging.getLogger("huggingface_hub")
    level = log.level
    if not os.environ.get("HF_HUB_VERBOSITY") and not os.environ.get("HF_DEBUG"):
        log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


@contextmanager
def hub_errors(action: str, place: HubPlace) -> Iterator[None]:
    """Turn what ``huggingface_hub`` raises in a block into one ``HubError``.

    Args:
        action: what failed, for the message.
        place: the repository and revision.
    """
    from huggingface_hub import constants, errors

    reasons: Mapping[type[Exception], str] = {
        errors.GatedRepoError: (
            f"{place.repo} is gated; accept its conditions on the Hub, and set HF_TOKEN or run: hf auth login"
        ),
        errors.RevisionNotFoundError: f"{place.repo} has no revision {place.revision or 'main'!r}",
        errors.RepositoryNotFoundError: (
            f"there is no repository {place.repo} on {constants.ENDPOINT}, or this token has no access to it; for a private "
            "one set HF_TOKEN or run: hf auth login"
        ),
    }
    try:
        yield
    except tuple(reasons) as cause:
        raise HubError(
            f"{action}: {next(text for kind, text in reasons.items() if isinstance(cause, kind))}"
        ) from cause
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as cause:
        if constants.HF_HUB_OFFLINE:
            raise HubError(f"{action}: HF_HUB_OFFLINE is set, and the file is not in the cache") from cause
        root = cause.__cause__ or cause
        raise HubError(
            f"{action}: no answer from {constants.ENDPOINT} ({_line(root)}), and the file is not in the cache"
        ) from cause
    except errors.EntryNotFoundError as cause:
        raise HubError(f"{action}: the repository has no such file", no_such_file=True) from cause
    except errors.HfHubHTTPError as cause:
        raise HubError(f"{action}: {_refusal(cause, constants.ENDPOINT)}") from cause
    except HubError:
        raise
    except Exception as cause:  # of httpx, of the operating system, of the library itself
        if constants.HF_HUB_OFFLINE:
            raise HubError(f"{action}: HF_HUB_OFFLINE is set") from cause
        raise HubError(f"{action}: {_line(cause)}") from cause


def _refusal(error: Any, endpoint: str) -> str:
    status = getattr(error.response, "status_code", None)
    if status in (401, 403):
        return f"{endpoint} refused the token (status {status}); set HF_TOKEN to a valid one or run: hf auth login"
    return f"{endpoint} answered with status {status}"


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
