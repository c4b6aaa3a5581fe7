"""``splitreg serve --check``: what can be checked before a server is deployed."""

from __future__ import annotations

import datetime
import os
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from splitreg.errors import RecipeError, SplitregError
from splitreg.serving.bundles import select_bundles
from splitreg.serving.config import ServeConfig
from splitreg.serving.http.server import usable_descriptors
from splitreg.serving.run import listen
from splitreg.serving.tokens import TokenStore

#: Days before the end of a certificate or token at which it is reported.
_DAYS_LEFT = 14.0
_SECONDS_PER_DAY = 86_400
#: Bytes of a process with torch, besides the weights of its bundles.
_TORCH_BYTES = 600 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PreflightCheck:
    """The outcome of one check.

    Args:
        name: what was checked.
        ok: whether a server can be deployed.
        message: what is wrong; empty if nothing is.
        facts: what was found.
    """

    name: str
    ok: bool
    message: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


def check_deployment(config: ServeConfig) -> list[PreflightCheck]:
    """Check address, tokens, certificate, open files, memory and bundles; load no model."""
    checks: list[tuple[str, Callable[[ServeConfig], dict[str, Any]]]] = [
        ("address", _address), ("tokens", _tokens), ("certificate", _certificate), ("open files", _open_files),
        ("log file", _log_file), ("bundles", _bundles), ("memory", _memory),
    ]  # fmt: skip
    outcomes = []
    for name, check in checks:
        try:
            facts = check(config)
            message = facts.pop("message", "")
            outcomes.append(PreflightCheck(name=name, ok=not message, message=message, facts=facts))
        except (SplitregError, OSError) as error:
            outcomes.append(PreflightCheck(name=name, ok=False, message=str(error)))
    return outcomes


def _address(config: ServeConfig) -> dict[str, Any]:
    listen(config).close()
    return {"host": config.host, "port": config.port}


def _tokens(config: ServeConfig) -> dict[str, Any]:
    store = TokenStore(config.tokens, config.token_file, time.time)
    ends = {token.name: token.expires.timestamp() for token in store.tokens if token.expires is not None}
    late = [name for name, end in ends.items() if end < time.time() + _DAYS_LEFT * _SECONDS_PER_DAY]
    facts: dict[str, Any] = {"tokens": len(store.tokens)}
    return facts | ({"message": f"expired, or expire within {_DAYS_LEFT:g} days: {', '.join(late)}"} if late else {})


def _certificate(config: ServeConfig) -> dict[str, Any]:
    if config.tls_cert is None:
        return {"tls": False}
    end = certificate_end(config.tls_cert, config.tls_key)
    days = (end - time.time()) / _SECONDS_PER_DAY
    facts = {"expires": datetime.datetime.fromtimestamp(end, datetime.UTC).isoformat(), "days": round(days, 1)}
    return facts | ({"message": f"the certificate ends in {days:.1f} days"} if days < _DAYS_LEFT else {})


def certificate_end(certificate: str, key: str | None) -> float:
    """Return when a certificate ends, in seconds since the epoch, by a TLS handshake with itself.

    Raises:
        RecipeError: it cannot be used, is not valid yet, or has expired.
    """
    try:
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(certificate, key)
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname = False
        client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # it is trusted without its issuer
        client.load_verify_locations(certificate)
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        ends = (
            client.wrap_bio(to_client, to_server, server_side=False),
            server.wrap_bio(to_server, to_client, server_side=True),
        )
        for _ in range(4):
            for end in ends:
                try:
                    end.do_handshake()
                except ssl.SSLWantReadError:
                    continue
        peer = ends[0].getpeercert()
    except (OSError, ssl.SSLError, ValueError) as cause:
        reason = getattr(cause, "verify_message", "") or str(cause)
        raise RecipeError(f"cannot use the certificate {certificate} with its key: {reason}") from cause
    assert peer is not None
    return float(ssl.cert_time_to_seconds(str(peer["notAfter"])))


def _open_files(config: ServeConfig) -> dict[str, Any]:
    usable, _ = usable_descriptors(config.max_connections)
    facts: dict[str, Any] = {"connections": min(usable, config.max_connections)}
    if usable < config.max_connections:
        facts["message"] = (
            f"the limit of open files allows {usable} of {config.max_connections} connections; raise it (ulimit -n, "
            "LimitNOFILE=), or lower --connections"
        )
    return facts


def _log_file(config: ServeConfig) -> dict[str, Any]:
    if config.log_file is None:
        return {"log": "stderr"}
    place = Path(config.log_file)
    nearest = next(folder for folder in (place, *place.absolute().parents) if folder.exists())
    return {"log": str(place)} | ({} if os.access(nearest, os.W_OK) else {"message": f"cannot write {place}"})


def _bundles(config: ServeConfig) -> dict[str, Any]:
    models = {}
    for bundle, heads in select_bundles(config.bundles, config.heads):
        for name in bundle.config.files:
            bundle.check(name)
        models[bundle.config.id] = heads
    return {"models": models}


def _memory(config: ServeConfig) -> dict[str, Any]:
    weights = sum(path.stat().st_size for path in _weights(config))
    needed = 2 * (weights + _TORCH_BYTES)  # during a reload, two managers
    needed += config.max_pending_bytes + config.max_pending_answer_bytes + config.idempotency_bytes
    needed += config.workers * config.max_answer_bytes + (config.max_encode_bytes if config.page else 0)
    facts: dict[str, Any] = {"needed_bytes": needed}
    available = _available_bytes()
    if available is not None:
        facts["available_bytes"] = available
        if available < needed:
            facts["message"] = f"about {needed} bytes are needed, with a reload; {available} are available"
    return facts


def _weights(config: ServeConfig) -> Iterator[Path]:
    for bundle, _ in select_bundles(config.bundles, config.heads):
        yield from (bundle.folder / name for name in bundle.config.files if name.endswith(".safetensors"))


def _available_bytes() -> int | None:
    """Return the memory that is available to this process, by the machine and by its control group."""
    limits = []
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                limits.append(int(line.split()[1]) * 1024)
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        if limit.isdigit():
            limits.append(int(limit) - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    except (OSError, ValueError):
        pass
    return min(limits) if limits else None
