"""An RTSP server on loopback: GStreamer's, run by Debian's Python, which has its bindings.

Packages: python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-base gstreamer1.0-plugins-good
gstreamer1.0-plugins-ugly (x264). ``.ci/run`` installs them.
"""

import functools
import signal
import subprocess
import sys

PYTHON = "/usr/bin/python3"
_SOURCE = "videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420,width=64,height=48,framerate=20/1"
_CODERS = {
    "h264": "x264enc tune=zerolatency key-int-max=10 ! rtph264pay config-interval=1 name=pay0",
    "jpeg": "jpegenc ! rtpjpegpay name=pay0",
}
_CHECK = (
    "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import Gst, GstRtspServer; Gst.init(None); "
    "assert all(Gst.ElementFactory.find(n) for n in ('x264enc', 'rtph264pay', 'jpegenc', 'rtpjpegpay', 'videotestsrc'))"
)


@functools.cache
def is_installed():
    try:
        done = subprocess.run([PYTHON, "-c", _CHECK], capture_output=True, timeout=60)
    except OSError:
        return False
    return done.returncode == 0


class RtspServer:
    """A server process; a context manager. Its streams are ``/h264`` and ``/jpeg``."""

    def __init__(self, port=0):
        self.process = subprocess.Popen(
            [PYTHON, __file__, str(port)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        line = self.process.stdout.readline()
        assert line.startswith("port "), "the server did not start"
        self.port = int(line.split()[1])

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.kill()

    def url(self, path="h264"):
        return f"rtsp://127.0.0.1:{self.port}/{path}"

    def stall(self):
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def serve(port):
    import gi

    gi.require_version("Gst", "1.0")
    gi.require_version("GstRtspServer", "1.0")
    from gi.repository import GLib, Gst, GstRtspServer

    Gst.init(None)
    server = GstRtspServer.RTSPServer.new()
    server.set_address("127.0.0.1")
    server.set_service(str(port))
    for name, coder in _CODERS.items():
        factory = GstRtspServer.RTSPMediaFactory.new()
        factory.set_launch(f"( {_SOURCE} ! {coder} )")
        factory.set_shared(True)
        server.get_mount_points().add_factory(f"/{name}", factory)
    assert server.attach(None), "the port is in use"
    print("port", server.get_bound_port(), flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
