"""The Ray backend without a cluster: its file, replicas in this process, and calls that fail."""

import asyncio
import dataclasses
import functools
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from support.serving_toys import MODEL, images, packet, running, until

from splitreg.assembly import EdgeModel, ServerModel
from splitreg.errors import BundleError, MissingExtra, RecipeError
from splitreg.serving.config import ServeConfig
from splitreg.serving.inference import InferenceRequest
from splitreg.serving.on_ray import ClusterConfig, read_cluster, serve_on_ray
from splitreg.serving.on_ray.config import DeploymentOptions
from splitreg.serving.on_ray.features import restore, store
from splitreg.serving.on_ray.replicas import BodyReplica, HeadReplica
from splitreg.wire import AnswerFormat, dump_json, pack, protocol, to_json, unpack

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def unchanged_environment():
    """Ray's token is set in the environment of the process that serves; other tests must not see it."""
    with mock.patch.dict(os.environ):
        yield


HEADS = ("cls", "seg", "depth", "det")
DOCS = Path(__file__).parents[3] / "docs"


def write_file(folder, text):
    path = folder / "cluster.toml"
    path.write_text(text)
    return path


def test_the_file(tmp_path):
    (tmp_path / "tokens").write_text("abc" * 6 + "\n")
    cluster = read_cluster(write_file(tmp_path, f"""
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
        max_batch_images = 16
        cpus = 2
        [head]
        max_batch_images = 4
        [parts.seg]
        replicas = 3
        gpus = 0.5
        """))  # fmt: skip
    assert (cluster.application, cluster.shared, cluster.address) == ("street", True, None)
    assert cluster.ingress.bundles == ("a", "b") and cluster.ingress.heads == ("cls", "seg")
    assert cluster.ingress.token_file == str(tmp_path / "tokens") and cluster.ingress.has_tokens
    assert cluster.ingress.deadline_seconds == 5.0
    assert cluster.ingress.max_batch_images == 16 and cluster.ingress.workers == cluster.max_batches == 12
    assert cluster.body == DeploymentOptions(replicas=2, max_replicas=6, max_batch_images=16, cpus=2.0)
    assert cluster.head_options("cls") == DeploymentOptions(max_batch_images=4)  # [head]
    assert cluster.head_options("seg") == DeploymentOptions(
        max_batch_images=4, replicas=3, gpus=0.5
    )  # [head], [parts.seg]


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("bundles = []", "bundles"),
        ("bundles = 3", "bundles.*3"),
        ("bundles = ['a']\nheads = [1]", "heads.*1"),
        ("bundles = ['a']\n[bdy]", "bdy.*'body'"),
        ("bundles = ['a']\n[body]\nreplica = 2", "body.*'replica'.*'replicas'"),
        ("bundles = ['a']\n[body]\nreplicas = 0", "body.*replicas.*0"),
        ("bundles = ['a']\n[body]\nreplicas = '2'", "body.*replicas.*int.*'2'"),
        ("bundles = ['a']\n[body]\nreplicas = true", "body.*replicas.*int.*True"),
        ("bundles = ['a']\n[body]\ncpus = 'all'", "body.*cpus.*float.*'all'"),
        ("bundles = ['a']\n[body]\nreplicas = 3\nmax_replicas = 2", "body.*max_replicas.*3.*2"),
        ("bundles = ['a']\n[body]\ncpus = 0", "body.*cpus.*gpus"),
        ("bundles = ['a']\n[head]\nprecision = 'half'", "head.*bf16-mixed.*half"),
        ("bundles = ['a']\n[ingress]\nworkers = 2", "ingress.*'workers'"),
        ("bundles = ['a']\n[ingress]\nhost = '0.0.0.0'", "ingress.*0.0.0.0.*token"),
        ("bundles = ['a']\n[ingress]\ntoken_file = 3", "token_file.*3"),
        ("bundles = ['a']\n[ingress]\ntls_cert = 3", "tls_cert.*3"),
        ("bundles = ['a']\nheads = ['cls']\n[parts.seg]", "parts.seg.*cls"),
        ("bundles = ['a']\nparts = 3", "parts.*3"),
        ("bundles = ['a']\nbody = 3", "body.*3"),
        ("bundles = ['a']\n[ray]\napplication = 'a b'", "ray.*application.*a b"),
        ("bundles = ['a'", "cluster.toml"),
    ],
)
def test_errors_name_what_is_wrong_in_the_file(tmp_path, text, facts):
    with pytest.raises(RecipeError, match=facts):
        read_cluster(write_file(tmp_path, text))


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"splitreg\[ray\]"):
        serve_on_ray(ClusterConfig(ingress=ServeConfig(bundles=("a",))), print)


