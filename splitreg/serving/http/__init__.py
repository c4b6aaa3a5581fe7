"""The HTTP/1.1 and WebSocket server: one event loop, and no connection that can stall the others.

``httptools`` parses requests, ``websockets`` parses frames. This package decides how much of each
connection is read, parsed and written at a time, and how long a connection may take for it.
"""

from splitreg.serving.http.server import HttpServer

__all__ = ["HttpServer"]
