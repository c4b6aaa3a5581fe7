"""The cluster's parts without a cluster: the file, replicas in this process, what the ingress does when calls fail."""

import asyncio
import functools
import json
import subprocess
import sys
import threading

import numpy as np
import pytest
from support.serving_toys import MODEL, packet, pictures, running, until

from splitreg.assembly import EdgeModel, ServerModel
from splitreg.errors import BundleError, MissingExtra, RecipeError
from splitreg.serving.config import ServeConfig
from splitreg.serving.on_ray import ClusterConfig, read_cluster, serve_on_ray
from splitreg.serving.on_ray.asks import Ask, join
from splitreg.serving.on_ray.config import Part
from splitreg.serving.on_ray.replicas import BodyReplica, HeadReplica, store
from splitreg.wire import Form, dump_json, pack, protocol, to_json, unpack

HEADS = ("cls", "seg", "depth", "det")


def written(folder, text):
    path = folder / "cluster.toml"
    path.write_text(text)
    return path


def test_the_file(tmp_path):
    (tmp_path / "tokens").write_text("abc\n")
    cluster = read_cluster(written(tmp_path, f"""
        bundles = ["a", "b"]
        heads = ["cls", "seg"]
        [ray]
        application = "street"
        shared = true
        [ingress]
        port = 0
        deadline_seconds = 5
        token_file = "{tmp_path / "tokens"}"
        [body]
        replicas = 2
        max_replicas = 6
        batch_images = 16
        cpus = 2
        [head]
        batch_images = 4
        [parts.seg]
        replicas = 3
        gpus = 0.5
        """))  # fmt: skip
    assert (cluster.application, cluster.shared, cluster.address) == ("street", True, None)
    assert cluster.ingress.bundles == ("a", "b") and cluster.ingress.heads == ("cls", "seg")
    assert cluster.ingress.tokens == ("abc",) and cluster.ingress.deadline_seconds == 5.0
    assert cluster.ingress.batch_images == 16 and cluster.ingress.workers == cluster.in_flight == 12
    assert cluster.body == Part(replicas=2, max_replicas=6, batch_images=16, cpus=2.0)
    assert cluster.part("cls") == Part(batch_images=4)  # of [head]
    assert cluster.part("seg") == Part(batch_images=4, replicas=3, gpus=0.5)  # and what it says itself


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("bundles = []", "name a bundle"),
        ("bundles = ['a']\n[bdy]", "Did you mean 'body'"),
        ("bundles = ['a']\n[body]\nreplica = 2", "Did you mean 'replicas'"),
        ("bundles = ['a']\n[body]\nreplicas = 0", "above zero"),
        ("bundles = ['a']\n[body]\nreplicas = '2'", "body.replicas must be int"),
        ("bundles = ['a']\n[body]\nreplicas = true", "body.replicas must be int"),
        ("bundles = ['a']\n[body]\nreplicas = 3\nmax_replicas = 2", "fewer than"),
        ("bundles = ['a']\n[body]\ncpus = 0", "cpus or gpus"),
        ("bundles = ['a']\n[head]\nprecision = 'half'", "bf16-mixed"),
        ("bundles = ['a']\n[ingress]\nworkers = 2", "no 'workers'"),
        ("bundles = ['a']\n[ingress]\nhost = '0.0.0.0'", "no token"),
        ("bundles = ['a']\nheads = ['cls']\n[parts.seg]", "no head that is served"),
        ("bundles = ['a']\nparts = 3", "must be a table"),
        ("bundles = ['a']\n[ray]\napplication = 'a b'", "application"),
        ("bundles = ['a'", "cannot read"),
    ],
)
def test_what_is_wrong_in_the_file_is_said(tmp_path, text, word):
    with pytest.raises(RecipeError, match=word):
        read_cluster(written(tmp_path, text))


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"splitreg\[ray\]"):
        serve_on_ray(ClusterConfig(ingress=ServeConfig(bundles=("a",))), print)


@pytest.mark.parametrize(
    "line", [["--on", "ray"], ["--on", "ray", "--config", "x", "--port", "1"], ["--config", "x"], []]
)
def test_the_command_takes_a_file_or_bundles(line):
    done = subprocess.run(
        [sys.executable, "-m", "splitreg", "serve", *line], capture_output=True, text=True, timeout=60
    )
    assert done.returncode and "--config" in done.stderr and "Traceback" not in done.stderr


