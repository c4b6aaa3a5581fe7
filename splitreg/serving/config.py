"""The configuration of a server: every limit, with its unit in its name."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field, fields

from splitreg.errors import RecipeError
from splitreg.recipe import PRECISIONS, check_precision
from splitreg.threads import available_cpus

MEBIBYTE = 1 << 20
_MAY_BE_ZERO = ("port", "threads", "max_requests_per_s", "max_client_connections", "log_backups")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """The configuration of a server: bundles, address, authentication and limits.

    Args:
        bundles: folders or names of the zoo, at least one.
        heads: names of the heads to load; None loads all.
        host: address to listen on.
        port: port to listen on; 0 selects a free one.
        workers: number of worker processes.
        threads: CPU threads per worker; 0 divides the cores among the workers.
        device: where workers compute: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...
        precision: ``"32-true"``, ``"bf16-mixed"`` or ``"16-mixed"``.
        max_batch_images: images per batch.
        tokens: accepted bearer tokens; without any, requests need no authentication.
        token_file: file with further tokens, their names, expiry, rates and quotas; it is read again on
            a reload.
        allowed_hosts: names in the header ``Host`` besides those of this machine; ``"*"`` for any.
            By default a server with tokens accepts any name.
        allowed_origins: web pages that may send requests and open streams besides those of this
            server, e.g. ``"https://example.org"``.
        trusted_proxies: addresses or networks of proxies, whose ``X-Forwarded-For`` is believed and
            which have no limit of connections and bytes of their own.
        insecure: allow to listen on a public address without token or TLS.
        page: serve a page for browsers at ``/``, and encode images for it.
        tls_cert: PEM file with the certificate chain.
        tls_key: PEM file with the private key.
        max_body_bytes: per request body, or per message of a stream.
        max_pending_bytes: total of all requests that are being received or wait for an answer.
        max_request_images: images per request.
        max_request_pixels: total pixels of a request's original images.
        max_mask_pixels: pixels of a mask or another map in an answer; those of larger images are
            scaled down, but never below the network's input.
        max_answer_bytes: of the answers to one request or batch, as estimated from the sizes of its
            images.
        max_pending_answer_bytes: total of all answers that are being sent.
        encode_seconds: CPU time to decode and encode one image for the page.
        max_encode_bytes: memory for it, besides that of the model.
        max_queue_images: images in the queue; further requests are refused.
        max_stream_state_bytes: of the states of all video streams; about 0.3 MB each at 192x256 pixels.
        max_stream_in_flight: unanswered packets per stream; at the limit the stream is not read.
        max_requests_per_s: rate limit per client address, for requests and packets of streams, with
            bursts of twice as many; 0 disables it, and the delays of clients whose requests are malformed.
        max_connections: open connections; fewer if the system allows fewer file descriptors.
        max_client_connections: open connections per client address; 0 for half of all.
        header_timeout_seconds: to receive the headers of a request.
        body_timeout_seconds: to receive its body.
        keep_alive_seconds: until a connection without requests is closed.
        stream_idle_timeout_seconds: until a stream without packets is closed.
        write_timeout_seconds: for a client to receive an answer, besides the time that its size takes
            at ``min_send_bytes_per_s``.
        min_send_bytes_per_s: clients that receive an answer more slowly are disconnected.
        deadline_seconds: from the arrival of a request to its answer; clients may ask for less.
        batch_timeout_seconds: for one batch; a worker that takes longer is killed.
        worker_stall_seconds: without a heartbeat from a worker, then it is killed and replaced.
        load_timeout_seconds: to load the bundles and start the workers.
        max_attempts: workers that may die while they compute one request, before it fails.
        idempotency_answers: number of answers stored for idempotency keys.
        idempotency_bytes: size of these answers.
        idempotency_seconds: time for which they are stored.
        drain_seconds: from SIGTERM to the exit of the process.
        log_file: file for the log; None writes to stderr.
        max_log_bytes: size at which a log file is rotated.
        log_backups: number of rotated log files.

    Raises:
        RecipeError: a value is out of range, or the address is public without token and TLS.
    """

    bundles: tuple[str, ...]
    heads: tuple[str, ...] | None = None
    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 1
    threads: int = 0
    device: str = "cpu"
    precision: str = PRECISIONS[0]
    max_batch_images: int = 8
    tokens: tuple[str, ...] = field(default=(), repr=False)
    token_file: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    insecure: bool = False
    page: bool = False
    tls_cert: str | None = None
    tls_key: str | None = None
    max_body_bytes: int = 16 * MEBIBYTE
    max_pending_bytes: int = 48 * MEBIBYTE
    max_request_images: int = 32
    max_request_pixels: int = 50_000_000
    max_mask_pixels: int = 2 * MEBIBYTE
    max_answer_bytes: int = 16 * MEBIBYTE
    max_pending_answer_bytes: int = 32 * MEBIBYTE
    encode_seconds: float = 5.0
    max_encode_bytes: int = 768 * MEBIBYTE
    max_queue_images: int = 256
    max_stream_state_bytes: int = 256 * MEBIBYTE
    max_stream_in_flight: int = 16
    max_requests_per_s: float = 200.0
    max_connections: int = 16_000
    max_client_connections: int = 0
    header_timeout_seconds: float = 10.0
    body_timeout_seconds: float = 60.0
    keep_alive_seconds: float = 75.0
    stream_idle_timeout_seconds: float = 900.0
    write_timeout_seconds: float = 30.0
    min_send_bytes_per_s: int = 16 * 1024
    deadline_seconds: float = 30.0
    batch_timeout_seconds: float = 30.0
    worker_stall_seconds: float = 10.0
    load_timeout_seconds: float = 300.0
    max_attempts: int = 3
    idempotency_answers: int = 4096
    idempotency_bytes: int = 32 * MEBIBYTE
    idempotency_seconds: float = 600.0
    drain_seconds: float = 30.0
    log_file: str | None = None
    max_log_bytes: int = 10 * MEBIBYTE
    log_backups: int = 5

    def __post_init__(self) -> None:
        if not self.bundles:
            raise RecipeError("bundles must name at least one bundle to serve")
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            if value < 0 or (value == 0 and item.name not in _MAY_BE_ZERO):
                raise RecipeError(f"{item.name} must be above zero, got {value}")
        check_precision(self.precision)
        if self.port > 65535:
            raise RecipeError(f"port must be 0 to 65535, got {self.port}")
        if any(not token or not token.isascii() or token.split() != [token] for token in self.tokens):
            raise RecipeError("a token must be ASCII without spaces; create one with: openssl rand -hex 32")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise RecipeError("TLS needs both a certificate and its key: --tls-cert and --tls-key")
        self._check_peers()
        missing = [name for name, value in (("token", self.has_tokens), ("TLS", self.tls_cert)) if not value]
        if missing and not self.insecure and not is_loopback(self.host):
            raise RecipeError(
                f"{self.host} is a public address, but there is no {' and no '.join(missing)}; give "
                "--token-file, --tls-cert and --tls-key, or --insecure behind a proxy or in a private network"
            )

    def _check_peers(self) -> None:
        for proxy in self.trusted_proxies:
            try:
                ipaddress.ip_network(proxy, strict=False)
            except ValueError as cause:
                raise RecipeError(f"a trusted proxy must be an address or a network, got {proxy!r}") from cause
        for origin in self.allowed_origins:
            scheme, separator, host = origin.partition("://")
            if scheme not in ("http", "https") or not separator or not host or "/" in host or host != host.lower():
                raise RecipeError(f"an allowed origin must be like https://example.org, in lower case; got {origin!r}")
        for host in self.allowed_hosts:
            if not host or host != host.lower() or "/" in host or ":" in host:
                raise RecipeError(f"an allowed host must be a name without port, in lower case; got {host!r}")

    @property
    def has_tokens(self) -> bool:
        """Whether requests need a token."""
        return bool(self.tokens or self.token_file)

    def send_seconds(self, count: int) -> float:
        """Return how long a client may take to receive this many bytes."""
        return self.write_timeout_seconds + count / self.min_send_bytes_per_s

    @property
    def threads_per_worker(self) -> int:
        """CPU threads per worker, with the default resolved."""
        return self.threads or max(1, available_cpus() // self.workers)


def is_loopback(host: str) -> bool:
    """Return whether an address can be reached only from this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
