"""Publish events over MQTT, with Home Assistant's discovery; needs ``paho-mqtt``.

Topics below ``PREFIX/DEVICE``, all with quality of service 1:

- ``status``: ``online`` or ``offline`` (the last will), retained.
- ``event``: ``enter`` and ``leave`` as JSON, with ``event_type`` for Home Assistant.
- ``ZONE/LABEL/count``: number of objects, retained.

Each zone and class becomes a sensor (count) and a binary sensor (occupancy) of one device in Home
Assistant (``homeassistant/.../config``, retained; home-assistant.io/integrations/mqtt). After a lost
connection, everything retained is published again.
"""

from __future__ import annotations

import json
import os
import re
import socket
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from splitreg import __version__
from splitreg.errors import MissingExtra, RecipeError, Unauthorized, Unreachable
from splitreg.events import COUNT, ENTER, LEAVE, Event

if TYPE_CHECKING:
    from typing import Self

__all__ = ["MqttOptions", "MqttPublisher"]

#: Environment variable with the password, which does not show in the list of processes.
PASSWORD_VARIABLE = "SPLITREG_MQTT_PASSWORD"
_PORTS = {"mqtt": 1883, "mqtts": 8883}
_KEEPALIVE_S = 30
#: Messages that wait while there is no connection; further ones are dropped.
_MAX_QUEUED = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttOptions:
    """Options of an ``MqttPublisher``.

    Args:
        device: name of this device; empty: its host name.
        prefix: first part of the topics.
        discovery_prefix: first part of Home Assistant's topics; empty: no discovery.
        ca: PEM file of trusted authorities for ``mqtts://``; None: the system's.
        timeout_s: seconds until the broker must have answered.
    """

    device: str = ""
    prefix: str = "splitreg"
    discovery_prefix: str = "homeassistant"
    ca: str | None = None
    timeout_s: float = 10.0


