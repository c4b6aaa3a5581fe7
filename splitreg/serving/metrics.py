"""The metrics at ``/metrics``, in the Prometheus text format."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from splitreg.serving.jobs import Job, JobResult

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_IMAGES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)


class Metrics:
    """Counters, gauges and histograms of one server, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        model = ("model",)
        self.packets = Counter("splitreg_packets", "Packets answered.", model, registry=registry)
        self.images = Counter("splitreg_images", "Images answered.", model, registry=registry)
        self.received = Counter("splitreg_received_bytes", "Bytes of answered packets.", model, registry=registry)
        self.sent = Counter(
            "splitreg_sent_bytes", "Bytes of answers, before HTTP compression.", model, registry=registry
        )
        self.queue = Gauge("splitreg_queue_images", "Images waiting in the queue.", registry=registry)
        self.pending = Gauge(
            "splitreg_held_bytes", "Bytes of requests being received or waiting for an answer.", registry=registry
        )
        self.answers = Gauge("splitreg_answer_bytes", "Bytes of answers being sent.", registry=registry)
        self.slow_readers = Counter(
            "splitreg_slow_readers", "Clients disconnected because they received an answer too slowly.",
            registry=registry,
        )  # fmt: skip
        self.batches = Histogram(
            "splitreg_batch_images", "Images per batch.", model, buckets=_IMAGES, registry=registry
        )
        self.latency = Histogram(
            "splitreg_latency_seconds",
            "Latency of requests that ran a head: waiting in the queue (queue), computing all their heads "
            "(compute), from arrival to result (total).",
            ("model", "head", "phase"),
            buckets=_SECONDS,
            registry=registry,
        )
        self.refusals = Counter(
            "splitreg_refusals", "Requests answered with an error, by its type.", ("reason",), registry=registry
        )
        self.joined = Counter(
            "splitreg_joined", "Requests answered by an earlier one with the same idempotency key.", registry=registry
        )
        self.workers = Gauge("splitreg_workers_ready", "Workers or replicas that are running.", registry=registry)
        self.stalled = Gauge("splitreg_workers_stalled", "Workers that run but send no heartbeat.", registry=registry)
        self.restarts = Counter("splitreg_worker_restarts", "Workers that died and were replaced.", registry=registry)
        self.reloads = Counter(
            "splitreg_reloads", "Reloads of the bundles, by outcome.", ("outcome",), registry=registry
        )
        self._add_connections(registry)

    def _add_connections(self, registry: CollectorRegistry) -> None:
        self.connections = Gauge("splitreg_connections", "Open connections.", registry=registry)
        self.handshakes = Gauge("splitreg_tls_handshakes", "TLS handshakes in progress.", registry=registry)
        self.dropped_connections = Counter(
            "splitreg_dropped_connections", "Connections without a request that were closed for new ones.",
            registry=registry,
        )  # fmt: skip
        self.delayed_connections = Counter(
            "splitreg_delayed_connections", "Connections that waited because requests of their client were refused.",
            registry=registry,
        )  # fmt: skip
        self.exhausted = Counter(
            "splitreg_file_descriptors_exhausted", "Times that no file descriptor was left for a connection.",
            registry=registry,
        )  # fmt: skip
        self.encoder_kills = Counter(
            "splitreg_encoder_kills", "Processes that encode images for the page, killed for time or memory.",
            registry=registry,
        )  # fmt: skip
        self.dropped_lines = Counter(
            "splitreg_log_lines_dropped", "Lines of the log that could not be written.", registry=registry
        )
        self.streams = Gauge("splitreg_streams", "Open streams.", registry=registry)
        self.stream_states = Gauge(
            "splitreg_stream_state_bytes", "Bytes of the states of video streams.", registry=registry
        )
        self.key_frames = Counter(
            "splitreg_key_frames_needed", "Frames refused because they continue one that did not arrive.",
            registry=registry,
        )  # fmt: skip

    def count_result(self, job: Job, result: JobResult, seconds: float) -> None:
        """Count a job that was answered ``seconds`` after its arrival."""
        self.packets.labels(job.model).inc(len(job.packets))
        self.images.labels(job.model).inc(job.images)
        self.received.labels(job.model).inc(sum(map(len, job.packets)))
        self.sent.labels(job.model).inc(len(result.blob))
        phases = {"queue": result.queue_seconds, "compute": result.compute_seconds, "total": seconds}
        for head in job.heads:
            for phase, duration in phases.items():
                self.latency.labels(job.model, head, phase).observe(duration)

    def text(self) -> bytes:
        """Return all metrics in the Prometheus text format."""
        return generate_latest(self._registry)
