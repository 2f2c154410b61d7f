"""A page in a headless Chromium: what its scripts say, what its pointer finds, and what went wrong in it."""

import base64
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.service.browser import OPTIONS, _address

# Until everything of a page is in place.
COMPLETE = "document.readyState === 'complete' && Array.from(document.images).every(image => image.complete)"
WAIT = f"new Promise(done => {{ const look = () => {COMPLETE} ? done(1) : setTimeout(look, 50); look() }})"


class Page:
    """The browser's only tab. errors: exceptions of scripts, and what the browser itself complains about."""

    def __init__(self, connection: ClientConnection) -> None:
        self.errors: list[str] = []
        self._connection = connection
        self._number = 0

    def tell(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command, and its answer."""
        self._number += 1
        self._connection.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._connection.recv(timeout=60))
            if message.get("id") == self._number:
                assert "result" in message, message
                return message["result"]
            if message["method"] == "Runtime.exceptionThrown":
                self.errors.append(str(message["params"]["exceptionDetails"]))
            if message["method"] == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
                self.errors.append(message["params"]["entry"]["text"])

    def ask(self, expression: str) -> Any:
        """The value of an expression in the page."""
        answer = self.tell("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def point(self, x: float, y: float) -> None:
        """Move the mouse to a place in the window, in pixels."""
        self.tell("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def picture(self, path: Path) -> None:
        """What the window shows, as PNG."""
        taken = self.tell("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(taken["data"]))


@contextmanager
def browsing(page: Path, width: int = 1366, height: int = 768) -> Iterator[Page]:
    """A file, opened at the size of a laptop's window."""
    if shutil.which("chromium") is None:
        pytest.skip("chromium is not installed")
    profile = tempfile.mkdtemp(prefix="crash-browser-")
    size = f"--window-size={width},{height}"
    command = ["chromium", *OPTIONS.split(), size, f"--user-data-dir={profile}", "about:blank"]
    browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with connect(_address(Path(profile), 90), max_size=None) as connection:
            opened = Page(connection)
            for domain in ("Runtime", "Log", "Page"):
                opened.tell(f"{domain}.enable")
            opened.tell(
                "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
            )
            opened.tell("Page.navigate", url=page.absolute().as_uri())
            opened.ask(
                f"new Promise(done => {{ const look = () => {COMPLETE} ? done(1) : setTimeout(look, 50); look() }})"
            )
            yield opened
    finally:
        browser.terminate()
        browser.wait()
        shutil.rmtree(profile, ignore_errors=True)