def test_what_ray_is_told(bundle):
    config = pytest.importorskip("ray.serve.config")
    from splitreg.serving.on_ray.deployments import _options, application

    still, grows = Part(replicas=2, max_ongoing=3), Part(replicas=2, max_replicas=5, target_ongoing=0.7, memory_bytes=9)
    assert _options(still)["num_replicas"] == 2 and "autoscaling_config" not in _options(still)
    found = config.AutoscalingConfig(**_options(grows)["autoscaling_config"])
    assert (found.min_replicas, found.max_replicas, found.target_ongoing_requests) == (2, 5, 0.7)
    assert _options(grows)["ray_actor_options"] == {"num_cpus": 1.0, "num_gpus": 0.0, "memory": 9}
    digests = set()
    for body, heads in ((still, {}), (grows, {}), (still, {"seg": grows}), (still, {})):
        cluster = ClusterConfig(ingress=ServeConfig(bundles=("b",)), body=body, heads=heads)
        digests.add(application(bundle, "1234abcd", HEADS, cluster)[0])
    assert len(digests) == 3  # the same settings have the same name, so that what runs is left alone


@pytest.fixture(scope="module")
def local(bundle):
    return ServerModel.load(bundle)


@pytest.fixture(scope="module")
def packets(bundle):
    edge = EdgeModel.load(bundle)
    return [edge.encode(picture)[0] for picture in pictures(6)]


@pytest.fixture(scope="module")
def replicas(bundle, local):
    number = f"{local.coding.model_id:08x}"
    body = BodyReplica(str(bundle), number, HEADS, "cpu")
    return body, {name: HeadReplica(str(bundle), number, name, "cpu", 8) for name in HEADS}


def asks(jobs, media=protocol.ANSWERS, **form):
    return [Ask(images=len(job), form=Form(media=media, **form), packets=tuple(job)) for job in jobs]


def answered(replicas, jobs, heads=HEADS, **how):
    """One batch of jobs: of each its blob, or the error's type."""
    body, head = replicas
    given = asks(jobs, **how)
    embedded = body.embed(given, heads)
    rows = [head[name].answer([(embedded, given)])[0] for name in heads]
    found = []
    for ask, row in zip(given, zip(*rows, strict=True), strict=True):
        errors = [piece.error for piece in row if piece.error is not None]
        found.append(errors[0]["error"]["type"] if errors else join(ask.form, dict(zip(heads, row, strict=True))))
    return found


def test_answers_are_those_of_the_whole_model_to_the_byte(replicas, local, packets):
    for heads in (HEADS, ("cls",), ("seg", "det")):
        jobs = [packets[:1], packets[1:4], packets[4:]]
        together = local.infer(packets, heads)
        wanted = [together[:1], together[1:4], together[4:]]
        assert answered(replicas, jobs, heads) == [pack(mine) for mine in wanted]
        for masks in ("rle", "png", "none"):
            found = answered(replicas, jobs, heads, media=protocol.JSON, masks=masks)
            assert found == [dump_json(to_json(mine, masks)) for mine in wanted]
    above = [{name: one.above(0.2) for name, one in image.items()} for image in local.infer(packets[:1])]
    assert answered(replicas, [packets[:1]], min_score=0.2) == [pack(above)] != [pack(local.infer(packets[:1]))]


def test_a_head_reads_only_what_it_needs_and_holds_only_itself(replicas, packets):
    body, heads = replicas
    every = body.embed(asks([packets[:1]]), HEADS).blocks[0].features
    assert set(body.embed(asks([packets[:1]]), ("cls",)).blocks[0].features) < set(every)
    assert not body._server.branches
    for name, head in heads.items():
        assert set(head._server.branches) == {name} and len(list(head._server.body.parameters())) == 0
        assert len(list(head._server.bottleneck.decoder.parameters())) == 0


def test_a_wrong_request_fails_alone(replicas, local, packets):
    broken = bytearray(packets[1])
    broken[-8] ^= 255
    jobs = [packets[:2], [bytes(broken)], packets[2:3], [packet(model=MODEL)]]
    first, second, third, fourth = answered(replicas, jobs)
    assert (second, fourth) == ("CorruptPacket", "ForeignPacket")
    assert (first, third) == (pack(local.infer(packets[:2])), pack(local.infer(packets[2:3])))


def test_calls_that_wait_run_together_and_get_their_own_answers(replicas, local, packets):
    body, heads = replicas
    calls = [(body.embed(asks([[one]]), ("seg",)), asks([[one]])) for one in packets]
    for (row,), one in zip(heads["seg"].answer(calls), packets, strict=True):
        mask = local.infer(one)[0]["seg"].mask  # a batch of six may differ in the last bits of a sum, hardly in a class
        assert (unpack(row.blobs[0])[0]["seg"].mask != mask).mean() < 0.01


