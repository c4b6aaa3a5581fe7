"""``measure_speed``: times, throughput, memory and start of bundles and image codecs, interleaved."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from splitreg import imaging
from splitreg.assembly import ServerModel, SplitModel, load
from splitreg.bench.machine import machine
from splitreg.bench.timing import Task, Timing, measure
from splitreg.bundle import Bundle
from splitreg.coding import Packet
from splitreg.data.image_codecs import parse_codec
from splitreg.edge import EdgeEncoder
from splitreg.edge.half import EdgeHalf
from splitreg.edge.runtimes import RUNTIMES
from splitreg.errors import BenchError, BundleError, MissingExtra
from splitreg.files import IMAGE_CODECS
from splitreg.registry import Registry
from splitreg.threads import set_threads
from splitreg.wire import AnswerFormat
from splitreg.wire.protocol import ANSWERS

Pixels = NDArray[np.uint8]
#: Name of the runtime that runs the modules themselves; the others run ``edge.onnx``.
TORCH = "torch"
#: As the service compresses its answers.
_GZIP_LEVEL, _MIN_GZIP_BYTES = 7, 1024
#: Lowest score of the objects in an answer whose bytes are counted.
MIN_SCORE = 0.3
#: A process with only one half of a bundle: time from its start to the first result, and its peak.
_PROCESS = """
import json, resource, sys, time
kind, bundle, image, packet = sys.argv[1:]
if kind == "server":
    from splitreg.assembly import ServerModel
    ServerModel.load(bundle).infer(open(packet, "rb").read())
elif kind == "torch":
    from splitreg.assembly import EdgeModel
    EdgeModel.load(bundle).encode(image)
else:
    from splitreg.edge import EdgeEncoder
    EdgeEncoder.open(bundle, runtime=kind).encode(image)
usage = resource.getrusage(resource.RUSAGE_SELF)
peak = usage.ru_maxrss  # on Linux, this is at least the memory of the process that started this one
try:
    peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM:"))
except (OSError, StopIteration):
    pass
print(json.dumps({"cpu_s": usage.ru_utime + usage.ru_stime, "peak_bytes": 1024 * peak}))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedOptions:
    """What ``measure_speed`` measures.

    Args:
        rounds: number of times that the tasks run in turn; medians are reported.
        pause_s: seconds of rest before each timed run, as between requests; 0: none.
        threads: CPU threads per network.
        batches: numbers of packets that the server half runs at once.
        codecs: image codecs, e.g. ``("png", "webp:80")``.
        processes: also start a process per half and runtime, for the time to the first result and the
            memory.
        progress: show a bar on stderr.
    """

    rounds: int = 15
    pause_s: float = 0.0
    threads: int = 1
    batches: tuple[int, ...] = (1, 2, 4, 8, 16)
    codecs: tuple[str, ...] = ()
    processes: bool = True
    progress: bool = False


def measure_speed(
    bundles: Mapping[str, Path],
    images: Sequence[Pixels],
    options: SpeedOptions | None = None,
    *,
    registry: Registry | None = None,
) -> dict[str, Any]:
    """Measure all bundles and codecs in turn.

    Args:
        bundles: name -> folder.
        images: (H, W, 3) images that are encoded; round n uses image n.
        options: rounds, threads and so on.
        registry: the installed plugins, by default.

    Returns:
        Plain data: ``machine``, ``threads``, ``rounds``, ``pause_s``, ``reference``, ``bundles`` (per bundle:
        ``digest``, ``costs``, ``bytes``, ``edge`` by runtime, ``server``, ``local``, ``throughput``,
        ``processes``) and ``codecs``; times are those of ``Timing``.

    Raises:
        BenchError: there is no image.
        BundleError: a bundle cannot be read, or a process with one of its halves fails.
    """
    options = options or SpeedOptions()
    if not images:
        raise BenchError("times are measured on images, and there is none; raise the limit")
    before = torch.get_num_threads()
    set_threads(options.threads)
    try:
        subjects = {name: _Subject(path, images, options, registry) for name, path in bundles.items()}
        tasks = {f"{name}\0{task}": run for name, s in subjects.items() for task, run in s.tasks().items()}
        codecs = {text: _Codec(text, images, next(iter(subjects.values()))) for text in options.codecs}
        tasks |= {f"\0{text}\0{task}": run for text, one in codecs.items() for task, run in one.tasks().items()}
        timings, reference = measure(tasks, rounds=options.rounds, pause_s=options.pause_s, progress=options.progress)
    finally:
        torch.set_num_threads(before)
    return {
        "machine": machine(), "threads": options.threads, "rounds": options.rounds, "pause_s": options.pause_s,
        "reference": asdict(reference),
        "bundles": {name: subject.result(_of(timings, name)) for name, subject in subjects.items()},
        "codecs": {text: one.result(_of(timings, f"\0{text}")) for text, one in codecs.items()},
    }  # fmt: skip


