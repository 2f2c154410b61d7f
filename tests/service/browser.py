"""A headless Chromium that opens a page, waits until it shows something, and takes a picture of it."""

import asyncio
import base64
import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import websockets

OPTIONS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update"
    " --disable-sync --disable-quic --hide-scrollbars --remote-debugging-port=0"
)


def look(url: str, picture: Path, words: str, height: int = 1600, seconds: float = 90) -> str:
    """The text of a page once it shows the words; its picture as PNG. Fails when it never does."""
    profile = tempfile.mkdtemp(prefix="crash-browser-")
    command = [
        "chromium",
        *OPTIONS.split(),
        f"--user-data-dir={profile}",
        f"--window-size=1500,{height}",
        "about:blank",
    ]
    browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        return asyncio.run(_look(_address(Path(profile), seconds), url, picture, words, seconds))
    finally:
        browser.terminate()
        browser.wait()
        shutil.rmtree(profile, ignore_errors=True)


def _address(profile: Path, seconds: float) -> str:
    """Where the browser's only tab takes commands."""
    deadline, note = time.monotonic() + seconds, profile / "DevToolsActivePort"
    while not note.exists() or not note.read_text().strip():
        assert time.monotonic() < deadline, "chromium did not start"
        time.sleep(0.1)
    tabs = httpx.get(f"http://127.0.0.1:{note.read_text().splitlines()[0]}/json").json()
    return next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")


async def _look(address: str, url: str, picture: Path, words: str, seconds: float) -> str:
    async with websockets.connect(address, max_size=None) as connection:

        async def tell(method: str, **parameters: Any) -> dict[str, Any]:
            await connection.send(json.dumps({"id": 1, "method": method, "params": parameters}))
            while "id" not in (answer := json.loads(await connection.recv())):
                continue
            return answer["result"]

        await tell("Page.navigate", url=url)
        deadline, text = time.monotonic() + seconds, ""
        while words not in text:
            assert time.monotonic() < deadline, f"{url} never showed {words!r}, but: {text[:500]}"
            await asyncio.sleep(1)
            shown = await tell("Runtime.evaluate", expression="document.body ? document.body.innerText : ''")
            text = str(shown["result"].get("value", ""))
        # What is drawn last: curves and graphs.
        await asyncio.sleep(4)
        taken = await tell("Page.captureScreenshot", format="png")
        picture.write_bytes(base64.b64decode(taken["data"]))
        return text
