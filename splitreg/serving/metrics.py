"""What ``/metrics`` shows, for Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from splitreg.serving.engine import Answer, Job

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_IMAGES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)


class Metrics:
    """Counters, gauges and histograms of one server, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = every = CollectorRegistry()
        model = ("model",)
        self.packets = Counter("splitreg_packets", "Packets that were answered.", model, registry=every)
        self.images = Counter("splitreg_images", "Images that were answered.", model, registry=every)
        self.received = Counter("splitreg_received_bytes", "Bytes of those packets.", model, registry=every)
        self.sent = Counter("splitreg_sent_bytes", "Bytes of their answers.", model, registry=every)
        self.queue = Gauge("splitreg_queue_images", "Images that wait.", registry=every)
        self.held = Gauge("splitreg_held_bytes", "Bytes of requests that are read or wait.", registry=every)
        self.batches = Histogram(
            "splitreg_batch_images", "Images that ran together.", model, buckets=_IMAGES, registry=every
        )
        self.latency = Histogram(
            "splitreg_latency_seconds",
            "Of requests that ran a head: waiting (queue), computing with all their heads (compute), both and the way (total).",
            ("model", "head", "phase"),
            buckets=_SECONDS,
            registry=every,
        )
        self.refusals = Counter(
            "splitreg_refusals", "Requests that got an error, by its type.", ("reason",), registry=every
        )
        self.joined = Counter(
            "splitreg_joined", "Requests that were answered by another of the same idempotency key.", registry=every
        )
        self.workers = Gauge("splitreg_workers_ready", "Workers that are ready.", registry=every)
        self.restarts = Counter("splitreg_worker_restarts", "Workers that died and were replaced.", registry=every)
        self.reloads = Counter(
            "splitreg_reloads", "Reloads of the bundles, by how they ended.", ("outcome",), registry=every
        )
        self.connections = Gauge("splitreg_connections", "Connections that are open.", registry=every)
        self.streams = Gauge("splitreg_streams", "Streams that are open.", registry=every)

    def answered(self, job: Job, answer: Answer, seconds: float) -> None:
        """Note an answer."""
        self.packets.labels(job.model).inc(len(job.packets))
        self.images.labels(job.model).inc(job.images)
        self.received.labels(job.model).inc(sum(map(len, job.packets)))
        self.sent.labels(job.model).inc(len(answer.blob))
        for head in job.heads:
            for phase, took in (
                ("queue", answer.queue_seconds), ("compute", answer.compute_seconds), ("total", seconds),
            ):  # fmt: skip
                self.latency.labels(job.model, head, phase).observe(took)

    def text(self) -> bytes:
        """Return everything in Prometheus' text form."""
        return generate_latest(self._registry)
