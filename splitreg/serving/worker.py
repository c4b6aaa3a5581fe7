"""The processes with torch: one loads the bundles and forks the workers, which compute.

``python -m splitreg.serving.worker FD`` is the nursery: it reads what to load from its socket, says what it has, and for
every byte that comes with a socket forks a worker that answers on that socket. A worker is there in milliseconds, has the
bundle that the others have even if another lies on the disk by now, and shares its weights' memory with them.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from splitreg.bundle import Bundle, BundleConfig
from splitreg.coding.variable import VariableModel
from splitreg.errors import BundleError, RecipeError, ServiceError, SplitregError
from splitreg.recipe import PRECISIONS
from splitreg.serving import frames
from splitreg.wire import Form, error_body


def main() -> None:
    """Load, then fork a worker for every socket that comes, until the front is gone."""
    front = socket.socket(fileno=int(sys.argv[1]))
    asked = frames.receive(front)
    if asked is None:
        return
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the workers
    table, _ = asked
    try:
        servers, models = load(table["bundles"], table["heads"], table["device"])
    except SplitregError as error:
        front.sendall(frames.write({"op": "failed", **error_body(error)}))
        return
    except Exception as error:
        traceback.print_exc()
        front.sendall(frames.write({"op": "failed", **error_body(BundleError(f"{type(error).__name__}: {error}"))}))
        return
    gc.collect()
    gc.freeze()  # a collection in a worker would copy the pages that it only looks at
    front.sendall(frames.write({"op": "loaded", "models": models}))
    while True:
        _, fds, _, _ = socket.recv_fds(front, 1, 1)
        if not fds:
            return
        if os.fork() == 0:
            front.close()
            status = 1
            try:
                work(socket.socket(fileno=fds[0]), servers, table["threads"], table["device"], table["precision"])
                status = 0
            except (ConnectionError, KeyboardInterrupt):
                status = 0  # the front is gone
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        os.close(fds[0])


def load(
    bundles: Sequence[str], heads: Sequence[str] | None, device: str = "cpu"
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Load the server halves, into memory: a worker takes them to the device, which cannot be shared by a fork.

    Returns:
        Model id -> its server and a packet of its own to begin with; and what ``/v1/models`` says of them.

    Raises:
        BundleError: one cannot be loaded, or two are one model.
        RecipeError: a head that none of them has, a bundle that has none of them, or no such device.
    """
    chosen = choose(bundles, heads)  # before torch: what is wrong shows at once

    import torch

    from splitreg.assembly import ServerModel
    from splitreg.assembly.server import check_device

    check_device(device)
    torch.set_num_threads(1)  # threads of a process that forks are not there in its children
    servers: dict[str, Any] = {}
    models: list[dict[str, Any]] = []
    for bundle, wanted in chosen:
        server = ServerModel.load(bundle.folder, wanted)
        number = f"{server.coding.model_id:08x}"
        servers[number] = (server, bundle.read("testvectors/packet.bin"))
        models.append(describe(server, bundle.folder.resolve().name, bundle.config))
    return servers, models


def choose(bundles: Sequence[str], heads: Sequence[str] | None) -> list[tuple[Bundle, list[str]]]:
    """Return each bundle and the heads to load of it.

    Raises:
        BundleError: as ``load``.
        RecipeError: as ``load``.
    """
    chosen: dict[int, tuple[Bundle, list[str]]] = {}
    known: set[str] = set()
    for place in bundles:
        bundle = Bundle.open(place)
        there = [head.name for head in bundle.config.heads]
        wanted = [head for head in there if heads is None or head in heads]
        if not wanted:
            raise RecipeError(f"{place} has none of the heads {', '.join(heads or ())}; it has {', '.join(there)}")
        if bundle.config.model_id in chosen:
            raise BundleError(f"{place} is model {bundle.config.id}, which another bundle here is; serve one of them")
        chosen[bundle.config.model_id] = bundle, wanted
        known |= set(there)
    for head in heads or ():
        if head not in known:
            raise RecipeError(f"no bundle here has a head {head!r}; there are: {', '.join(sorted(known))}")
    return list(chosen.values())


def describe(server: Any, name: str, config: BundleConfig) -> dict[str, Any]:
    """Return what ``/v1/models`` says of a model."""
    labels = {head.name: list(head.labels) for head in config.heads}
    return {
        "id": config.id,
        "name": name,
        "heads": {head: {"task": branch.head.task, "labels": labels[head]} for head, branch in server.branches.items()},
        "size": list(server.coding.preprocess.size),
        "mode": server.coding.preprocess.mode,
        "codec": config.codec.name,
        "rates": isinstance(server.coding.tables, VariableModel),
    }


def work(
    front: socket.socket, servers: Mapping[str, Any], threads: int, device: str = "cpu", precision: str = PRECISIONS[0]
) -> None:
    """Answer batches until the front is gone."""
    import torch

    torch.set_num_threads(threads)
    each = {}
    for number, (server, packet) in servers.items():
        server.place(device, precision)
        server.infer(packet)  # the first run is the slowest, and shows whether it runs at all
        begun = time.perf_counter()
        server.infer(packet)
        each[number] = time.perf_counter() - begun
    front.sendall(frames.write({"op": "ready", "pid": os.getpid(), "seconds": each}))
    while (asked := frames.receive(front)) is not None:
        table, packets = asked
        begun = time.perf_counter()
        results, blobs = answer(servers[table["model"]][0], table["heads"], table["jobs"], packets)
        seconds = time.perf_counter() - begun
        front.sendall(frames.write({"op": "done", "seconds": seconds, "results": results}, blobs))


def answer(
    server: Any, heads: Sequence[str], jobs: Sequence[Mapping[str, Any]], packets: Sequence[bytes]
) -> tuple[list[dict[str, Any]], list[bytes]]:
    """Run jobs together; where one of them is wrong, each alone, so that the others do not pay for it.

    Args:
        server: the model.
        heads: the same for all.
        jobs: of each ``packets`` and ``images``, how many; ``form``, the fields of ``Form``.
        packets: of all jobs, in order.

    Returns:
        Of each job an empty table, or its error; and its answer, or nothing.
    """
    try:
        answers = server.infer(packets, heads)
        results: list[dict[str, Any]] = []
        blobs: list[bytes] = []
        for job in jobs:
            mine, answers = answers[: job["images"]], answers[job["images"] :]
            blobs.append(Form(**job["form"]).write(mine))
            results.append({})
        return results, blobs
    except Exception as error:
        if len(jobs) > 1:
            alone, start = [], 0
            for job in jobs:
                alone.append(answer(server, heads, [job], packets[start : start + job["packets"]]))
                start += job["packets"]
            return [result for results, _ in alone for result in results], [
                blob for _, blobs in alone for blob in blobs
            ]
        if not isinstance(error, SplitregError):
            traceback.print_exc()
            error = ServiceError(
                f"the model failed on this packet ({type(error).__name__}); the server's log says more"
            )
        return [error_body(error)], [b""]


if __name__ == "__main__":
    main()