def _of(timings: Mapping[str, Timing], owner: str) -> dict[str, Timing]:
    return {key.removeprefix(f"{owner}\0"): timing for key, timing in timings.items() if key.startswith(f"{owner}\0")}


class _Subject:
    """The tasks of one bundle.

    Args:
        path: folder of the bundle.
        images: (H, W, 3) images.
        options: see ``SpeedOptions``.
        registry: the installed plugins.
    """

    def __init__(self, path: Path, images: Sequence[Pixels], options: SpeedOptions, registry: Registry | None) -> None:
        self.path, self.images, self.options = path, images, options
        self.model: SplitModel = load(path, registry=registry).eval()
        self.server = ServerModel.load(path, registry=registry)  # as it is served
        self.preprocess = self.model.plan.preprocess
        self.halves: dict[str, EdgeHalf] = {TORCH: self.model.edge}
        for runtime in RUNTIMES:
            try:
                self.halves[runtime] = EdgeEncoder.open(
                    path, runtime=runtime, threads=options.threads, registry=registry
                )
            except (MissingExtra, BundleError):  # not installed, or a bundle without edge.onnx
                continue
        self.packets = self.model.edge.encode(list(images))
        self.answers = [self._write(self.server.infer(packet)[0]) for packet in self.packets]
        self._latents = [self.server.decode(Packet.parse(packet)) for packet in self.packets]

    def tasks(self) -> dict[str, Task]:
        """Return name -> task; a name with a dot is a part of the result's tree."""
        server, size = self.server, self.preprocess.size
        pixels, _ = imaging.prepare(self.images[0], self.preprocess)
        features = server.features(torch.from_numpy(self._latents[0][None]), size)
        predictions = server.infer(self.packets[0])[0]
        latent, _ = self.model.edge.latent_of(self.images[0])
        tasks: dict[str, Task] = {
            "edge.prepare": lambda n: imaging.prepare(self._image(n), self.preprocess),
            "edge.code": lambda n: self.model.coding.encode(latent, None),
        }
        for name, half in self.halves.items():
            tasks[f"edge.{name}.network"] = lambda n, half=half: half._analyse(pixels)  # type: ignore[misc]
            tasks[f"edge.{name}.encode"] = lambda n, half=half: half.encode(self._image(n))  # type: ignore[misc]
        tasks["server.decode"] = lambda n: server.decode(Packet.parse(self._packet(n)))
        tasks["server.body"] = lambda n: server.features(
            torch.from_numpy(self._latents[n % len(self._latents)][None]), size
        )
        for name in self.model.heads:
            tasks[f"server.heads.{name}"] = lambda n, name=name: self._head(name, features)  # type: ignore[misc]
        tasks["server.write"] = lambda n: self._write(predictions)
        tasks["server.infer"] = lambda n: server.infer(self._packet(n))
        tasks["local"] = lambda n: run_locally(self.model, self._image(n))
        for size_ in self.options.batches:
            packets = [self.packets[i % len(self.packets)] for i in range(size_)]
            tasks[f"throughput.{size_}"] = lambda n, packets=packets: server.infer(packets)  # type: ignore[misc]
        return tasks

    def result(self, timings: Mapping[str, Timing]) -> dict[str, Any]:
        """Return the times as a tree, with bytes, costs and processes."""
        plain = {name: asdict(timing) for name, timing in timings.items()}
        runtimes = {
            name: {"network": plain[f"edge.{name}.network"], "encode": plain[f"edge.{name}.encode"]}
            for name in self.halves
        }
        config = Bundle.open(self.path).config
        return {
            "digest": config.digest, "input": list(self.preprocess.size),
            "costs": {part: asdict(cost) for part, cost in self.model.plan.costs().items()},
            "bytes": {
                "packet": float(np.mean([len(packet) for packet in self.packets])),
                "answer": float(np.mean([len(answer) for answer in self.answers])),
            },
            "edge": {"prepare": plain["edge.prepare"], "code": plain["edge.code"], "runtimes": runtimes},
            "server": {
                "decode": plain["server.decode"], "body": plain["server.body"],
                "heads": {name: plain[f"server.heads.{name}"] for name in self.model.heads},
                "write": plain["server.write"], "infer": plain["server.infer"],
            },
            "local": plain["local"],
            "throughput": {
                str(size): 1000 * size / plain[f"throughput.{size}"]["ms"] for size in self.options.batches
            },
            "processes": self._processes() if self.options.processes else {},
        }  # fmt: skip

    def _image(self, number: int) -> Pixels:
        return self.images[number % len(self.images)]

    def _packet(self, number: int) -> bytes:
        return self.packets[number % len(self.packets)]

    def _head(self, name: str, features: Mapping[int, torch.Tensor]) -> object:
        branch = self.server.branches[name]
        with torch.inference_mode():
            return branch.head.predict(branch(features, self.preprocess.size))

    def _write(self, predictions: Mapping[str, Any]) -> bytes:
        """Return the bytes of an answer, as the service sends it to a client that accepts gzip."""
        blob = AnswerFormat(media=ANSWERS, min_score=MIN_SCORE).write([predictions])
        return gzip.compress(blob, _GZIP_LEVEL, mtime=0) if len(blob) >= _MIN_GZIP_BYTES else blob

    def _processes(self) -> dict[str, Any]:
        folder = self.path / "testvectors"
        files = [str(folder / "image.png"), str(folder / "packet.bin")]
        if not all(Path(file).exists() for file in files):
            return {}
        return {kind: _start(kind, self.path, files) for kind in (*self.halves, "server")}


