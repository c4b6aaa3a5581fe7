"""Fuzz packets and codecs: ``python scripts/fuzz_packets.py [--packets N] [--codec NAME] > fuzz.json``.

N mutated packets of the golden corpus' models and N random ones go through ``Packet.parse`` and the codec. Each must give
``CorruptPacket`` or a latent, within ``--seconds`` and a bounded memory. Counted as failures are

- crashes: another exception, or the death of the process;
- hangs: a packet that takes longer;
- wrong answers: a mutated packet, its checksum as it was, that decodes to another latent than the original's;
- of codec rans, whose payloads have one spelling: a payload that decodes, and whose symbols encode to another.

Prints JSON; exit status 1 where there is a failure. Mutated packets whose checksum was made to fit again may decode to
something: no code can know better, they are counted.
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
from splitreg.errors import CorruptPacket  # noqa: E402

#: What a worker may take beyond what it has when it begins.
MAX_MEMORY = 2**30
MAX_RANDOM_BYTES = 400


class Spy(Codec):
    """Decodes as another codec, and keeps what it decoded."""

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self.seen: list[tuple[bytes, np.ndarray, SymbolModel]] = []

    def encode(self, symbols: np.ndarray, model: SymbolModel) -> bytes:
        return self.codec.encode(symbols, model)

    def decode(self, payload: bytes, shape: tuple[int, int, int], model: SymbolModel) -> np.ndarray:
        symbols = self.codec.decode(payload, shape, model)
        self.seen.append((payload, symbols, model))
        return symbols


@dataclass
class Tally:
    """What one worker found."""

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
        self.spellers = {adapt: RansCodec(adapt=adapt) for adapt in (False, True)}
        self.cases = [case for case in map(read, names()) if codec in case.streams]
        # Small cases more often: they are quicker, and their headers are more of the packet.
        self.weights = [1 / (1000 + case.latent.size) for case in self.cases]
        self.packets = []
        for i, case in enumerate(self.cases):
            size = (case.latent.shape[1], case.latent.shape[2])
            self.packets.append(Packet(model_id=i, original=(60, 80), coded=size, streams=case.streams[codec]))
        self.whole = [packet.to_bytes() for packet in self.packets]
        batches = [Packet.join([packet] * 3)[0].to_bytes() for packet in self.packets]
        self.forms = [[one, one, batch] for one, batch in zip(self.whole, batches, strict=True)]
        self.tally = Tally()

    def run(self, packets: int, seconds: int, shown: mmap.mmap) -> Tally:
        """Decode ``packets`` mutated and as many random ones; the one at hand lies in ``shown``."""
        for i in range(2 * packets):
            number = self.rng.choices(range(len(self.cases)), self.weights)[0]
            if i % 2:
                kind, data, sealed = "random", *self.random(number)
            else:
                kind, data, sealed = "mutated", *self.mutated(number)
            if data in self.forms[number]:
                self.tally.counts["unchanged"] += 1
                continue
            shown.seek(0)
            shown.write(struct.pack("<II", number, len(data)) + data[: len(shown) - 8])
            signal.alarm(seconds)
            started = time.perf_counter()
            self.one(kind, self.cases[number], data, sealed)
            self.tally.slowest = max(self.tally.slowest, time.perf_counter() - started)
            signal.alarm(0)
        self.tally.peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return self.tally

    def one(self, kind: str, case: Case, data: bytes, sealed: bool) -> None:
        """Parse and decode one packet and count what became of it."""
        tally, label = self.tally, f"{kind}, checksum made to fit" if sealed else kind
        spy = Spy(self.codec)
        try:
            packet = Packet.parse(data)
            tally.counts[f"{label}: parsed"] += 1
            if packet.to_bytes() != data:
                tally.fail("packets with two spellings", case.name, data)
            latents = [decode_streams(case.model, image.streams, case.latent.shape, spy) for image in packet.images]
        except CorruptPacket:
            tally.counts[f"{label}: refused"] += 1
            return
        except Exception as error:  # whatever it is, it is what this script looks for
            tally.fail("crashes", case.name, data, f"{type(error).__name__}: {error}")
            return
        tally.counts[f"{label}: decoded"] += 1
        if not sealed and not all(np.array_equal(latent, case.restored[self.name]) for latent in latents):
            tally.fail("wrong answers", case.name, data)
        if isinstance(self.codec, RansCodec):
            for payload, symbols, model in spy.seen:
                # An encoder need not let its tables learn, so that a payload says they do is not a matter of spelling.
                codec = self.spellers[bool(payload[0] & 4)]
                if codec.encode(symbols, model) != payload:
                    tally.fail("payloads with two spellings", case.name, data)

    def random(self, number: int) -> tuple[bytes, bool]:
        """Return random bytes; mostly behind a header that fits, and with a checksum that does."""
        body = self.rng.randbytes(self.rng.randrange(MAX_RANDOM_BYTES))
        form = self.rng.randrange(4)
        if form == 0:
            return body, False
        head = bytearray(self.whole[number][:16])
        if form == 1:
            head[3] = self.rng.randrange(256)
        elif form == 2 and body:  # a first byte of codec rans
            body = bytes([body[0] & 15]) + body[1:]
        return seal(bytes(head) + body), True

    def mutated(self, number: int) -> tuple[bytes, bool]:
        """Return a real packet after one to three changes, and whether its checksum was made to fit again."""
        rng = self.rng
        data = bytearray(rng.choice(self.forms[number]))
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
            elif change == 8 and size > 16:  # a header's field
                data[3:4] = bytes([rng.choice((0, 1, 2, 15, 16, 17, 31, 48, 49, 63, 64, 128, 255))])
        return (seal(bytes(data)), True) if sealed else (bytes(data), False)


def seal(body: bytes) -> bytes:
    """Return the bytes with a checksum that fits."""
    return body + struct.pack("<I", zlib.crc32(body))


def work(options: argparse.Namespace, worker: int, path: str, results: multiprocessing.Queue) -> None:
    """Run one worker: its tally goes to ``results``, the packet at hand to the file at ``path``."""
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
    parser.add_argument("--packets", type=int, default=1_000_000, help="mutated ones, and as many random ones")
    parser.add_argument("--codec", default="rans", help="rans, rans-static, compressai, zstd, raw, png, webp, jpeg")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=int, default=10, help="a packet that takes longer hangs")
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
    kinds = ("crashes", "hangs", "wrong answers", "packets with two spellings", "payloads with two spellings")
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
