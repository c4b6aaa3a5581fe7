"""What a cluster for so many devices takes: measures body, heads and ingress of a bundle on one core, then multiplies.

    python benchmarks/cluster_arithmetic.py zoo:camvid-small --devices 1000 100000 1000000 --per-device 0.1 > result.json

Measured: packets a CPU second of the body (entropy decoding, synthesis, backbone) and of each head on one thread, at the
batch that replicas run; bytes of a packet, of the features that a head reads through Ray's store, and of an answer; CPU seconds
of the ingress a packet: over HTTP, of a process whose answers are there at once, and with ``--ray`` the calls of a batch
through Ray Serve to replicas that do nothing, features of the true size between them. Figures are medians of the rounds,
parts take turns within a round. The table divides: packets a second of all devices by what a core does at ``--load`` of
its capacity. With ``--device cuda`` body and heads are measured on the accelerator, and the table counts accelerators.
"""

import argparse
import contextlib
import http.client
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

ONE = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
os.environ.update(ONE)


def measure_parts(folder, image, batch, rounds, device):
    """Return images a second of body and heads, and the bytes between them."""
    import torch

    from splitreg.assembly import EdgeModel, testvectors
    from splitreg.bundle import Bundle
    from splitreg.serving.inference import InferenceRequest
    from splitreg.serving.on_ray.replicas import BodyReplica, HeadReplica
    from splitreg.wire import AnswerFormat

    torch.set_num_threads(1)
    config = Bundle.open(folder).config
    names = [head.name for head in config.heads]
    packet = EdgeModel.load(folder).encode(image or testvectors.image())[0]
    body = BodyReplica(str(folder), config.id, names, device)
    heads = {name: HeadReplica(str(folder), config.id, name, device, batch) for name in names}
    asks = [InferenceRequest(images=1, answer_format=AnswerFormat(), packets=(packet,))] * batch
    embedded = {name: body.embed(asks, [name]) for name in names}
    every = body.embed(asks, names)
    # CPU seconds: what else the machine does costs them little
    clock = time.process_time if device == "cpu" else time.perf_counter
    seconds = {"body": [], **{name: [] for name in names}}
    for _ in range(rounds):
        begun = clock()
        body.embed(asks, names)
        seconds["body"].append(clock() - begun)
        for name, head in heads.items():
            begun = clock()
            (row,) = head.answer([(embedded[name], asks)])
            seconds[name].append(clock() - begun)
    row = {name: head.answer([(every, asks)])[0][0].blobs for name, head in heads.items()}
    stored = {name: sum(array.nbytes for b in found.batches for _, array in b.features.values())
              for name, found in {"all": every, **embedded}.items()}  # fmt: skip
    return {
        "packet_bytes": len(packet), "answer_json_bytes": len(AnswerFormat().join_heads(row)),
        "feature_bytes": {name: size // batch for name, size in stored.items()},
        "images_per_s": {name: round(batch / statistics.median(took), 2) for name, took in seconds.items()},
    }, names, packet  # fmt: skip


def ingress(port, answer_bytes, model):
    """Serve answers that are there at once; say the CPU seconds so far for every line that comes."""
    import asyncio
    import threading

    from splitreg.serving.batch_queue import BatchQueue
    from splitreg.serving.config import ServeConfig
    from splitreg.serving.run import serve

    class InstantBackend:
        def __init__(self, config, metrics):
            self.queue, self.models, self.ready = BatchQueue(config, metrics), {}, False
            self.submit, self.cancel = self.queue.submit, self.queue.cancel

        async def start(self):
            self.models, self.ready = {model: {"id": model, "heads": {"cls": {}}}}, True
            self.task = asyncio.create_task(self._answer())

        async def _answer(self):
            blob = json.dumps(["x" * int(answer_bytes)]).encode()
            while True:
                for job in await self.queue.take():
                    self.queue.finish(job, blob, 0.0)

        async def reload(self):
            pass

        async def drain(self):
            while self.queue.busy:
                await asyncio.sleep(0.01)

        async def close(self):
            self.task.cancel()

    def report():
        for _ in sys.stdin:
            print(time.process_time(), flush=True)

    threading.Thread(target=report, daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        config = ServeConfig(bundles=("none",), port=int(port), max_requests_per_s=0.0, log_file=os.devnull)
        serve(config, lambda url: print(url, flush=True), InstantBackend)


def measure_ingress(packet, answer_bytes, model, requests):
    """Return CPU seconds a request, by HTTP connections that stay."""
    command = [sys.executable, "-W", "ignore", __file__, "ingress", "0", str(answer_bytes), model]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        address = child.stdout.readline().strip().removeprefix("http://")

        def cpu():
            child.stdin.write("\n")
            child.stdin.flush()
            return float(child.stdout.readline())

        connection = http.client.HTTPConnection(address)
        took = []
        for count in (requests // 10, requests, requests, requests):
            begun = cpu()
            for _ in range(count):
                connection.request("POST", "/v1/infer", packet, {"Content-Type": "application/vnd.splitreg.packet"})
                answer = connection.getresponse()
                assert answer.status == 200, answer.read()
                answer.read()
            took.append((cpu() - begun) / count)
        child.terminate()
    return statistics.median(took[1:])


def measure_calls(heads, batch, feature_bytes, packet, calls):
    """Return the ingress' CPU seconds, and the seconds, of a batch through Ray Serve."""
    import asyncio

    import numpy as np
    import ray
    from ray import serve

    class Body:
        def __init__(self, heads):
            self.features = np.zeros(feature_bytes * batch, np.uint8)

        async def __call__(self, packets):
            return self.features.copy()

    class Head:
        async def __call__(self, features):
            return [b"x" * 200] * batch

    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=200_000_000)
    try:
        serve.start(http_options={"location": "NoServer"})
        few = {"ray_actor_options": {"num_cpus": 0.2}, "max_ongoing_requests": 2}
        made = {name: serve.deployment(Head).options(name=f"head-{name}", **few).bind() for name in heads}
        serve.run(serve.deployment(Body).options(name="body", **few).bind(made), name="n", route_prefix=None)
        body = serve.get_deployment_handle("body", "n")
        parts = [serve.get_deployment_handle(f"head-{name}", "n") for name in heads]

        async def run(count):
            for _ in range(count):
                features = body.remote([packet] * batch)
                await asyncio.gather(*[part.remote(features) for part in parts])

        asyncio.run(run(calls // 4 + 1))
        cpu, begun = time.process_time(), time.perf_counter()
        asyncio.run(run(calls))
        return (time.process_time() - cpu) / calls, (time.perf_counter() - begun) / calls
    finally:
        serve.shutdown()
        ray.shutdown()


def table(measured, names, devices, per_device, load, wire_bytes):
    """Divide."""
    rows = []
    each = {part: 1 / speed for part, speed in measured["images_per_s"].items()}
    each["ingress"] = measured["ingress_cpu_s"]
    for count in devices:
        rate = count * per_device
        features = measured["feature_bytes"]
        rows.append({
            "devices": count, "packets_per_s": rate,
            "in_MB_per_s": round(rate * (measured["packet_bytes"] + wire_bytes) / 1e6, 2),
            "out_MB_per_s": round(rate * (measured["answer_json_bytes"] + wire_bytes) / 1e6, 2),
            "store_written_MB_per_s": round(rate * features["all"] / 1e6, 1),
            "store_read_MB_per_s": round(rate * features["all"] * len(names) / 1e6, 1),
            "replicas": {part: math.ceil(rate * seconds / load) for part, seconds in each.items()},
        })  # fmt: skip
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle")
    parser.add_argument("--image", help="that is sent; a drawn one by default")
    parser.add_argument("--devices", type=int, nargs="+", default=[1000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--per-device", type=float, default=0.1, help="packets a second")
    parser.add_argument("--load", type=float, default=0.6, help="of a replica's capacity that is used")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--wire-bytes", type=int, default=600, help="headers of a request, and of an answer")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--ray", action="store_true", help="measure Ray's calls as well")
    asked = parser.parse_args()

    from splitreg.zoo import find_bundle

    folder = Path(find_bundle(asked.bundle))
    measured, names, packet = measure_parts(folder, asked.image, asked.batch, asked.rounds, asked.device)
    model = json.loads((folder / "config.json").read_text())["model_id"]
    answer = measured["answer_json_bytes"]
    measured["http_cpu_s"] = round(measure_ingress(packet, answer, model, asked.requests), 6)
    calls = [0.0, 0.0]
    if asked.ray:
        with contextlib.redirect_stdout(sys.stderr):  # Ray talks
            features = measured["feature_bytes"]["all"]
            calls = measure_calls(names, asked.batch, features, packet, asked.requests // 4 + 1)
    measured["ray_cpu_s_a_batch"], measured["ray_s_a_batch"] = (round(value, 6) for value in calls)
    measured["ingress_cpu_s"] = round(measured["http_cpu_s"] + calls[0] / asked.batch, 6)
    found = {
        "bundle": asked.bundle, "batch": asked.batch, "device": asked.device, "per_device": asked.per_device,
        "load": asked.load, "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(),
                                        "threads": 1, "busy": round(os.getloadavg()[0], 1)},
        "measured": measured,
        "table": table(measured, names, asked.devices, asked.per_device, asked.load, asked.wire_bytes),
    }  # fmt: skip
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    if sys.argv[1:2] == ["ingress"]:
        ingress(*sys.argv[2:])
    else:
        main()
