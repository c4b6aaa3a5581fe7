"""Fuzz packets and codecs: ``python scripts/fuzz_packets.py [--packets N] [--codec NAME] > fuzz.json``.

N mutated packets of the golden corpus' models and N random ones are passed to ``Packet.parse`` and the codec. Each must
raise ``CorruptPacket`` or give a latent, within ``--seconds`` and bounded memory. Failures are

- crashes: another exception, or the death of the process;
- hangs: a packet that takes longer;
- wrong answers: a mutated packet with its original checksum that decodes to another latent;
- of codec rans, whose payloads have exactly one encoding: a payload that decodes, but is encoded differently.

Prints JSON; exit status 1 if there is a failure. Mutated packets whose checksum was recomputed may decode to something,
which no code can detect; they are counted.
"""

from __future__ import annotations

import argparse
import collections
import json
import mmap
import multiprocessing
import multiprocessing.connection
import os
import random
import resource
import signal
import struct
import sys
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from golden.corpus import Case, make_codec, names, read  # noqa: E402

from splitreg.coding import Codec, Packet, RansCodec, SymbolModel, decode_streams  # noqa: E402
from splitreg.errors import CorruptPacket, ForeignPacket  # noqa: E402

#: Bytes that a worker may allocate after its start.
MAX_MEMORY = 2**30
MAX_RANDOM_BYTES = 400


class RecordingCodec(Codec):
    """Decodes with another codec and records the results."""

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self.decoded: list[tuple[bytes, np.ndarray, SymbolModel]] = []

    def encode(self, symbols: np.ndarray, model: SymbolModel) -> bytes:
        return self.codec.encode(symbols, model)

    def decode(self, payload: bytes, shape: tuple[int, int, int], model: SymbolModel) -> np.ndarray:
        symbols = self.codec.decode(payload, shape, model)
        self.decoded.append((payload, symbols, model))
        return symbols


@dataclass
class Tally:
    """Results of one worker."""

    counts: collections.Counter = field(default_factory=collections.Counter)
    failures: list[dict[str, str]] = field(default_factory=list)
    slowest: float = 0.0
    peak: int = 0

    def fail(self, kind: str, case: str, data: bytes, why: str = "") -> None:
        self.counts[kind] += 1
        if len(self.failures) < 5:
            self.failures.append({"kind": kind, "case": case, "why": why, "packet": data.hex()[:4000]})


class Fuzzer:
    """Mutates and decodes packets of some cases with one codec."""

    def __init__(self, codec: str, seed: int, worker: int) -> None:
        self.rng = random.Random(f"{seed} {worker}")
        self.name, self.codec = codec, make_codec(codec)
        self.rans = {adapt: RansCodec(adapt=adapt) for adapt in (False, True)}
        self.cases = [case for case in map(read, names()) if codec in case.streams]
        # Small cases are more frequent: they are faster, and headers are a larger part of them.
        self.weights = [1 / (1000 + case.latent.size) for case in self.cases]
        self.packets = []
        for i, case in enumerate(self.cases):
            size = (case.latent.shape[1], case.latent.shape[2])
            self.packets.append(Packet(model_id=i, original=(60, 80), coded=size, streams=case.streams[codec]))
        self.whole = [packet.to_bytes() for packet in self.packets]
        batches = [Packet.join([packet] * 3)[0].to_bytes() for packet in self.packets]
        self.encodings = [[single, single, batch] for single, batch in zip(self.whole, batches, strict=True)]
        self.tally = Tally()

    def run(self, packets: int, seconds: int, shown: mmap.mmap) -> Tally:
        """Decode ``packets`` mutated packets and as many random ones; the current one is in ``shown``."""
        for i in range(2 * packets):
            number = self.rng.choices(range(len(self.cases)), self.weights)[0]
            if i % 2:
                kind, data, sealed = "random", *self.random(number)
            else:
                kind, data, sealed = "mutated", *self.mutated(number)
            if data in self.encodings[number]:
                self.tally.counts["unchanged"] += 1
                continue
            shown.seek(0)
            shown.write(struct.pack("<II", number, len(data)) + data[: len(shown) - 8])
            signal.alarm(seconds)
            started = time.perf_counter()
            self.check(kind, self.cases[number], data, sealed)
            self.tally.slowest = max(self.tally.slowest, time.perf_counter() - started)
            signal.alarm(0)
        self.tally.peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return self.tally

    def check(self, kind: str, case: Case, data: bytes, sealed: bool) -> None:
        """Parse and decode one packet and count the result."""
        tally, label = self.tally, f"{kind}, checksum recomputed" if sealed else kind
        recorder = RecordingCodec(self.codec)
        try:
            packet = Packet.parse(data)
            tally.counts[f"{label}: parsed"] += 1
            if packet.model_id != self.cases.index(case):
                raise ForeignPacket("of another case")
            if packet.to_bytes() != data:
                tally.fail("packets with two encodings", case.name, data)
            latents = [
                decode_streams(case.model, image.streams, case.latent.shape, recorder) for image in packet.images
            ]
        except (CorruptPacket, ForeignPacket):
            tally.counts[f"{label}: refused"] += 1
            return
        except Exception as error:  # any other exception is a failure
            tally.fail("crashes", case.name, data, f"{type(error).__name__}: {error}")
            return
        tally.counts[f"{label}: decoded"] += 1
        if not sealed and not all(np.array_equal(latent, case.restored[self.name]) for latent in latents):
            tally.fail("wrong answers", case.name, data)
        if isinstance(self.codec, RansCodec):
            for payload, symbols, model in recorder.decoded:
                # An encoder may choose not to adapt, so the adapt flag is kept.
                codec = self.rans[model.context is not None or bool(payload[0] & 4)]
                if codec.encode(symbols, model) != payload:
                    tally.fail("payloads with two encodings", case.name, data)

    def random(self, number: int) -> tuple[bytes, bool]:
        """Return random bytes, mostly with a valid header and checksum; and whether they have them."""
        body = self.rng.randbytes(self.rng.randrange(MAX_RANDOM_BYTES))
        variant = self.rng.randrange(4)
        if variant == 0:
            return body, False
        head = bytearray(self.whole[number][:16])
        if variant == 1:
            head[3] = self.rng.randrange(256)
        elif variant == 2 and body:  # a first byte of codec rans
            body = bytes([body[0] & 15]) + body[1:]
        return seal(bytes(head) + body), True

    def mutated(self, number: int) -> tuple[bytes, bool]:
        """Return a real packet after one to three changes, and whether its checksum was recomputed."""
        rng = self.rng
        data = bytearray(rng.choice(self.encodings[number]))
        sealed = rng.random() < 0.5
        if sealed:
            del data[-4:]
        for _ in range(rng.choice((1, 1, 2, 3))):
            change = rng.randrange(9)
            size = len(data)
            at = rng.randrange(size + 1) if rng.random() < 0.5 else rng.randrange(min(size, 40) + 1)
            end = min(size, at + rng.choice((1, 2, 4, 8, 64)))
            if change == 0 and at < size:
                data[at] ^= 1 << rng.randrange(8)
            elif change == 1 and at < size:
                data[at] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
            elif change == 2:
                del data[at:]
            elif change == 3:
                del data[at:end]
            elif change == 4:
                data[at:at] = rng.randbytes(rng.randrange(1, 17))
            elif change == 5:
                data[at:at] = data[at:end]
            elif change == 6:
                data[at:end] = bytes(end - at)
            elif change == 7:  # the rest of another packet
                data[at:] = rng.choice(self.whole)[at:]
            elif change == 8 and size > 16:  # a field of the header
                data[3:4] = bytes([rng.choice((0, 1, 2, 15, 16, 17, 31, 48, 49, 63, 64, 128, 255))])
        return (seal(bytes(data)), True) if sealed else (bytes(data), False)


