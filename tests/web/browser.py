"""A real browser for tests: headless Chromium, asked over its DevTools protocol."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0",
    "--window-size=1200,800",
)  # fmt: skip
PATIENCE = 60.0  # seconds after which a page that does not come is a failure, on a busy machine
LOOK = 0.05

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


class Tab:
    """One tab; `requests` are the addresses that it asked for."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._number = socket, 0
        self.requests: list[str] = []

    async def call(self, method: str, **params: Any) -> Any:
        """Ask the browser."""
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": params})
        while True:
            told = await self._socket.receive_json(timeout=PATIENCE)
            if told.get("method") == "Network.requestWillBeSent":
                self.requests.append(told["params"]["request"]["url"])
            if told.get("method") == "Network.webSocketCreated":
                self.requests.append(told["params"]["url"])
            if told.get("id") == self._number:
                return told["result"]

    async def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page."""
        return (await self.call("Runtime.evaluate", expression=expression))["result"].get("value")

    async def wait_for(self, expression: str) -> None:
        """Until an expression in the page is true."""
        async with asyncio.timeout(PATIENCE):
            while not await self.evaluate(expression):  # noqa: ASYNC110 - a page cannot call us
                await asyncio.sleep(LOOK)


@asynccontextmanager
async def tab_at(address: str, profile: Path) -> AsyncIterator[Tab]:
    """A tab of a browser of its own, at an address; both are closed at the end."""
    words = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    browser = await asyncio.create_subprocess_exec(*words, stderr=asyncio.subprocess.PIPE)
    assert browser.stderr is not None
    try:
        line = b""
        while b"DevTools listening on" not in line:
            line = await asyncio.wait_for(browser.stderr.readline(), PATIENCE)
        drain = asyncio.create_task(browser.stderr.read())
        host = line.decode().split("/")[2]
        async with aiohttp.ClientSession() as session:
            async with session.put(f"http://{host}/json/new?about:blank") as answer:
                found = await answer.json(content_type=None)
            async with session.ws_connect(found["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                tab = Tab(socket)
                await tab.call("Network.enable")
                await tab.call("Page.navigate", url=address)
                yield tab
    finally:
        browser.terminate()
        await browser.wait()
        await drain
