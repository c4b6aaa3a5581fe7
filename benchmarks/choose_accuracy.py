"""How well ``splitreg choose`` predicts times: against ``splitreg.edge.Client`` over an emulated link.

The server is ``splitreg serve`` with one thread, the device is another process that a control group (version 1, which
needs root) may slow down: ``--quotas 1,0.3`` gives it all and 30 % of a processor, in periods of 20 ms. The device
measures itself as ``splitreg bench calibrate`` does, and then sends every image over every link; the server's times are
those of ``splitreg bench --times``, both with ``--pause``; the time of client and service beside the networks is that of
requests without a link. None of them sees the measured times from end to end.

    python benchmarks/choose_accuracy.py --root camvid --links lora,lte-m,4g --quotas 1,0.3 > result.json
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

os.environ.setdefault("OMP_NUM_THREADS", "1")

from splitreg import imaging
from splitreg.bundle import Bundle
from splitreg.edge import Client, ClientOptions, EdgeEncoder
from splitreg.link_emulator import Link
from splitreg.zoo import find_bundle

MIN_SCORE = 0.3
CGROUP = Path("/sys/fs/cgroup/cpu")
PERIOD_US = 20_000


class Quota:
    """Limits this process to a share of one processor."""

    def __init__(self, share):
        self.folder = None
        if share < 1:
            self.folder = CGROUP / f"splitreg-{os.getpid()}"
            self.folder.mkdir()
            (self.folder / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (self.folder / "cpu.cfs_quota_us").write_text(str(int(share * PERIOD_US)))
            (self.folder / "cgroup.procs").write_text(str(os.getpid()))

    def close(self):
        if self.folder is not None:
            (CGROUP / "cgroup.procs").write_text(str(os.getpid()))
            self.folder.rmdir()


def device(task):
    """Measure the edge halves, then send; return the times of both."""
    encoders = {place: EdgeEncoder.open(place) for place in task["bundles"]}
    images = [imaging.read(path) for path in task["images"]]
    quota = Quota(task["quota"])
    try:
        alone, sent = {place: [] for place in encoders}, []
        for number in range(-1, task["rounds"]):
            for place, encoder in encoders.items():
                for image in images:
                    encoder.encode(image)
                    time.sleep(task["pause_s"])
                    begin = time.perf_counter()
                    encoder.encode(image)
                    if number >= 0:
                        alone[place].append(1000 * (time.perf_counter() - begin))
        service = statistics.median(service_ms(task, encoders, images))
        for link, url in task["urls"].items():
            clients = {
                place: Client(url, encoder, options=ClientOptions(min_score=MIN_SCORE, deadline_s=300))
                for place, encoder in encoders.items()
            }
            for number in range(-1, task["rounds"]):
                for place, rate in task["plans"]:
                    for image in images[:1] if number < 0 else images:  # the first opens the connection
                        answer = clients[place].send(image, rate=rate)
                        t = answer.times
                        row = {"link": link, "place": place, "rate": rate, "total_ms": t.total_ms, "link_ms": t.link_ms,
                               "server_ms": t.queue_ms + t.compute_ms, "packet": answer.packet_bytes,
                               "received": answer.received_bytes}  # fmt: skip
                        if number >= 0:
                            sent.append(row)
            for client in clients.values():
                client.close()
    finally:
        quota.close()
    encode_ms = {place: statistics.median(times) for place, times in alone.items()}
    return {"encode_ms": encode_ms, "service_ms": service, "sent": sent}


def service_ms(task, encoders, images):
    """Return the times of requests without a link, less those of both halves of the network."""
    encoder = next(iter(encoders.values()))
    with Client(task["direct"], encoder, options=ClientOptions(min_score=MIN_SCORE, deadline_s=300)) as client:
        times = []
        for number in range(9):
            time.sleep(task["pause_s"])
            t = client.send(images[number % len(images)]).times
            times.append(t.total_ms - t.encode_ms - t.compute_ms)
    return times[1:]


def run_device(task):
    """Run ``device`` in a process of its own."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(task, file)
        file.flush()
        done = subprocess.run([sys.executable, __file__, "--device", file.name], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


def predict(speed, plans, sizes, measured, link):
    """Return plan -> predicted costs, by ``choose`` with the device's own times."""
    from splitreg.choosing import ChooseOptions, choose
    from splitreg.profiles import DeviceProfile, Figure

    digests = {place: Bundle.open(place).config.digest for place, _ in plans}
    device = DeviceProfile(
        name="device", summary="this benchmark's device", place=Path(),
        figures={"gmacs_per_s": Figure(value=1.0, source="unused")},
        bundles={digests[place]: {"encode": ms} for place, ms in measured["encode_ms"].items()},
    )  # fmt: skip
    points = [
        {"label": f"{place} {rate}", "bytes": sizes[place, rate], "metrics": {}, "primary": {},
         "sent": {"how": "packet", "quality": 0, "rate": rate, "bundle": place, "place": place}}
        for place, rate in plans
    ]  # fmt: skip
    write_ms = statistics.median(bundle["server"]["write"]["ms"] for bundle in speed["bundles"].values())
    options = ChooseOptions(service_ms=max(0.0, measured["service_ms"] - write_ms))
    choice = choose({"series": {"plans": points}, "speed": speed}, device=device, link=link, options=options)
    return {plan.label: plan.costs for plan in choice.plans}


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundles", default="zoo:camvid-small,zoo:splitreg-camvid")
    parser.add_argument("--rates", default="0,0.5,1", help="of bundles that have several")
    parser.add_argument("--links", default="lora,lte-m,4g")
    parser.add_argument("--quotas", default="1,0.3")
    parser.add_argument("--root", type=Path, help="folder of camvid")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pause", type=float, default=0.1, help="seconds of rest before each timed run")
    parser.add_argument("--device", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.device:
        print(json.dumps(device(json.loads(Path(options.device).read_text()))))
        return
    from splitreg.bench import SpeedOptions, measure_speed
    from splitreg.bench.machine import machine
    from splitreg.profiles import read_link

    places = [str(find_bundle(place)) for place in options.bundles.split(",")]
    plans = [
        (place, rate)
        for place in places
        for rate in (
            [float(r) for r in options.rates.split(",")] if Bundle.open(place).config.variable_rate else [None]
        )
    ]
    root = options.root or Path(os.environ["SPLITREG_DATA"]) / "camvid"
    files = sorted((root / "val").iterdir())
    files = [str(path) for path in files[:: max(1, len(files) // options.images)][: options.images]]
    images = [imaging.read(path) for path in files]
    encoders = {place: EdgeEncoder.open(place) for place in places}
    sizes = {
        (place, rate): statistics.mean(len(p) for p in encoders[place].encode(images, rate=rate))
        for place, rate in plans
    }
    server = subprocess.Popen(
        [sys.executable, "-m", "splitreg", "serve", *places, "--port", "0", "--threads", "1"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    rows = []
    try:
        url = urlsplit(json.loads(server.stdout.readline())["url"])
        speed = measure_speed(
            {place: Path(place) for place in places}, images,
            SpeedOptions(rounds=9, pause_s=options.pause, batches=(1,), processes=False),
        )  # fmt: skip
        profiles = {name: read_link(name) for name in options.links.split(",")}
        emulators = {name: Link((url.hostname, url.port), p.emulated(), seed=1) for name, p in profiles.items()}
        for emulator in emulators.values():
            emulator.__enter__()
        for quota in map(float, options.quotas.split(",")):
            measured = run_device({
                "bundles": places, "images": files, "quota": quota, "rounds": options.rounds, "plans": plans,
                "pause_s": options.pause, "direct": url.geturl(),
                "urls": {name: emulator.url for name, emulator in emulators.items()},
            })  # fmt: skip
            for name, link in profiles.items():
                predicted = predict(speed, plans, sizes, measured, link)
                for place, rate in plans:
                    sent = [r for r in measured["sent"] if (r["link"], r["place"], r["rate"]) == (name, place, rate)]
                    costs, median = predicted[f"{place} {rate}"], statistics.median(r["total_ms"] for r in sent)
                    rows.append({
                        "link": name, "service_ms": measured["service_ms"],
                        "quota": quota, "bundle": Path(place).name, "rate": rate, "measured_ms": median,
                        "predicted_ms": costs.total_ms, "error": costs.total_ms / median - 1,
                        "predicted": {"device": costs.device_ms, "link": costs.link_ms, "server": costs.server_ms},
                        "measured": {
                            "link": statistics.median(r["link_ms"] for r in sent),
                            "server": statistics.median(r["server_ms"] for r in sent),
                            "device": statistics.median(r["total_ms"] - r["link_ms"] - r["server_ms"] for r in sent),
                        },
                        "bytes": {"packet": statistics.mean(r["packet"] for r in sent),
                                  "received": statistics.mean(r["received"] for r in sent),
                                  "predicted_down": costs.down_bytes},
                    })  # fmt: skip
        for emulator in emulators.values():
            emulator.__exit__(None, None, None)
    finally:
        server.terminate()
        server.wait()
    errors = sorted(abs(row["error"]) for row in rows)
    print(json.dumps({
        "median_error": statistics.median(errors), "worst_error": errors[-1], "rows": rows, "images": len(images),
        "rounds": options.rounds, "pause_s": options.pause, "machine": machine(),
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