@pytest.mark.parametrize(
    "line", [["--on", "ray"], ["--on", "ray", "--config", "x", "--port", "1"], ["--config", "x"], []]
)
def test_the_command_needs_a_file_or_bundles(line):
    done = subprocess.run(
        [sys.executable, "-m", "splitreg", "serve", *line], capture_output=True, text=True, timeout=60
    )
    assert done.returncode and "--config" in done.stderr and "Traceback" not in done.stderr


def test_the_options_of_ray(bundle):
    config = pytest.importorskip("ray.serve.config")
    from splitreg.serving.on_ray.deployments import create_application, ray_options

    fixed = DeploymentOptions(replicas=2, max_ongoing=3)
    scaled = DeploymentOptions(replicas=2, max_replicas=5, target_ongoing=0.7, memory_bytes=9)
    assert ray_options(fixed)["num_replicas"] == 2 and "autoscaling_config" not in ray_options(fixed)
    autoscaling = config.AutoscalingConfig(**ray_options(scaled)["autoscaling_config"])
    assert (autoscaling.min_replicas, autoscaling.max_replicas, autoscaling.target_ongoing_requests) == (2, 5, 0.7)
    assert ray_options(scaled)["ray_actor_options"] == {"num_cpus": 1.0, "num_gpus": 0.0, "memory": 9}
    digests = set()
    for body, heads in ((fixed, {}), (scaled, {}), (fixed, {"seg": scaled}), (fixed, {})):
        cluster = ClusterConfig(ingress=ServeConfig(bundles=("b",)), body=body, heads=heads)
        digests.add(create_application(bundle, "1234abcd", HEADS, cluster)[0])
    assert len(digests) == 3  # equal settings have equal digests, so that a running application is left alone


@pytest.fixture(scope="module")
def local(bundle):
    return ServerModel.load(bundle)


@pytest.fixture(scope="module")
def packets(bundle):
    edge = EdgeModel.load(bundle)
    return [edge.encode(image)[0] for image in images(6)]


@pytest.fixture(scope="module")
def replicas(bundle, local):
    model_id = f"{local.coding.model_id:08x}"
    body = BodyReplica(str(bundle), model_id, HEADS, "cpu")
    return body, {name: HeadReplica(str(bundle), model_id, name, "cpu", 8) for name in HEADS}


def requests_of(jobs, media=protocol.ANSWERS, **options):
    answer_format = AnswerFormat(media=media, **options)
    return [InferenceRequest(images=len(job), answer_format=answer_format, packets=tuple(job)) for job in jobs]


def infer(replicas, jobs, heads=HEADS, **options):
    """Run a batch of jobs; return per job its answer, or the type of its error."""
    body, head = replicas
    requests = requests_of(jobs, **options)
    features = body.embed(requests, heads)
    rows = [head[name].answer([(features, requests)])[0] for name in heads]
    outputs = []
    for request, row in zip(requests, zip(*rows, strict=True), strict=True):
        errors = [answer.error for answer in row if answer.error is not None]
        written = {name: answer.blobs for name, answer in zip(heads, row, strict=True)}
        outputs.append(errors[0]["error"]["type"] if errors else request.answer_format.join_heads(written))
    return outputs


def test_answers_equal_those_of_the_whole_model_byte_for_byte(replicas, local, packets):
    for heads in (HEADS, ("cls",), ("seg", "det")):
        jobs = [packets[:1], packets[1:4], packets[4:]]
        together = local.infer(packets, heads)
        wanted = [together[:1], together[1:4], together[4:]]
        assert infer(replicas, jobs, heads) == [pack(mine) for mine in wanted]
        for masks in ("rle", "png", "none"):
            answers = infer(replicas, jobs, heads, media=protocol.JSON, masks=masks)
            assert answers == [dump_json(to_json(mine, masks)) for mine in wanted]
    above = [{name: one.above(0.2) for name, one in image.items()} for image in local.infer(packets[:1])]
    assert infer(replicas, [packets[:1]], min_score=0.2) == [pack(above)] != [pack(local.infer(packets[:1]))]