class MqttPublisher:
    """A connection to a broker; a context manager.

    Args:
        url: ``mqtt://[USER[:PASSWORD]@]HOST[:PORT]`` or ``mqtts://...``. Without a password in the
            address, the variable ``SPLITREG_MQTT_PASSWORD`` is used.
        options: names of topics, time-out.

    Raises:
        Unreachable: the broker does not answer.
        Unauthorized: it refuses the user.
        MissingExtra: ``paho-mqtt`` is not installed.
        RecipeError: not such an address.
    """

    def __init__(self, url: str, options: MqttOptions | None = None) -> None:
        self.options = options or MqttOptions()
        scheme, host, port, user, password = _parse(url)
        device = self.options.device or socket.gethostname()
        self._device, self._slug = device, _slug(device)
        self._base = f"{self.options.prefix}/{self._slug}"
        self._shown = f"{scheme}://{host}:{port}"
        self._retained: dict[str, str] = {}
        self._lock = threading.Lock()
        self._answer: list[Any] = []
        self._answered = threading.Event()
        self._last: Any = None
        self._client = self._connect(scheme, (host, port), user, password)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def announce(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Make zones and classes known, with a count of 0.

        Args:
            pairs: (zone, label).
        """
        for zone, label in pairs:
            self._announce(zone, label)
            self._retain(self._count_topic(zone, label), "0")

    def publish(self, event: Event) -> None:
        """Publish an event; it waits for the connection if there is none."""
        self._announce(event.zone, event.label)
        if event.kind == COUNT:
            self._retain(self._count_topic(event.zone, event.label), str(event.count))
        else:
            payload = json.dumps({"event_type": event.kind, **event.to_json()})
            self._last = self._client.publish(f"{self._base}/event", payload, qos=1)

    def close(self) -> None:
        """Publish what waits and ``offline``, and disconnect."""
        with self._lock:
            self._retained.pop(f"{self._base}/status", None)
        if self._client.is_connected():
            self._last = self._client.publish(f"{self._base}/status", "offline", qos=1, retain=True)
            self._last.wait_for_publish(self.options.timeout_s)
        self._client.disconnect()
        self._client.loop_stop()

    def _connect(self, scheme: str, address: tuple[str, int], user: str | None, password: str | None) -> Any:
        try:
            from paho.mqtt import client as paho
            from paho.mqtt.enums import CallbackAPIVersion
        except ModuleNotFoundError as cause:
            raise MissingExtra("MQTT needs paho-mqtt, which is not installed; pip install 'splitreg[mqtt]'") from cause
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id=f"splitreg-{self._slug}-{os.getpid()}")
        client.max_queued_messages_set(_MAX_QUEUED)
        client.reconnect_delay_set(1, 30)
        client.connect_timeout = self.options.timeout_s
        if user is not None:
            client.username_pw_set(user, password)
        if scheme == "mqtts":
            client.tls_set(ca_certs=self.options.ca)
        client.will_set(f"{self._base}/status", "offline", qos=1, retain=True)
        self._retained[f"{self._base}/status"] = "online"
        client.on_connect = self._on_connect
        try:
            client.connect(*address, keepalive=_KEEPALIVE_S)
        except (OSError, ValueError) as cause:
            raise Unreachable(f"no MQTT broker answers at {self._shown}: {cause}") from cause
        client.loop_start()
        if self._answered.wait(self.options.timeout_s) and not self._answer[0].is_failure:
            return client
        client.loop_stop()
        if self._answer:
            raise Unauthorized(f"the MQTT broker at {self._shown} refused the connection: {self._answer[0]}")
        raise Unreachable(f"no MQTT broker answers at {self._shown} within {self.options.timeout_s:g} s")

    def _on_connect(self, client: Any, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        """Publish everything retained: the broker may have been restarted."""
        self._answer.append(reason)
        if not reason.is_failure:
            with self._lock:
                retained = dict(self._retained)
            for topic, payload in retained.items():
                client.publish(topic, payload, qos=1, retain=True)
        self._answered.set()

    def _retain(self, topic: str, payload: str) -> None:
        with self._lock:
            self._retained[topic] = payload
        self._last = self._client.publish(topic, payload, qos=1, retain=True)

    def _count_topic(self, zone: str, label: str) -> str:
        return f"{self._base}/{_slug(zone)}/{_slug(label)}/count"

    def _announce(self, zone: str, label: str) -> None:
        """Publish the configuration of the sensors of a zone and class, once."""
        prefix = self.options.discovery_prefix
        if not prefix:
            return
        identifier = f"{_slug(zone)}_{_slug(label)}"
        common = {
            "state_topic": self._count_topic(zone, label),
            "availability_topic": f"{self._base}/status",
            "device": {
                "identifiers": [f"splitreg_{self._slug}"], "name": self._device, "manufacturer": "splitreg",
                "sw_version": __version__,
            },
            "origin": {"name": "splitreg", "sw_version": __version__},
        }  # fmt: skip
        sensors = {
            "sensor": {"name": f"{zone} {label}", "state_class": "measurement", "icon": "mdi:counter"},
            "binary_sensor": {
                "name": f"{zone} {label} present", "device_class": "occupancy",
                "value_template": "{{ 'ON' if value | int > 0 else 'OFF' }}",
            },
        }  # fmt: skip
        for kind, own in sensors.items():
            topic = f"{prefix}/{kind}/splitreg_{self._slug}/{identifier}/config"
            if topic not in self._retained:
                unique = f"splitreg_{self._slug}_{identifier}_{kind}"
                self._retain(topic, json.dumps({**own, "unique_id": unique, **common}))
        self._announce_events(prefix, common)

    def _announce_events(self, prefix: str, common: dict[str, Any]) -> None:
        topic = f"{prefix}/event/splitreg_{self._slug}/event/config"
        if topic not in self._retained:
            own = {
                "name": "event", "unique_id": f"splitreg_{self._slug}_event", "event_types": [ENTER, LEAVE],
                **common, "state_topic": f"{self._base}/event",
            }  # fmt: skip
            self._retain(topic, json.dumps(own))


def _parse(url: str) -> tuple[str, str, int, str | None, str | None]:
    """Return scheme, host, port, user and password.

    Raises:
        RecipeError: not an address of a broker.
    """
    try:
        parts = urlsplit(url)
        scheme, host, port = parts.scheme, parts.hostname, parts.port
    except ValueError:
        scheme, host, port = "", None, None
    if scheme not in _PORTS or not host:
        raise RecipeError("the address of an MQTT broker is mqtt://[USER[:PASSWORD]@]HOST[:PORT] or mqtts://...")
    user = None if parts.username is None else unquote(parts.username)
    password = os.environ.get(PASSWORD_VARIABLE) if parts.password is None else unquote(parts.password)
    return scheme, host, port or _PORTS[scheme], user, password


def _slug(name: str) -> str:
    """Return a name for a topic.

    >>> _slug("Front door #1")
    'front-door-1'
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "x"
