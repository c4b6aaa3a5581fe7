"""What a server is told: every limit with its unit."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field, fields

from splitreg.errors import RecipeError
from splitreg.recipe import PRECISIONS, check_precision

MEBIBYTE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """A server's bundles, its address, what protects it, and its limits.

    Args:
        bundles: folders, or names of the zoo; one or several.
        heads: load only these; None for all.
        host: address to listen on.
        port: 0 takes any that is free.
        workers: processes that compute.
        threads: CPU threads a worker; 0 shares the cores.
        device: where workers compute: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...
        precision: in what arithmetic: ``"32-true"``, ``"bf16-mixed"`` or ``"16-mixed"``.
        batch_images: images that run together.
        tokens: any of these is let in; without one, everybody is.
        insecure: listen beyond this machine without token or TLS.
        page: a page for browsers at ``/``, and pictures encoded for it.
        tls_cert: PEM file of the certificate chain.
        tls_key: PEM file of its key.
        body_bytes: of one request, or of one message of a stream.
        held_bytes: of all requests that are being read or wait.
        request_images: of one request.
        request_pixels: of a request's original images together; answers are as large as they.
        queue_images: that wait; more are refused.
        stream_in_flight: packets of one stream that are not answered yet; then it is not read.
        rate_per_s: requests (and packets of streams) of one client address; twice as many at once; 0 for any number.
        connections: open at a time.
        header_seconds: for a request's head to arrive.
        body_seconds: for its body.
        idle_seconds: a connection without a request is kept.
        stream_idle_seconds: a stream without a packet is kept.
        write_seconds: a client may take for an answer.
        deadline_seconds: longest time from a request's arrival to its answer.
        batch_seconds: a worker that takes longer for a batch is killed.
        load_seconds: for the bundles to load.
        attempts: workers that one request may cost.
        memory_answers: answers that are kept for idempotency keys.
        memory_bytes: of those answers.
        memory_seconds: they are kept.
        drain_seconds: from the signal to stop to the end.
        log_file: where the log goes; stderr without one.
        log_bytes: of one log file, before the next begins.
        log_files: older ones that are kept.

    Raises:
        RecipeError: a value that is not one, or an address beyond this machine without protection.
    """

    bundles: tuple[str, ...]
    heads: tuple[str, ...] | None = None
    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 1
    threads: int = 0
    device: str = "cpu"
    precision: str = PRECISIONS[0]
    batch_images: int = 8
    tokens: tuple[str, ...] = field(default=(), repr=False)
    insecure: bool = False
    page: bool = False
    tls_cert: str | None = None
    tls_key: str | None = None
    body_bytes: int = 16 * MEBIBYTE
    held_bytes: int = 256 * MEBIBYTE
    request_images: int = 32
    request_pixels: int = 50_000_000
    queue_images: int = 256
    stream_in_flight: int = 16
    rate_per_s: float = 200.0
    connections: int = 16_000
    header_seconds: float = 10.0
    body_seconds: float = 60.0
    idle_seconds: float = 75.0
    stream_idle_seconds: float = 900.0
    write_seconds: float = 30.0
    deadline_seconds: float = 30.0
    batch_seconds: float = 60.0
    load_seconds: float = 300.0
    attempts: int = 3
    memory_answers: int = 4096
    memory_bytes: int = 64 * MEBIBYTE
    memory_seconds: float = 600.0
    drain_seconds: float = 30.0
    log_file: str | None = None
    log_bytes: int = 10 * MEBIBYTE
    log_files: int = 5

    def __post_init__(self) -> None:
        if not self.bundles:
            raise RecipeError("there is nothing to serve: name a bundle")
        may_be_zero = ("port", "threads", "rate_per_s", "log_files")
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            if value < 0 or (value == 0 and item.name not in may_be_zero):
                raise RecipeError(f"{item.name} must be above zero, got {value}")
        check_precision(self.precision)
        if self.port > 65535:
            raise RecipeError(f"port must be 0 to 65535, got {self.port}")
        if any(not token or not token.isascii() or token.split() != [token] for token in self.tokens):
            raise RecipeError("a token must be ASCII without spaces; openssl rand -hex 32 makes one")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise RecipeError("TLS needs both: --tls-cert and --tls-key")
        lacks = [what for what, there in (("token", self.tokens), ("TLS", self.tls_cert)) if not there]
        if lacks and not self.insecure and not is_loopback(self.host):
            raise RecipeError(
                f"{self.host} is reached from beyond this machine, and there is no {' and no '.join(lacks)}: give "
                "--token-file, --tls-cert and --tls-key, or --insecure where something else protects it"
            )

    @property
    def threads_each(self) -> int:
        """CPU threads a worker."""
        return self.threads or max(1, (os.cpu_count() or 1) // self.workers)


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
