"""Local workers: exact answers, and what happens when a worker or the manager process dies."""

import json
import os
import re
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.serving_toys import children, images, make_bundle, running, until

from splitreg.assembly import EdgeModel, ServerModel
from splitreg.coding import Packet
from splitreg.errors import BundleError, RecipeError
from splitreg.serving.local import LocalBackend
from splitreg.wire import join_packets, pack, protocol, to_json, unpack

pytestmark = pytest.mark.integration

#: A worker that takes longer for a batch is killed.
HANG_SECONDS = 1.0


@pytest.fixture(scope="module")
def packets(bundle):
    edge = EdgeModel.load(bundle)
    return [edge.encode(image)[0] for image in images(6)]


@pytest.fixture(scope="module")
def local(bundle):
    return ServerModel.load(bundle)


@pytest.fixture(scope="module")
def place(bundle, tmp_path_factory):
    place = tmp_path_factory.mktemp("served") / "tiny"
    shutil.copytree(bundle, place)
    return place


@pytest.fixture(scope="module")
def server(place):  # for all tests: importing torch takes seconds; the last test replaces its bundle
    with running(
        LocalBackend,
        bundles=(str(place),),
        workers=2,
        batch_timeout_seconds=HANG_SECONDS,
        worker_stall_seconds=4.0,
        max_attempts=9,
        token="t",
        deadline_seconds=600.0,
    ) as server:
        yield server


def workers(server):
    return children(server.backend.pool.manager_pid)


def test_models(server, local):
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
        answers = server.ask(body=packet, path=protocol.INFER + query)[2]["answers"]
        assert answers == json.loads(json.dumps(to_json(local.infer(packet, heads))))
        blob = server.ask(body=packet, path=protocol.INFER + query, headers={"Accept": protocol.ANSWERS})[2]
        mine = local.infer(packet, heads)
        assert pack(unpack(blob)) == pack([{head: mine[0][head] for head in unpack(blob)[0]}])


def test_half_precision_equals_that_of_this_process(bundle, local, packets):
    half = ServerModel.load(bundle).place(precision="bf16-mixed")
    with running(LocalBackend, bundles=(str(bundle),), precision="bf16-mixed", deadline_seconds=600.0) as server:
        blob = server.ask(body=packets[0], headers={"Accept": protocol.ANSWERS})[2]
    assert blob == pack(half.infer(packets[0])) != pack(local.infer(packets[0]))
    mixed = half.infer(packets[0])[0]["cls"].probabilities
    single, again = (model.infer(packets[0])[0]["cls"].probabilities for model in (local, half.place()))
    assert mixed == pytest.approx(single, abs=0.02) and again.tolist() == single.tolist()


def test_several_packets_equal_a_batch_in_this_process(server, local, packets):
    batch = Packet.join([Packet.parse(packet) for packet in packets[:3]])[0].to_bytes()
    for several in (packets[:4], [batch, packets[5]]):
        blob = server.ask(body=join_packets(several), kind=protocol.PACKETS, headers={"Accept": protocol.ANSWERS})[2]
        assert blob == pack(local.infer(several))


def test_masks_in_json(server, packets):
    answers = {
        masks: server.ask(body=packets[0], path=f"{protocol.INFER}?heads=seg,depth&masks={masks}")[2]["answers"][0]
        for masks in ("rle", "png", "none")
    }
    assert answers["rle"]["seg"]["classes"][0]["mask"]["counts"] and "png" in answers["png"]["depth"]
    assert "png" not in answers["none"]["seg"] and "mask" not in json.dumps(answers["none"])


def test_min_score_filters_objects(server, local, packets):
    whole = local.infer(packets[0], ["det"])[0]["det"]
    for min_score, count in ((float(whole.scores.min()), len(whole.scores)), (0.99, 0)):
        path = f"{protocol.INFER}?heads=det&min_score={min_score!r}"
        objects = unpack(server.ask(body=packets[0], path=path, headers={"Accept": protocol.ANSWERS})[2])[0]["det"]
        assert len(objects.scores) == len(objects.boxes) == len(objects.labels) == count
        assert len(server.ask(body=packets[0], path=path)[2]["answers"][0]["det"]["objects"]) == count


def test_a_faulty_packet_affects_no_other_of_its_batch(server, packets):
    """The payload is wrong but its checksum is right, so only the worker can notice."""
    good = Packet.parse(packets[0])
    bad = Packet(model_id=good.model_id, original=good.original, coded=(32, 32), streams=(b"\xff" * 9,)).to_bytes()
    with server.stream() as socket:
        for number in range(8):
            socket.send(protocol.write_request(number, bad if number == 3 else packets[0]))
        messages = {each["request"]: each for each in (json.loads(socket.recv(timeout=30)) for _ in range(8))}
    assert messages[3]["error"]["type"] == "CorruptPacket"
    assert len({json.dumps(messages[i]["answers"]) for i in (0, 1, 2, 4)}) == 1


