"""A server of the project with an ASGI application of its own, in a thread, and raw sockets to it."""

import asyncio
import contextlib
import socket
import threading

from splitreg.serving.config import ServeConfig
from splitreg.serving.http import HttpServer
from splitreg.serving.http.responses import response_head
from splitreg.serving.memory import MemoryBudget
from splitreg.serving.metrics import Metrics
from splitreg.serving.run import listen


class Echo:
    """Answers a request with its method, path, query and body, and a stream with its messages.

    ``refusals`` are the errors that the server reports.
    """

    def __init__(self):
        self.refusals = []

    def refuse(self, client, error):
        self.refusals.append(error)
        status = getattr(error, "status", 503)
        return response_head(status, [(b"content-length", b"0"), (b"connection", b"close")])

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            body, more = b"", True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                body, more = body + message["body"], message["more_body"]
            line = f"{scope['method']} {scope['path']}?{scope['query_string'].decode()} ".encode()
            headers = [(b"content-length", str(len(line + body)).encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": line + body})
            return
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] != "websocket.disconnect":
            await send({**message, "type": "websocket.send"})


@contextlib.contextmanager
def echo_server(app=None, **limits):
    """Yield the application and the port of its server."""
    app = app or Echo()
    config = ServeConfig(**{"bundles": ("b",), "port": 0, **limits})
    listener, started, box = listen(config), threading.Event(), {}
    port = listener.getsockname()[1]

    async def main():
        metrics = Metrics()
        budget = MemoryBudget("pending requests", config.max_pending_bytes, metrics.pending)
        box["server"] = server = HttpServer(app, config, metrics, budget, listener)
        box["budget"], box["loop"], box["stop"] = budget, asyncio.get_running_loop(), asyncio.Event()
        server.start()
        started.set()
        await box["stop"].wait()
        await server.close(0)

    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    assert started.wait(20)
    app.server, app.budget = box["server"], box["budget"]
    try:
        yield app, port
    finally:
        box["loop"].call_soon_threadsafe(box["stop"].set)
        thread.join(20)


def exchange(port, data, *, pieces=1, timeout=10.0, silence=0.3):
    """Send bytes, optionally in pieces; return all that the server sends, and whether it closed the connection.

    The first byte is waited for ``timeout`` seconds. A connection on which nothing follows for ``silence`` seconds
    counts as open: pass more where it must close.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):
            for start in range(0, len(data), pieces if pieces > 1 else len(data) or 1):
                sock.sendall(data[start : start + (pieces if pieces > 1 else len(data))])
        received = b""
        with contextlib.suppress(TimeoutError, ConnectionResetError):
            while part := sock.recv(65536):
                received += part
                sock.settimeout(silence)
            return received, True
        return received, False