def test_a_head_gets_only_the_features_it_needs_and_has_no_body(replicas, packets):
    body, heads = replicas
    every = body.embed(requests_of([packets[:1]]), HEADS).batches[0].features
    assert set(body.embed(requests_of([packets[:1]]), ("cls",)).batches[0].features) < set(every)
    assert not body.branches
    for name, head in heads.items():
        assert set(head.server.branches) == {name} and len(list(head.server.body.parameters())) == 0
        assert len(list(head.server.bottleneck.decoder.parameters())) == 0


def test_a_faulty_request_fails_alone(replicas, local, packets):
    broken = bytearray(packets[1])
    broken[-8] ^= 255
    jobs = [packets[:2], [bytes(broken)], packets[2:3], [packet(model=MODEL)]]
    first, second, third, fourth = infer(replicas, jobs)
    assert (second, fourth) == ("CorruptPacket", "ForeignPacket")
    assert (first, third) == (pack(local.infer(packets[:2])), pack(local.infer(packets[2:3])))


def test_calls_run_together_and_get_their_own_answers(replicas, local, packets):
    body, heads = replicas
    calls = [(body.embed(requests_of([[one]]), ("seg",)), requests_of([[one]])) for one in packets]
    for (row,), one in zip(heads["seg"].answer(calls), packets, strict=True):
        mask = local.infer(one)[0][
            "seg"
        ].mask  # sums of a batch of six may differ in their last bits, classes hardly ever
        assert (unpack(row.blobs[0])[0]["seg"].mask != mask).mean() < 0.01


def test_features_keep_their_layout(local, packets):
    import torch

    from splitreg.assembly.server import FeatureBatch

    tensor = torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).reshape(2, 3, 4, 5).to(memory_format=torch.channels_last)
    batch = FeatureBatch(
        images=(0, 1), originals=((4, 5),) * 2, coded=(4, 5), features={4: tensor, 8: tensor.contiguous()}
    )
    stored = store(batch, {4, 8})
    assert all(array.flags.c_contiguous for _, array in stored.features.values())
    back = restore(stored, torch.device("cpu"))
    for stride, feature in batch.features.items():
        assert back.features[stride].stride() == feature.stride() and torch.equal(back.features[stride], feature)
    back.features[4].zero_()  # a head may modify its input in place
    np.testing.assert_array_equal(store(batch, {4}).features[4][1], stored.features[4][1])


def test_another_model_in_the_folder_is_refused(bundle):
    with pytest.raises(BundleError, match="00000001"):
        HeadReplica(str(bundle), "00000001", "cls", "cpu", 8)


def test_a_replica_that_hangs_exits():
    code = "from splitreg.serving.on_ray.deployments import watchdog\nimport time\nwith watchdog(0.2): time.sleep(60)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=50).returncode == 1


def ray_backend(call):
    """A class of Ray backends whose calls go to a function of the packets, which may raise what Ray raises."""
    from splitreg.serving.on_ray.backend import DeployedModel, RayBackend

    class FakeCalls(RayBackend):
        async def _deploy_bundles(self):
            model_id = f"{MODEL:08x}"
            entry = {"id": model_id, "name": "stub", "heads": {"cls": {}}}
            self._deployed = {model_id: DeployedModel(application="a", body=None, heads={}, entry=entry)}
            self._models = {model_id: entry}

        async def _count_replicas(self):
            self._set_replicas(1)

        async def _delete(self, application):
            pass

        async def _infer(self, model, heads, requests, *, alone=False):
            packets = [request.packets[0] for request in requests]
            assert not alone or len(packets) == 1
            await call(packets)
            return [json.dumps([{"cls": len(packet)}]).encode() for packet in packets]

    cluster = ClusterConfig(ingress=ServeConfig(bundles=("b",)), body=DeploymentOptions(max_ongoing=2))
    return functools.partial(FakeCalls, cluster)


