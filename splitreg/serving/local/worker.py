"""The processes that import torch: a manager that loads the bundles, and the workers it forks.

``python -m splitreg.serving.local.worker FD`` is the manager. It reads from its socket what to
load, reports the models, and forks a worker for every socket that it receives; the worker answers
batches on that socket. Forking takes milliseconds, needs no access to the bundle's files (which may
have been replaced) and shares the memory of the weights.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from splitreg.coding import Packet
from splitreg.errors import BundleError, SplitregError
from splitreg.recipe import PRECISIONS
from splitreg.serving import frames
from splitreg.serving.bundles import describe_model, select_bundles
from splitreg.serving.inference import InferenceRequest, run_isolated
from splitreg.wire import error_body


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """How workers compute; see ``ServeConfig``.

    Args:
        threads: CPU threads per worker.
        device: where to compute.
        precision: one of ``splitreg.recipe.PRECISIONS``.
        max_mask_pixels: of masks and other maps in answers.
    """

    threads: int
    device: str = "cpu"
    precision: str = PRECISIONS[0]
    max_mask_pixels: int | None = None


def main() -> None:
    """Load the bundles, then fork a worker per received socket until the server process exits."""
    front = socket.socket(fileno=int(sys.argv[1]))
    try:
        table, _ = frames.receive(front)
    except EOFError:
        return
    options = WorkerOptions(**table["options"])
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # let the kernel reap the workers
    try:
        servers, models = load(table["bundles"], table["heads"], options.device)
    except SplitregError as error:
        front.sendall(frames.write({"op": "failed", **error_body(error)}))
        return
    except Exception as error:
        traceback.print_exc()
        front.sendall(frames.write({"op": "failed", **error_body(BundleError(f"{type(error).__name__}: {error}"))}))
        return
    gc.collect()
    gc.freeze()  # garbage collection in a worker would copy the shared pages
    front.sendall(frames.write({"op": "loaded", "models": models}))
    while True:
        _, fds, _, _ = socket.recv_fds(front, 1, 1)
        if not fds:
            return
        if os.fork() == 0:
            front.close()
            status = 1
            try:
                work(socket.socket(fileno=fds[0]), servers, options)
                status = 0
            except (ConnectionError, EOFError, KeyboardInterrupt):
                status = 0  # the server process is gone
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        os.close(fds[0])


def load(
    bundles: Sequence[str], heads: Sequence[str] | None, device: str = "cpu"
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Load the server halves into main memory; a worker moves them to its device after the fork.

    Args:
        bundles: folders or names of the zoo.
        heads: names of heads; None loads all.
        device: where the workers will compute.

    Returns:
        Model id -> (server model, a packet for warm-up); and the entries of ``/v1/models``.

    Raises:
        BundleError: a bundle cannot be loaded, or two bundles have the same model id.
        RecipeError: a head or the device does not exist.
    """
    selected = select_bundles(bundles, heads)  # before importing torch: report errors at once

    import torch

    from splitreg.assembly import ServerModel
    from splitreg.assembly.server import check_device

    check_device(device)
    torch.set_num_threads(1)  # torch's threads do not survive a fork
    servers: dict[str, Any] = {}
    models: list[dict[str, Any]] = []
    for bundle, wanted in selected:
        server = ServerModel.load(bundle.folder, wanted)
        servers[bundle.config.id] = (server, bundle.read("testvectors/packet.bin"))
        models.append(describe_model(server, bundle.folder.resolve().name, bundle.config))
    return servers, models


def work(front: socket.socket, servers: Mapping[str, Any], options: WorkerOptions) -> None:
    """Answer batches until the server process closes the socket.

    Args:
        front: connection to the server process.
        servers: as returned by ``load``.
        options: how to compute.

    Raises:
        EOFError: the server process closed the socket.
    """
    import torch

    front.sendall(frames.write({"op": "started", "pid": os.getpid()}))
    sending = threading.Lock()
    threading.Thread(target=_beat, args=(front, sending), daemon=True).start()
    torch.set_num_threads(options.threads)
    costs = {}  # of a packet of each model: pixels of its image, seconds
    for model_id, (server, packet) in servers.items():
        server.place(options.device, options.precision)
        server.max_mask_pixels = options.max_mask_pixels
        server.infer(packet)  # warm-up; also shows whether the model runs at all
        start = time.perf_counter()
        server.infer(packet)
        height, width = Packet.parse(packet).original
        costs[model_id] = height * width, time.perf_counter() - start
    with sending:
        front.sendall(frames.write({"op": "ready", "costs": costs}))
    while True:
        table, packets = frames.receive(front)
        start = time.perf_counter()
        errors, blobs = answer(servers[table["model"]][0], table["heads"], frames.read_batch(table, packets))
        seconds = time.perf_counter() - start
        with sending:
            front.sendall(frames.write({"op": "done", "seconds": seconds, "errors": errors}, blobs))


def _beat(front: socket.socket, sending: threading.Lock) -> None:
    """Tell the server process that this one runs, also while it computes."""
    with contextlib.suppress(OSError):  # the server process is gone
        while True:
            time.sleep(frames.BEAT_SECONDS)
            with sending:
                front.sendall(frames.write({"op": frames.ALIVE}))


def answer(
    server: Any, heads: Sequence[str], requests: Sequence[InferenceRequest]
) -> tuple[list[dict[str, Any] | None], list[bytes]]:
    """Run requests together; if one of them is faulty, each alone.

    Args:
        server: the ``ServerModel``.
        heads: heads to run, the same for all requests.
        requests: at least one.

    Returns:
        Per request its error body or None; and its answers, empty for an error.
    """

    def run(batch: Sequence[InferenceRequest]) -> list[bytes]:
        packets = [packet for request in batch for packet in request.packets]
        resolutions = [request.answer_format.resolution for request in batch for _ in request.packets]
        answers = server.infer(packets, heads, resolutions=resolutions)
        blobs, start = [], 0
        for request in batch:
            blobs.append(request.answer_format.write(answers[start : start + request.images]))
            start += request.images
        return blobs

    errors: list[dict[str, Any] | None] = []
    blobs: list[bytes] = []
    for batch, output in run_isolated(run, requests):
        if isinstance(output, SplitregError):
            errors.append(error_body(output))
            blobs.append(b"")
        else:
            errors += [None] * len(batch)
            blobs += output
    return errors, blobs


if __name__ == "__main__":
    main()
