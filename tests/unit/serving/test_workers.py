"""Real workers: exact answers, and what happens when they, or what holds the bundles, die."""

import json
import os
import re
import shutil
import signal
import threading
import time

import pytest
from support.serving_toys import children, make_bundle, pictures, running, until

from splitreg.assembly import EdgeModel, ServerModel
from splitreg.coding import Packet
from splitreg.errors import BundleError, RecipeError
from splitreg.serving.pool import Fleet
from splitreg.wire import join_packets, pack, protocol, to_json, unpack


@pytest.fixture(scope="module")
def packets(bundle):
    edge = EdgeModel.load(bundle)
    return [edge.encode(picture)[0] for picture in pictures(6)]


@pytest.fixture(scope="module")
def local(bundle):
    return ServerModel.load(bundle)


@pytest.fixture(scope="module")
def place(bundle, tmp_path_factory):
    place = tmp_path_factory.mktemp("served") / "tiny"
    shutil.copytree(bundle, place)
    return place


@pytest.fixture(scope="module")
def server(place):  # one for all: torch takes seconds to import. The last test replaces its bundle
    with running(
        Fleet, bundles=(str(place),), workers=2, batch_seconds=2.0, attempts=9, token="t", deadline_seconds=600.0
    ) as server:
        yield server


def workers(server):
    return children(server.fleet._process.pid)


def test_what_is_served(server, local):
    ((model,),) = (server.ask("GET", protocol.MODELS)[2]["models"],)
    assert model["id"] == f"{local.coding.model_id:08x}" and list(model["heads"]) == list(local.heads)
    assert model["heads"]["seg"] == {"task": "segmentation", "labels": [f"class {i}" for i in range(4)]}
    assert (model["name"], model["size"], model["mode"], model["codec"], model["rates"]) == (
        "tiny", [64, 96], "letterbox", "rans", False,
    )  # fmt: skip


@pytest.mark.parametrize("heads", [None, ("cls",), ("seg", "det")])
def test_answers_equal_those_in_this_process(server, local, packets, heads):
    query = "" if heads is None else f"?heads={','.join(heads)}"
    for packet in packets:
        told = server.ask(body=packet, path=protocol.INFER + query)[2]["answers"]
        assert told == json.loads(json.dumps(to_json(local.infer(packet, heads))))
        blob = server.ask(body=packet, path=protocol.INFER + query, headers={"Accept": protocol.ANSWERS})[2]
        mine = local.infer(packet, heads)
        assert pack(unpack(blob)) == pack([{head: mine[0][head] for head in unpack(blob)[0]}])


def test_half_precision_is_that_of_this_process(bundle, local, packets):
    half = ServerModel.load(bundle).place(precision="bf16-mixed")
    with running(Fleet, bundles=(str(bundle),), precision="bf16-mixed", deadline_seconds=600.0) as server:
        blob = server.ask(body=packets[0], headers={"Accept": protocol.ANSWERS})[2]
    assert blob == pack(half.infer(packets[0])) != pack(local.infer(packets[0]))
    mixed = half.infer(packets[0])[0]["cls"].probabilities
    single, again = (model.infer(packets[0])[0]["cls"].probabilities for model in (local, half.place()))
    assert mixed == pytest.approx(single, abs=0.02) and again.tolist() == single.tolist()


def test_several_packets_equal_several_in_this_process(server, local, packets):
    batch = Packet.join([Packet.parse(packet) for packet in packets[:3]])[0].to_bytes()
    for several in (packets[:4], [batch, packets[5]]):
        blob = server.ask(body=join_packets(several), kind=protocol.PACKETS, headers={"Accept": protocol.ANSWERS})[2]
        assert blob == pack(local.infer(several))


def test_masks_in_json(server, packets):
    shown = {
        masks: server.ask(body=packets[0], path=f"{protocol.INFER}?heads=seg,depth&masks={masks}")[2]["answers"][0]
        for masks in ("rle", "png", "none")
    }
    assert shown["rle"]["seg"]["classes"][0]["mask"]["counts"] and "png" in shown["png"]["depth"]
    assert "png" not in shown["none"]["seg"] and "mask" not in json.dumps(shown["none"])


def test_only_objects_that_score_enough_are_sent(server, local, packets):
    whole = local.infer(packets[0], ["det"])[0]["det"]
    for least, count in ((float(whole.scores.min()), len(whole.scores)), (0.99, 0)):
        path = f"{protocol.INFER}?heads=det&min_score={least!r}"
        found = unpack(server.ask(body=packets[0], path=path, headers={"Accept": protocol.ANSWERS})[2])[0]["det"]
        assert len(found.scores) == len(found.boxes) == len(found.labels) == count
        assert len(server.ask(body=packets[0], path=path)[2]["answers"][0]["det"]["objects"]) == count