def test_batches_of_dead_replicas_are_repeated_and_a_poisonous_request_fails():
    exceptions = pytest.importorskip("ray.exceptions")
    calls = []

    async def call(packets):
        calls.append(packets)
        await asyncio.sleep(0.05)
        if poison in packets:
            raise exceptions.ActorDiedError()

    poison, responses = packet(b"poison"), {}

    def ask(body):
        responses[body] = server.ask(body=body)

    with running(ray_backend(call), max_attempts=3, max_batch_images=4) as server:
        bodies = [poison, *(packet(b"x" * i) for i in range(1, 9))]
        threads = [threading.Thread(target=ask, args=(body,)) for body in bodies]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (responses[poison][0], responses[poison][2]["error"]["type"]) == (500, "WorkerLost")
    assert {responses[body][0] for body in bodies[1:]} == {200}
    assert sum(poison in call for call in calls) == 3  # the last two times alone
    assert [len(call) for call in calls if poison in call][1:] == [1, 1]


def test_busy_replicas_fill_the_queue_which_then_refuses():
    ray_serve = pytest.importorskip("ray.serve.exceptions")
    busy = threading.Event()
    busy.set()

    running_packets = set()

    async def call(packets):
        running_packets.update(packets)
        if busy.is_set():
            raise ray_serve.BackPressureError(num_queued_requests=1, max_queued_requests=1)

    statuses = []
    with running(ray_backend(call), max_queue_images=4, max_batch_images=1, deadline_seconds=60.0) as server:
        threads = [
            threading.Thread(target=lambda i=i: statuses.append(server.ask(body=packet(b"x" * i))[0]))
            for i in range(1, 7)
        ]
        for thread in threads[:2]:
            thread.start()
        until(lambda: len(running_packets) == 2)  # as many as there may be; the others wait
        for thread in threads[2:]:
            thread.start()
        until(lambda: server.backend.queue.queued_images == 4)
        error, headers = server.refused(503, "Unavailable", body=packet())
        assert int(headers["Retry-After"]) >= 1 and error["retry_after_s"] > 0
        busy.clear()
        for thread in threads:
            thread.join()
        assert statuses == [200] * 6
        busy.set()
        server.refused(504, "DeadlinePassed", body=packet(), headers={protocol.DEADLINE: "200"})


def test_an_exception_in_a_replica_is_not_retried():
    exceptions = pytest.importorskip("ray.exceptions")

    calls = []

    async def call(packets):
        calls.append(packets)
        raise exceptions.RayTaskError("f", "Traceback\nKeyError: 1", KeyError(1))

    with running(ray_backend(call)) as server:
        server.refused(500, "ServiceError", body=packet())
    assert len(calls) == 1


def test_a_reload_retires_models_once_their_jobs_are_done():
    pytest.importorskip("ray.serve")
    other, deleted, gate = "0000000b", [], threading.Event()

    async def call(packets):
        while not gate.is_set():
            await asyncio.sleep(0.002)

    partial = ray_backend(call)

    class Reloadable(partial.func):
        deployments = 0

        async def _deploy_bundles(self):
            self.deployments += 1
            before = self._deployed
            await super()._deploy_bundles()
            if self.deployments > 1:
                (model,) = self._deployed.values()
                self._deployed = {**before, other: dataclasses.replace(model, application="b")}
                self._models = {other: {**model.entry, "id": other}}

        async def _delete(self, application):
            deleted.append(application)

    statuses = []
    with running(functools.partial(Reloadable, *partial.args)) as server:
        thread = threading.Thread(target=lambda: statuses.append(server.ask(body=packet())[0]))
        thread.start()
        until(lambda: server.backend.queue.busy)
        server.run(server.service.reload())
        error, _ = server.refused(409, "ForeignPacket", body=packet())
        assert [model["id"] for model in error["served"]] == [other] and deleted == []
        gate.set()
        thread.join()
        until(lambda: deleted == ["a"])
        assert statuses == [200]
    assert deleted == ["a", "b"]


def test_the_documented_configuration(tmp_path):
    page = (DOCS / "cluster.md").read_text()
    (block,) = re.findall(r"^```toml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "tokens").write_text("abc" * 6 + "\n")
    cluster = read_cluster(write_file(tmp_path, block.replace("/etc/splitreg/tokens", str(tmp_path / "tokens"))))
    assert cluster.ingress.bundles == ("/models/street-7", "/models/lidar-2") and cluster.shared
    assert cluster.head_options("seg").replicas == 6 and cluster.body.max_replicas == 16


def test_every_option_is_documented():
    for page, kind in (("serving.md", ServeConfig), ("cluster.md", DeploymentOptions)):
        text = (DOCS / page).read_text()
        for item in dataclasses.fields(kind):
            assert f"`{item.name}`" in text, f"docs/{page} does not mention {item.name}"
