"""The replay in a browser: nobody but who was given the address, and nothing from outside."""

from __future__ import annotations

import asyncio
import gc
import shlex
import sys
import threading
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from nanscope.store.writer import RunWriter
from nanscope.web.server import MOST_SESSIONS, ReplayServer
from tests.builders import diverged_run
from tests.web.browser import LOOK, PATIENCE, needs_chromium, tab_at

CHILD = "import sys; print('__GANGLION__', flush=True); sys.stdin.buffer.read(1)"
"""Ready at once, gone with the first word that it is told."""


def run(work: Coroutine[Any, Any, None]) -> None:
    """In an event loop of its own."""
    asyncio.run(work)


@asynccontextmanager
async def serving(*arguments: str, child: str | None = CHILD) -> AsyncIterator[ReplayServer]:
    """A server, with a small child in place of the replay unless `child` is None."""
    server = ReplayServer(arguments)
    if child is not None:
        server.command = "exec " + shlex.join([sys.executable, "-c", child])
    runner = web.AppRunner(server.application())
    await runner.setup()
    await web.SockSite(runner, server._socket).start()
    try:
        yield server
    finally:
        await runner.cleanup()
        await children_gone()


async def children_gone() -> None:
    """Wait for the threads with which asyncio waits for processes, and for what they then do in the loop."""
    for thread in [each for each in threading.enumerate() if each.name.startswith("waitpid")]:
        await asyncio.to_thread(thread.join, PATIENCE)
    for _ in range(5):
        await asyncio.sleep(0)
    gc.collect()  # pipes that textual-serve leaves open close themselves, as long as there is a loop
    for _ in range(5):
        await asyncio.sleep(0)


async def no_session(server: ReplayServer) -> None:
    """Wait until the last session has ended."""
    async with asyncio.timeout(PATIENCE):
        while server._sessions:  # noqa: ASYNC110 - it is another program that ends
            await asyncio.sleep(LOOK)


def base(server: ReplayServer) -> str:
    """The address without the token."""
    return server.address.partition("?")[0]


async def status(address: str, **headers: str) -> int:
    """What the server answers."""
    async with aiohttp.ClientSession() as session, session.get(address, headers=headers) as answer:
        return answer.status


def test_only_with_the_token() -> None:
    """Neither the page nor its parts without it, or with another one."""

    async def work() -> None:
        async with serving() as server:
            assert await status(server.address) == 200
            assert await status(base(server)) == 403
            assert await status(f"{base(server)}?token=guess") == 403
            assert await status(f"{base(server)}static/js/textual.js") == 403
            assert await status(f"{base(server)}ws") == 403

    run(work())


def test_only_on_this_machine_and_from_its_own_page() -> None:
    """A name that points here, and a page of somebody else with the token, are refused."""

    async def work() -> None:
        async with serving() as server:
            assert server._socket.getsockname()[0] == "127.0.0.1"
            assert await status(server.address, Host="evil.example") == 403
            assert await status(server.address, Host=f"evil.example:{server.port}") == 403
            assert await status(server.address, Origin="http://evil.example") == 403
            assert await status(server.address, Origin="null") == 403
            assert await status(server.address, Origin=base(server).rstrip("/")) == 200

    run(work())


Opened = list[aiohttp.ClientWebSocketResponse]


async def session(
    client: aiohttp.ClientSession, server: ReplayServer, origin: str | None, opened: Opened
) -> int:
    """Try to open a session; 101 if it opened, which it stays until the client ends."""
    address = f"{base(server).replace('http', 'ws')}ws?{server.address.partition('?')[2]}"
    try:
        opened.append(await client.ws_connect(address, origin=origin))
    except aiohttp.WSServerHandshakeError as error:
        return error.status
    return 101


def test_a_session_needs_the_origin() -> None:
    """The socket that types into the app is not for others."""

    async def work() -> None:
        async with serving() as server, aiohttp.ClientSession() as client:
            opened: Opened = []
            assert await session(client, server, "http://evil.example", opened) == 403
            assert await session(client, server, None, opened) == 403
            assert await session(client, server, base(server).rstrip("/"), opened) == 101

    run(work())


def test_the_fifth_session_is_refused_and_a_closed_one_makes_room() -> None:
    """Four at a time; the page says so, too."""

    async def work() -> None:
        async with serving() as server:
            origin = base(server).rstrip("/")
            async with aiohttp.ClientSession() as client:
                opened: Opened = []
                told = [await session(client, server, origin, opened) for _ in range(MOST_SESSIONS + 1)]
                assert told == [101] * MOST_SESSIONS + [503]
                assert await status(server.address) == 503
            await no_session(server)
            assert await status(server.address) == 200

    run(work())


def test_the_page_asks_for_nothing_outside() -> None:
    """Its policy forbids it, and its own parts are here."""

    async def work() -> None:
        jar = aiohttp.CookieJar(unsafe=True)  # else it takes none from an address in numbers
        async with serving() as server, aiohttp.ClientSession(cookie_jar=jar) as client:
            async with client.get(server.address) as answer:
                policy, text = answer.headers["Content-Security-Policy"], await answer.text()
            assert "default-src 'none'" in policy
            assert "https:" not in policy
            assert "googleapis" not in text
            async with client.get(f"{base(server)}static/js/textual.js") as answer:
                assert answer.status == 200  # by the cookie that came with the page

    run(work())


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """A run file that diverges."""
    made = diverged_run(400, birth=300)
    writer = RunWriter.create(tmp_path / "run.h5", made.header)
    for number, row in enumerate(made.source.block(0, len(made))):
        writer.append(number, number / 10, row)
    writer.close("finished")
    return tmp_path / "run.h5"


@needs_chromium
def test_in_a_browser(recorded: Path, tmp_path: Path) -> None:
    """The replay is drawn, keys reach it, nothing leaves the machine, and its child ends with the tab."""

    async def work() -> None:
        async with serving(str(recorded), "--alone", child=None) as server:
            async with tab_at(server.address, tmp_path / "profile") as tab:
                await tab.wait_for("document.body.classList.contains('-first-byte')")
                assert server._sessions == 1
                await tab.evaluate("document.querySelector('textarea').focus()")
                await tab.call("Input.insertText", text="q")
                await tab.wait_for("document.body.classList.contains('-closed')")
                assert {address.split("/")[2] for address in tab.requests} == {f"127.0.0.1:{server.port}"}
            await no_session(server)

    run(work())