def test_a_bad_packet_spoils_nobody_elses_batch(server, packets):
    """The payload is wrong, the checksum fits: only the worker can tell."""
    good = Packet.parse(packets[0])
    bad = Packet(model_id=good.model_id, original=good.original, coded=(32, 32), streams=(b"\xff" * 9,)).to_bytes()
    with server.stream() as socket:
        for number in range(8):
            socket.send(protocol.write_request(number, bad if number == 3 else packets[0]))
        told = {each["request"]: each for each in (json.loads(socket.recv(timeout=30)) for _ in range(8))}
    assert (
        told[3]["error"]["type"] == "CorruptPacket" and len({json.dumps(told[i]["answers"]) for i in (0, 1, 2, 4)}) == 1
    )


def load(server, packets, seconds, until_done=None, count=6):
    """Ask from several threads for a while; return every status."""
    found, stop = [], time.monotonic() + seconds

    def send(number):
        connection = server.connection(timeout=90)
        while time.monotonic() < stop or (until_done and not until_done.is_set()):
            found.append(server.ask(body=packets[number % len(packets)], connection=connection)[0])
            time.sleep(0.005)
        connection.close()

    threads = [threading.Thread(target=send, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    return threads, found


def test_kill_9_of_workers_under_load_loses_nothing(server, packets):
    threads, found = load(server, packets, 1.5)
    killed = set()
    for _ in range(4):
        time.sleep(0.25)
        for pid in workers(server)[: 1 + len(killed) % 2]:
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
    for thread in threads:
        thread.join()
    assert len(killed) >= 4 and len(found) >= 6 and set(found) == {200}
    until(lambda: len(set(workers(server)) - killed) == 2 and server.fleet.ready == 2)
    told = re.search(r"splitreg_worker_restarts_total (\d\S*)", server.ask("GET", protocol.METRICS)[2].decode())
    assert 1 <= float(told[1]) <= len(killed)


def test_a_worker_that_hangs_is_replaced(server, packets):
    hung = workers(server)
    for pid in hung:
        os.kill(pid, signal.SIGSTOP)
    begun = time.monotonic()
    assert server.ask(body=packets[0])[0] == 200
    assert time.monotonic() - begun >= 1.5
    assert server.ask(body=packets[0])[0] == 200
    until(lambda: any(pid not in hung for pid in workers(server)))
    for pid in hung:
        try:
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            pass


def test_what_holds_the_bundles_may_die_too(server, packets):
    held = server.fleet._process.pid
    os.kill(held, signal.SIGKILL)
    assert server.ask(body=packets[0])[0] == 200
    until(lambda: server.fleet._process.pid != held and server.service.ready, 200)
    assert server.ask(body=packets[0])[0] == 200


@pytest.mark.filterwarnings("ignore")
def test_a_bundle_is_replaced_while_it_serves(server, packets, place, tmp_path):
    first, other = packets[0], make_bundle(tmp_path / "other", channels=5, heads=("cls",))
    second = EdgeModel.load(other).encode(pictures(1)[0])[0]
    done = threading.Event()
    threads, found = load(server, [first], 0, done, count=2)
    config = (place / "config.json").read_bytes()
    (place / "config.json").write_bytes(b"{}")
    error, _ = server.refused(500, "BundleError", path=protocol.RELOAD)
    assert "config.json" in error["message"] and server.ask(body=first)[0] == 200
    (place / "config.json").write_bytes(config)
    place.rename(tmp_path / "old")
    other.rename(place)
    os.kill(workers(server)[0], signal.SIGKILL)  # another one of the old model comes, though its bundle is gone
    assert server.ask(body=first)[0] == 200
    status, _, body = server.ask(path=protocol.RELOAD, connection=server.connection(timeout=90))
    assert status == 200 and server.ask(body=second)[0] == 200
    error, _ = server.refused(409, "ForeignPacket", body=first)
    assert [model["id"] for model in body["models"]] == [model["id"] for model in error["served"]]
    until(lambda: 409 in found)  # whoever asked in between has its answer still to come
    done.set()
    for thread in threads:
        thread.join()
    switched = found.index(409)
    assert switched > 0 and set(found[:switched]) == {200} and set(found[switched:]) <= {200, 409}
    until(lambda: not server.service._old, 120)


def test_what_cannot_be_served(tmp_path, bundle):
    for error, given in (
        (BundleError, {"bundles": (str(tmp_path / "none"),)}),
        (BundleError, {"bundles": (str(bundle), str(bundle))}),
        (RecipeError, {"bundles": (str(bundle),), "heads": ("dog",)}),
        (RecipeError, {"bundles": (str(bundle),), "device": "cuda:99"}),
        (RecipeError, {"bundles": (str(bundle),), "device": "gpu"}),
        (RecipeError, {"bundles": (str(bundle),), "precision": "8-bit"}),
    ):  # fmt: skip
        with pytest.raises(error), running(Fleet, **given):
            pass
