"""Drives headless Chromium over the DevTools protocol, as far as the tests of the page need it."""

import base64
import contextlib
import json
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

from websockets.sync.client import connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--mute-audio",
    "--disable-background-networking", "--disable-component-update", "--disable-extensions", "--hide-scrollbars",
    "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", "--remote-debugging-port=0",
)  # fmt: skip


def find():
    """Return the path of Chromium, or None if it is not installed."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """A browser with one tab; a context manager."""

    def __init__(self, folder, seconds=60):
        self.seconds = seconds
        self.events = []
        self._count = 0
        command = [find(), *FLAGS, f"--user-data-dir={folder}", "about:blank"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            port_file = Path(folder) / "DevToolsActivePort"
            self._wait(lambda: port_file.exists() and port_file.read_text().count("\n"))
            host = f"http://127.0.0.1:{port_file.read_text().splitlines()[0]}"
            self._wait(lambda: [tab for tab in self._tabs(host) if tab["type"] == "page"])
            tab = next(tab for tab in self._tabs(host) if tab["type"] == "page")
            self._stack = contextlib.ExitStack()
            self._socket = self._stack.enter_context(
                connect(tab["webSocketDebuggerUrl"], max_size=None, open_timeout=seconds)
            )
        except BaseException:
            self._process.kill()
            raise
        for domain in ("Page", "Runtime", "Network", "Log", "DOM"):
            self.call(f"{domain}.enable")

    @staticmethod
    def _tabs(host):
        with urllib.request.urlopen(f"{host}/json/list", timeout=20) as answer:
            return json.load(answer)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stack.close()
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _wait(self, condition):
        end = time.monotonic() + self.seconds
        while not condition():
            if time.monotonic() > end or self._process.poll() is not None:
                raise TimeoutError("the browser did not start")
            time.sleep(0.05)

    def call(self, method, **params):
        """Call a method of the protocol; events received meanwhile are appended to ``events``."""
        self._count += 1
        self._socket.send(json.dumps({"id": self._count, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(timeout=self.seconds))
            if message.get("id") == self._count:
                assert "error" not in message, message
                return message["result"]
            if "method" in message:
                self.events.append(message)

    def open(self, url):
        """Open a page and wait until its scripts have run."""
        self.call("Page.navigate", url=url)
        self.until(f"location.href.startsWith({url!r}) && document.readyState === 'complete'")

    def run(self, script):
        """Return the value of an expression, awaited."""
        reply = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in reply, reply["exceptionDetails"]
        return reply["result"].get("value")

    def until(self, script):
        """Wait until an expression is true."""
        end = time.monotonic() + self.seconds
        while not (reply := self.run(script)):
            assert time.monotonic() < end, f"never true: {script}\n{self.run('document.body.innerText')}"
            time.sleep(0.1)
        return reply

    def choose(self, selector, *files):
        """Choose files in an input."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(file) for file in files])

    def size(self, width, height=900, scale=1):
        """Set the window's inner size in CSS pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False
        )

    def dark(self, dark=True):
        """Emulate a user who prefers dark colours."""
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def screenshot(self, file, whole=True):
        """Write a PNG of the page."""
        reply = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        Path(file).write_bytes(base64.b64decode(reply["data"]))

    def requested(self):
        """Return the URLs of all requests."""
        return [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]

    def complaints(self):
        """Return exceptions, console errors and violations of the content security policy."""
        problems = []
        for event in self.events:
            entry = event["params"].get("entry", {})
            if event["method"] == "Runtime.exceptionThrown" or entry.get("level") == "error":
                problems.append(event["params"])
            if event["method"] == "Runtime.consoleAPICalled" and event["params"]["type"] in ("error", "assert"):
                problems.append(event["params"])
        return problems