def load(server, packets, seconds, until_done=None, count=6):
    """Send requests from several threads for a while; return the threads and all statuses."""
    statuses, stop = [], time.monotonic() + seconds

    def send(number):
        connection = server.connection(timeout=90)
        while time.monotonic() < stop or (until_done and not until_done.is_set()):
            statuses.append(server.ask(body=packets[number % len(packets)], connection=connection)[0])
            time.sleep(0.005)
        connection.close()

    threads = [threading.Thread(target=send, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    return threads, statuses


def test_kill_9_of_workers_under_load_loses_no_request(server, packets):
    threads, statuses = load(server, packets, 1.2)
    killed = set()
    for _ in range(4):
        time.sleep(0.25)
        for pid in workers(server)[: 1 + len(killed) % 2]:
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
    for thread in threads:
        thread.join()
    assert len(killed) >= 4 and len(statuses) >= 6 and set(statuses) == {200}
    until(lambda: len(set(workers(server)) - killed) == 2 and server.backend.pool.ready_workers == 2)
    restarts = re.search(r"splitreg_worker_restarts_total (\d\S*)", server.ask("GET", protocol.METRICS)[2].decode())
    assert 1 <= float(restarts[1]) <= len(killed)


def test_a_worker_that_hangs_is_replaced(server, packets):
    hung = workers(server)
    for pid in hung:
        os.kill(pid, signal.SIGSTOP)
    start = time.monotonic()
    assert server.ask(body=packets[0])[0] == 200
    assert time.monotonic() - start >= 0.75 * HANG_SECONDS
    assert server.ask(body=packets[0])[0] == 200
    until(lambda: any(pid not in hung for pid in workers(server)))
    for pid in hung:
        try:
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            pass


def test_stopped_workers_are_not_ready_and_are_replaced_although_no_request_comes(server, packets):
    stopped = set()

    def stop():
        for pid in workers(server):
            os.kill(pid, signal.SIGSTOP)
            stopped.add(pid)

    until(lambda: stop() or server.ask("GET", protocol.READYZ)[0] == 503)
    until(lambda: server.backend.pool.ready_workers == 2 and server.ask("GET", protocol.READYZ)[0] == 200, 90)
    assert server.ask(body=packets[0])[0] == 200
    for pid in stopped & set(workers(server)):  # stopped before it was known
        os.kill(pid, signal.SIGKILL)
    until(lambda: len(workers(server)) == 2)


def test_a_pause_does_not_affect_admission_afterwards(server, packets):
    """A worker that stood still for seconds is no reason to refuse requests once it runs again."""
    headers = {protocol.DEADLINE: "2000"}
    for _ in range(3):
        assert server.ask(body=packets[0], headers=headers)[0] == 200
    until(lambda: server.backend.pool.ready_workers == len(workers(server)) == 2, 90)
    paused = workers(server)
    threads, _ = load(server, packets[:1], 0.1)
    for pid in paused:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(0.7 * HANG_SECONDS)
    for pid in paused:
        os.kill(pid, signal.SIGCONT)
    for thread in threads:
        thread.join()
    statuses = [server.ask(body=packets[0], headers=headers)[0] for _ in range(40)]
    assert statuses.count(200) >= 38


def test_a_manager_process_that_dies_is_replaced(server, packets):
    manager = server.backend.pool.manager_pid
    os.kill(manager, signal.SIGKILL)
    assert server.ask(body=packets[0])[0] == 200
    until(lambda: server.backend.pool.manager_pid != manager and server.service.ready, 200)
    assert server.ask(body=packets[0])[0] == 200


@pytest.mark.filterwarnings("ignore")
def test_a_bundle_is_replaced_under_load(server, packets, place, tmp_path):
    first, other = packets[0], make_bundle(tmp_path / "other", channels=5, heads=("cls",))
    second = EdgeModel.load(other).encode(images(1)[0])[0]
    done = threading.Event()
    threads, statuses = load(server, [first], 0, done, count=2)
    config = (place / "config.json").read_bytes()
    (place / "config.json").write_bytes(b"{}")
    error, _ = server.refused(500, "BundleError", path=protocol.RELOAD)
    assert "config.json" in error["message"] and server.ask(body=first)[0] == 200
    (place / "config.json").write_bytes(config)
    place.rename(tmp_path / "old")
    other.rename(place)
    os.kill(workers(server)[0], signal.SIGKILL)  # it is replaced by one with the old model, though its bundle is gone
    assert server.ask(body=first)[0] == 200
    status, _, body = server.ask(path=protocol.RELOAD, connection=server.connection(timeout=90))
    assert status == 200 and server.ask(body=second)[0] == 200
    error, _ = server.refused(409, "ForeignPacket", body=first)
    assert [model["id"] for model in body["models"]] == [model["id"] for model in error["served"]]
    until(lambda: 409 in statuses)  # requests sent before the switch may still be answered
    done.set()
    for thread in threads:
        thread.join()
    switched = statuses.index(409)
    assert switched > 0 and set(statuses[:switched]) == {200} and set(statuses[switched:]) <= {200, 409}
    until(lambda: not server.backend.retiring, 120)


def test_invalid_configurations(tmp_path, bundle):
    cases = [
        (BundleError, {"bundles": (str(tmp_path / "none"),)}),
        (BundleError, {"bundles": (str(bundle), str(bundle))}),
        (RecipeError, {"bundles": (str(bundle),), "heads": ("dog",)}),
        (RecipeError, {"bundles": (str(bundle),), "device": "cuda:99"}),
        (RecipeError, {"bundles": (str(bundle),), "device": "gpu"}),
        (RecipeError, {"bundles": (str(bundle),), "precision": "8-bit"}),
    ]

    def start(case):
        error, options = case
        with pytest.raises(error), running(LocalBackend, **options):
            pass

    with ThreadPoolExecutor(len(cases)) as pool:  # each starts a process
        list(pool.map(start, cases))