def run_locally(model: SplitModel, image: Pixels) -> dict[str, Any]:
    """Run the whole network without packets, and without the bottleneck if that is possible.

    Args:
        model: in evaluation mode.
        image: (H, W, 3).

    Returns:
        Head -> prediction in pixels of the image.
    """
    pixels, geometry = imaging.prepare(image, model.plan.preprocess)
    batch = torch.from_numpy(np.ascontiguousarray(pixels)[None])
    heads = dict.fromkeys(model.heads)
    with torch.inference_mode():
        if model.prefix is None:
            outputs = model(batch, heads).outputs
        else:
            outputs = model.run_heads(model.body(model.prefix(batch)), model.plan.preprocess.size, heads)
    return {name: model.head(name).predict(output)[0].restore(geometry) for name, output in outputs.items()}


class _Codec:
    """The tasks of one image codec: the device compresses, the server decompresses.

    Args:
        text: e.g. ``"webp:80"``.
        images: (H, W, 3) images; they are resized to the input of the network.
        subject: the network that sees them.
    """

    def __init__(self, text: str, images: Sequence[Pixels], subject: _Subject) -> None:
        self.codec, self.quality = parse_codec(text)
        self.preprocess, self.images = subject.preprocess, images
        self.files = [self._encode(image) for image in images]

    def tasks(self) -> dict[str, Task]:
        """Return name -> task."""
        count = len(self.images)
        return {
            "encode": lambda n: self._encode(self.images[n % count]),
            "decode": lambda n: np.asarray(Image.open(io.BytesIO(self.files[n % count])).convert("RGB")),
        }

    def result(self, timings: Mapping[str, Timing]) -> dict[str, Any]:
        """Return both times, and the mean size of the files."""
        sizes = [len(file) for file in self.files]
        return {"bytes": float(np.mean(sizes)), **{name: asdict(timing) for name, timing in timings.items()}}

    def _encode(self, image: Pixels) -> bytes:
        height, width = image.shape[:2]
        geometry = imaging.Geometry(original=(height, width), coded=self.preprocess.size, mode=self.preprocess.mode)
        kind, options = IMAGE_CODECS[self.codec]
        stream = io.BytesIO()
        quality = {"quality": self.quality} if self.quality else {}
        Image.fromarray(imaging.letterbox(image, geometry)).save(stream, kind, **options, **quality)
        return stream.getvalue()


def _start(kind: str, bundle: Path, files: Sequence[str]) -> dict[str, float]:
    """Start a process with one half of a bundle, and return seconds to its first result and memory."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", _PROCESS, kind, str(bundle), *files], capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise BundleError(f"a process with {kind} of {bundle} failed: {lines[-1]}")
    return {"start_s": seconds, **json.loads(done.stdout.splitlines()[-1])}
