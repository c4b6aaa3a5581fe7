"""Which hosts, origins and proxies are accepted, and the rate limit per client."""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import socket
from collections import OrderedDict
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from splitreg.errors import RateLimited, Unauthorized
from splitreg.serving.routing_errors import Malformed

if TYPE_CHECKING:
    from splitreg.serving.config import ServeConfig

#: Clients whose rate is tracked; the least recently active one is dropped first.
MAX_CLIENTS = 65_536
#: An IPv6 customer has at least a network of this size, so it counts as one client.
_IPV6_PREFIX = 64


def check_host(host: str | None, config: ServeConfig) -> None:
    """Refuse requests for another name, which a web page can let point to this server (DNS rebinding).

    A server without tokens accepts addresses, names of this machine, and ``allowed_hosts``; one with
    tokens any name, unless there are ``allowed_hosts``.

    Args:
        host: value of the header ``Host``, with or without port; None in HTTP/1.0.
        config: uses ``host``, ``allowed_hosts`` and whether there are tokens.

    Raises:
        Malformed: the name is not accepted.
    """
    allowed = config.allowed_hosts
    if host is None or "*" in allowed or (config.has_tokens and not allowed):
        return
    name = _host_name(host)
    if name in allowed or name in (config.host.lower(), "localhost", *_own_names()) or name.endswith(".localhost"):
        return
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(name)
        return
    raise Malformed(
        421,
        f"this server is not {name[:100]!r}; to serve requests for this name, start it with --allowed-host {name[:100]}",
    )


def check_origin(headers: Mapping[str, str], allowed: Collection[str] = ()) -> None:
    """Refuse a stream opened by a web page of another site, in the browser of an internal user.

    Args:
        headers: of the request.
        allowed: origins besides this server.

    Raises:
        Unauthorized: the page's origin is not this server.
    """
    origin = headers.get("origin")
    if origin is None or origin.lower() in allowed:
        return
    if origin.partition("://")[2].lower() != headers.get("host", "").lower():
        raise Unauthorized(
            f"a page of {origin[:100]} may not open a stream here; its origin must be the Host of the request (let a proxy "
            "keep the Host header) or an allowed one (--allowed-origin)"
        )


def is_trusted_proxy(client: str, proxies: Collection[str]) -> bool:
    """Return whether a client, an address or an IPv6 network, is one of the proxies (addresses, networks)."""
    if not proxies:
        return False
    network = ipaddress.ip_network(client, strict=False)
    others = (ipaddress.ip_network(proxy, strict=False) for proxy in proxies)
    return any(network.version == other.version and network.network_address in other for other in others)


def forwarded_client(client: str, forwarded: str | None, proxies: Collection[str]) -> str:
    """Return the client in ``X-Forwarded-For``: the last address that is not a trusted proxy's.

    Args:
        client: who opened the connection.
        forwarded: value of the header; believed only from a trusted proxy.
        proxies: addresses and networks of trusted proxies.
    """
    for entry in reversed((forwarded or "").split(",")):
        if not is_trusted_proxy(client, proxies):
            break
        try:
            client = client_of(str(ipaddress.ip_address(entry.strip().strip("[]"))))
        except ValueError:  # missing or damaged
            break
    return client


def client_of(address: str) -> str:
    """Return what counts as one client: an IPv4 address, or an IPv6 network."""
    if ":" not in address:
        return address
    ip = ipaddress.IPv6Address(address.partition("%")[0])
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.IPv6Network((ip, _IPV6_PREFIX), strict=False))


def _host_name(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower().rstrip(".")


@functools.cache
def _own_names() -> tuple[str, ...]:
    name = socket.gethostname().lower()
    return name, name.partition(".")[0], f"{name.partition('.')[0]}.local"


class RateLimit:
    """A token bucket per client address.

    Args:
        requests_per_s: sustained rate; bursts may have twice as many. 0 disables the limit.

    Source: the token bucket of RFC 2697.
    """

    def __init__(self, requests_per_s: float) -> None:
        self._requests_per_s = requests_per_s
        self._burst = max(1.0, 2 * requests_per_s)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    @property
    def clients(self) -> int:
        """Number of clients whose rate is tracked."""
        return len(self._buckets)

    def take(self, client: str, now: float) -> None:
        """Count one request.

        Args:
            client: its address.
            now: seconds of a monotonic clock.

        Raises:
            RateLimited: the client exceeds the rate.
        """
        if not self._requests_per_s:
            return
        left, last = self._buckets.pop(client, (self._burst, now))
        left = min(self._burst, left + (now - last) * self._requests_per_s)
        self._buckets[client] = (max(0.0, left - 1), now) if left >= 1 else (left, now)
        if len(self._buckets) > MAX_CLIENTS:
            self._buckets.popitem(last=False)
        if left < 1:
            raise RateLimited(
                f"the rate limit of {client} is {self._requests_per_s:g} requests per second",
                retry_after_s=(1 - left) / self._requests_per_s,
            )
