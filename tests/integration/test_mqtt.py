"""Events over MQTT, against mosquitto on loopback."""

import getpass
import json
import shutil
import socket
import subprocess
import time

import numpy as np
import pytest
from click.testing import CliRunner
from support.fake_service import FakeService
from support.http_video import until, write_video

from splitreg.cli.send_ import command
from splitreg.errors import RecipeError, Unauthorized, Unreachable
from splitreg.events import COUNT, ENTER, LEAVE, Event
from splitreg.mqtt import PASSWORD_VARIABLE, MqttOptions, MqttPublisher
from splitreg.predictions import Detections

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed"),
]
OPTIONS = MqttOptions(device="Hall camera", timeout_s=5)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Broker:
    def __init__(self, folder, port=None, users=None):
        self.port = port or free_port()
        lines = [
            f"listener {self.port} 127.0.0.1",
            "persistence false",
            f"allow_anonymous {str(users is None).lower()}",
        ]
        lines.append(
            f"user {getpass.getuser()}"
        )  # started by root, it would change to a user that cannot read the files
        if users is not None:
            lines.append(f"password_file {users}")
        (folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")
        self._process = subprocess.Popen(
            [MOSQUITTO, "-c", str(folder / "mosquitto.conf")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until(self._listens)

    def _listens(self):
        assert self._process.poll() is None, "mosquitto has ended"
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._process.kill()
        self._process.wait()

    @property
    def url(self):
        return f"mqtt://127.0.0.1:{self.port}"


class Listener:
    """A client that keeps every message: topic -> payloads, and which of them were retained."""

    def __init__(self, broker):
        from paho.mqtt import client as paho

        self.messages, self.retained = {}, set()
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        self._client.on_connect = lambda client, *rest: client.subscribe("#", qos=1)
        self._client.on_message = self._receive
        subscribed = []
        self._client.on_subscribe = lambda *rest: subscribed.append(1)
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()
        until(lambda: subscribed)

    def _receive(self, client, data, message):
        self.messages.setdefault(message.topic, []).append(message.payload.decode())
        if message.retain:
            self.retained.add(message.topic)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._client.disconnect()
        self._client.loop_stop()


def event(kind=ENTER, **fields):
    return Event(kind=kind, seconds=1.0, zone="front door", label="person", **fields)


def test_events_counts_and_status(tmp_path):
    base = "splitreg/hall-camera"
    with Broker(tmp_path) as broker:
        with Listener(broker) as live, MqttPublisher(broker.url, OPTIONS) as publisher:
            publisher.publish(event(identity=3, box=(0.0, 1.0, 2.0, 3.0)))
            publisher.publish(event(COUNT, count=1))
            publisher.publish(event(LEAVE, identity=3, stayed_s=2.5))
            until(lambda: len(live.messages.get(f"{base}/event", ())) == 2)
            assert live.messages[f"{base}/status"] == ["online"]
            publisher.close()
            until(lambda: live.messages[f"{base}/status"] == ["online", "offline"])
        first, second = map(json.loads, live.messages[f"{base}/event"])
        assert first["event_type"] == first["event"] == "enter" and first["id"] == 3 and first["zone"] == "front door"
        assert second["stayed_s"] == 2.5
        with Listener(broker) as late:  # what somebody gets who comes later
            until(lambda: f"{base}/status" in late.messages)
            until(lambda: len(late.messages) >= 5)
            assert late.messages[f"{base}/front-door/person/count"] == ["1"]
            assert f"{base}/event" not in late.messages


def test_home_assistant_discovers_the_sensors(tmp_path):
    with Broker(tmp_path) as broker:
        with MqttPublisher(broker.url, OPTIONS) as publisher:
            publisher.announce([("front door", "person")])
            publisher.announce([("front door", "person")])
        with Listener(broker) as late:
            until(lambda: len(late.messages) >= 5)
        node = "homeassistant/{}/splitreg_hall-camera/{}/config"
        configs = {
            kind: json.loads(late.messages[node.format(kind, name)][0])
            for kind, name in (
                ("sensor", "front-door_person"),
                ("binary_sensor", "front-door_person"),
                ("event", "event"),
            )
        }
        assert configs["sensor"]["state_topic"] in late.messages
        assert configs["binary_sensor"]["device_class"] == "occupancy"
        assert configs["event"]["event_types"] == ["enter", "leave"]
        assert configs["event"]["state_topic"] == "splitreg/hall-camera/event"
        assert len({config["unique_id"] for config in configs.values()}) == 3
        for config in configs.values():
            assert config["availability_topic"] == "splitreg/hall-camera/status"
            assert config["device"]["identifiers"] == ["splitreg_hall-camera"]
        assert late.retained == set(late.messages)
    with Broker(tmp_path) as broker, Listener(broker) as live:
        with MqttPublisher(broker.url, MqttOptions(device="a", discovery_prefix="", prefix="b")) as publisher:
            publisher.publish(event(COUNT, count=2))
        until(lambda: live.messages.get("b/a/status") == ["online", "offline"])
        assert not any(topic.startswith("homeassistant") for topic in live.messages)


def test_a_broker_that_is_restarted_gets_everything_again(tmp_path):
    with Broker(tmp_path) as broker:
        publisher = MqttPublisher(broker.url, OPTIONS)
        publisher.publish(event(COUNT, count=4))
        time.sleep(0.3)
    publisher.publish(event(identity=9))  # waits
    with Broker(tmp_path, broker.port) as again, Listener(again) as live:
        until(lambda: "splitreg/hall-camera/event" in live.messages)
        until(lambda: live.messages.get("splitreg/hall-camera/front-door/person/count") == ["4"])
        assert live.messages["splitreg/hall-camera/status"] == ["online"]
        publisher.close()


def test_a_publisher_that_dies_is_offline(tmp_path):
    with Broker(tmp_path) as broker, Listener(broker) as live:
        publisher = MqttPublisher(broker.url, OPTIONS)
        until(lambda: live.messages.get("splitreg/hall-camera/status") == ["online"])
        publisher._client._sock_close()
        publisher._client.loop_stop()
        until(lambda: live.messages["splitreg/hall-camera/status"][1:2] == ["offline"])


def test_users_and_passwords(tmp_path, monkeypatch):
    users = tmp_path / "users"
    users.write_text("")
    subprocess.run(["mosquitto_passwd", "-b", str(users), "ann", "p@ss"], check=True, capture_output=True)
    with Broker(tmp_path, users=users) as broker:
        host = f"127.0.0.1:{broker.port}"
        MqttPublisher(f"mqtt://ann:p%40ss@{host}", OPTIONS).close()
        with pytest.raises(Unauthorized) as caught:
            MqttPublisher(f"mqtt://ann:wrong@{host}", OPTIONS)
        assert "wrong" not in str(caught.value)
        monkeypatch.setenv(PASSWORD_VARIABLE, "p@ss")
        MqttPublisher(f"mqtt://ann@{host}", OPTIONS).close()


def test_no_broker():
    with pytest.raises(Unreachable, match="127.0.0.1") as caught:
        MqttPublisher(f"mqtt://ann:secret@127.0.0.1:{free_port()}", OPTIONS)
    assert "secret" not in str(caught.value)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(Unreachable, match="within 0.5 s"):
        MqttPublisher(f"mqtt://127.0.0.1:{silent.getsockname()[1]}", MqttOptions(timeout_s=0.5))


@pytest.mark.parametrize("url", ["", "host", "http://host", "mqtt://", "mqtt://host:x", "mqtt://[::1"])
def test_addresses_that_are_none(url):
    with pytest.raises(RecipeError, match="mqtt://"):
        MqttPublisher(url)


def test_send_publishes_events(tmp_path):
    frames = write_video(tmp_path / "v.mp4", 8)
    with FakeService() as service, Broker(tmp_path) as broker, Listener(broker) as live:
        service.predict = lambda packet: {
            "det": Detections(
                boxes=np.array([[1, 2, 30, 40]], np.float32), scores=np.array([0.9], np.float32),
                labels=np.array([0]), names=("person",),
            )
        }  # fmt: skip
        arguments = ["zoo:camvid-small", str(frames), "--to", service.url, "--mqtt", broker.url, "--device", "cam"]
        done = CliRunner().invoke(command, arguments)
        assert done.exception is None, done.output
        until(lambda: live.messages.get("splitreg/cam/status") == ["online", "offline"])
        assert live.messages["splitreg/cam/image/person/count"] == ["0", "1", "0"]
        assert [json.loads(text)["event"] for text in live.messages["splitreg/cam/event"]] == ["enter", "leave"]
        assert len(done.stdout.splitlines()) == 16, "answers are printed as without --mqtt"