def seal(body: bytes) -> bytes:
    """Append the checksum."""
    return body + struct.pack("<I", zlib.crc32(body))


def work(options: argparse.Namespace, worker: int, path: str, results: multiprocessing.Queue) -> None:
    """Run one worker: its tally is put into ``results``, the current packet into the file at ``path``."""
    fuzzer = Fuzzer(options.codec, options.seed, worker)
    with open("/proc/self/statm") as statm:
        now = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MAX_MEMORY, resource.RLIM_INFINITY))
    share = options.packets // options.workers + (worker < options.packets % options.workers)
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as shown:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        tally = fuzzer.run(share, options.seconds, shown)
    results.put((tally.counts, tally.failures, tally.slowest, tally.peak - before))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packets", type=int, default=1_000_000, help="number of mutated packets, and of random ones")
    parser.add_argument("--codec", default="rans", help="rans, rans-static, compressai, zstd, raw, png, webp, jpeg")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=int, default=10, help="longer times count as hangs")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    options = parser.parse_args()
    started = time.perf_counter()
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    total = Tally()
    growth, processes = 0, []
    folder = Path(os.environ.get("TMPDIR", "/tmp"))
    for worker in range(options.workers):
        path = folder / f"fuzz-{os.getpid()}-{worker}"
        path.write_bytes(bytes(2**20))
        process = context.Process(target=work, args=(options, worker, str(path), results))
        process.start()
        processes.append((process, path))
    waiting = {process.sentinel: (process, path) for process, path in processes}
    while waiting:
        for sentinel in multiprocessing.connection.wait(list(waiting), timeout=1):
            process, path = waiting.pop(sentinel)
            if process.exitcode:
                number, length = struct.unpack("<II", path.read_bytes()[:8])
                kind = "hangs" if process.exitcode == -signal.SIGALRM else "crashes"
                total.fail(kind, f"number {number}", path.read_bytes()[8 : 8 + length], f"exit code {process.exitcode}")
        while not results.empty():
            counts, failures, slowest, grown = results.get()
            total.counts.update(counts)
            total.failures += failures
            total.slowest, growth = max(total.slowest, slowest), max(growth, grown)
    for _, path in processes:
        path.unlink()
    kinds = ("crashes", "hangs", "wrong answers", "packets with two encodings", "payloads with two encodings")
    failed = {kind: total.counts.pop(kind, 0) for kind in kinds}
    report = {
        "codec": options.codec, "packets": {"mutated": options.packets, "random": options.packets}, "seed": options.seed,
        "failures": failed, "counts": dict(sorted(total.counts.items())), "slowest_ms": round(total.slowest * 1e3, 1),
        "memory_growth_mib": round(growth / 2**20, 1), "minutes": round((time.perf_counter() - started) / 60, 2),
        "workers": options.workers, "examples": total.failures,
    }  # fmt: skip
    print(json.dumps(report, indent=1))
    sys.exit(1 if any(failed.values()) else 0)


if __name__ == "__main__":
    main()