def test_features_keep_their_layout(local, packets):
    import torch

    from splitreg.assembly.server import FeatureBatch
    from splitreg.serving.on_ray.tensors import restore

    tensor = torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).reshape(2, 3, 4, 5).to(memory_format=torch.channels_last)
    block = FeatureBatch(
        images=(0, 1), originals=((4, 5),) * 2, coded=(4, 5), features={4: tensor, 8: tensor.contiguous()}
    )
    stored = store(block, {4, 8})
    assert all(array.flags.c_contiguous for _, array in stored.features.values())
    back = restore(stored, torch.device("cpu"))
    for stride, feature in block.features.items():
        assert back.features[stride].stride() == feature.stride() and torch.equal(back.features[stride], feature)
    back.features[4].zero_()  # a head may write into what it reads
    np.testing.assert_array_equal(store(block, {4}).features[4][1], stored.features[4][1])


def test_another_bundle_in_the_folder_is_refused(bundle):
    with pytest.raises(BundleError, match="00000001"):
        HeadReplica(str(bundle), "00000001", "cls", "cpu", 8)


def test_what_hangs_ends():
    code = "from splitreg.serving.on_ray.replicas import watchdog\nimport time\nwith watchdog(0.2): time.sleep(60)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=50).returncode == 1


def fleet(call):
    """A class of fleets whose calls go to a function of the batch, which may raise what Ray raises."""
    from splitreg.serving.on_ray.fleet import RayFleet

    class Fake(RayFleet):
        async def start(self):
            self.models = {f"{MODEL:08x}": {"id": f"{MODEL:08x}", "name": "stub", "heads": {"cls": {}}}}
            self._tasks = [asyncio.create_task(self._slot()) for _ in range(self._cluster.in_flight)]
            self.ready = 1

        async def _call(self, batch):
            await call(batch)
            return [json.dumps([{"cls": len(job.packets[0])}]).encode() for job in batch]

    return functools.partial(Fake, ClusterConfig(ingress=ServeConfig(bundles=("b",)), body=Part(max_ongoing=2)))


def test_what_a_dead_replica_had_goes_to_another_and_poison_does_not():
    exceptions = pytest.importorskip("ray.exceptions")
    calls = []

    async def call(batch):
        calls.append([job.packets[0] for job in batch])
        await asyncio.sleep(0.05)
        if any(poison in job.packets for job in batch):
            raise exceptions.ActorDiedError()

    poison, found = packet(b"poison"), {}

    def ask(body):
        found[body] = server.ask(body=body)

    with running(fleet(call), attempts=3, batch_images=4) as server:
        bodies = [poison, *(packet(b"x" * i) for i in range(1, 9))]
        threads = [threading.Thread(target=ask, args=(body,)) for body in bodies]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (found[poison][0], found[poison][2]["error"]["type"]) == (500, "WorkerLost")
    assert {found[body][0] for body in bodies[1:]} == {200}
    assert sum(poison in call for call in calls) == 3  # and the last two times without any other
    assert [len(call) for call in calls if poison in call][1:] == [1, 1]


def test_busy_replicas_fill_the_queue_and_then_it_refuses():
    ray_serve = pytest.importorskip("ray.serve.exceptions")
    busy = threading.Event()
    busy.set()

    under_way = set()

    async def call(batch):
        under_way.update(map(id, batch))
        if busy.is_set():
            raise ray_serve.BackPressureError(num_queued_requests=1, max_queued_requests=1)

    found = []
    with running(fleet(call), queue_images=4, batch_images=1, deadline_seconds=60.0) as server:
        threads = [threading.Thread(target=lambda: found.append(server.ask(body=packet())[0])) for _ in range(6)]
        for thread in threads[:2]:
            thread.start()
        until(lambda: len(under_way) == 2)  # one in each slot, the others wait
        for thread in threads[2:]:
            thread.start()
        until(lambda: server.fleet.engine.queued == 4)
        error, headers = server.refused(503, "Unavailable", body=packet())
        assert int(headers["Retry-After"]) >= 1 and error["retry_after_s"] > 0
        busy.clear()
        for thread in threads:
            thread.join()
        assert found == [200] * 6
        busy.set()
        server.refused(504, "DeadlinePassed", body=packet(), headers={protocol.DEADLINE: "200"})


def test_a_replica_that_fails_costs_no_attempts():
    exceptions = pytest.importorskip("ray.exceptions")

    async def call(batch):
        raise exceptions.RayTaskError("f", "Traceback\nKeyError: 1", KeyError(1))

    with running(fleet(call)) as server:
        server.refused(500, "ServiceError", body=packet())
