"""A server for browsers on this machine: textual-serve, behind a token, a Host and an Origin check.

What runs in the browser is a child process per tab, `nanscope replay` with the same arguments. Whoever
reaches it can read the files that it opens, so nobody may who was not given the address: a page of somebody
else in the same browser has no token and another origin, and a name that was made to point here another host.
"""

from __future__ import annotations

import hmac
import secrets
import shlex
import socket
import sys
import webbrowser
from collections.abc import Sequence
from importlib.resources import files

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from textual_serve.server import Server

HOST = "127.0.0.1"
MOST_SESSIONS = 4
COOKIE = "nanscope"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src data: 'self'; "
    "font-src 'self' data:; connect-src 'self' ws://{host}; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


class ReplayServer(Server):
    """Serves one replay to at most four tabs.

    Args:
        arguments: of `nanscope replay`.
        port: 0 for any that is free.

    Attributes:
        address: what to open; holds the token.
    """

    def __init__(self, arguments: Sequence[str], port: int = 0) -> None:
        self._socket = socket.create_server((HOST, port))
        command = shlex.join([sys.executable, "-m", "nanscope", "replay", *arguments])
        super().__init__(
            f"exec {command}", host=HOST, port=self._socket.getsockname()[1], title="nanscope replay"
        )
        self._token = secrets.token_urlsafe(24)
        self._hosts = {f"{HOST}:{self.port}", f"localhost:{self.port}"}
        self._sessions = 0
        self.address = f"http://{HOST}:{self.port}/?token={self._token}"

    def application(self) -> web.Application:
        """The application, with every route behind the checks."""
        app = web.Application(middlewares=[self._guarded()])
        app.router.add_get("/", self._index)
        app.router.add_get("/ws", self.handle_websocket)
        app.router.add_get("/download/{key}", self.handle_download)
        app.router.add_static("/static", self.statics_path)
        return app

    def run(self) -> None:
        """Serve until interrupted; the children end with it."""
        web.run_app(self.application(), sock=self._socket, print=None, access_log=None, handle_signals=True)

    async def handle_websocket(self, request: web.Request) -> web.WebSocketResponse:
        """One session: a child process for as long as the tab is open."""
        if self._sessions >= MOST_SESSIONS:
            raise web.HTTPServiceUnavailable(text=f"{MOST_SESSIONS} tabs are open already: close one")
        self._sessions += 1
        try:
            return await super().handle_websocket(request)
        finally:
            self._sessions -= 1

    async def _index(self, request: web.Request) -> web.Response:
        if self._sessions >= MOST_SESSIONS:
            raise web.HTTPServiceUnavailable(text=f"{MOST_SESSIONS} tabs are open already: close one")
        text = (files("nanscope.web") / "page.html").read_text(encoding="utf-8")
        page = text.replace("{websocket}", f"ws://{request.host}/ws")
        response = web.Response(text=page, content_type="text/html")
        response.set_cookie(COOKIE, self._token, httponly=True, samesite="Strict", path="/")
        return response

    def _guarded(self) -> Middleware:
        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            if why := self._refused(request):
                raise web.HTTPForbidden(text=why)
            response = await handler(request)
            if not response.prepared:
                response.headers["Content-Security-Policy"] = POLICY.format(host=request.host)
                response.headers["Referrer-Policy"] = "no-referrer"
                response.headers["Cache-Control"] = "no-store"
                response.headers["X-Content-Type-Options"] = "nosniff"
            return response

        return guard

    def _refused(self, request: web.Request) -> str:
        """Why a request is not answered; empty if it is."""
        if request.host not in self._hosts:
            return "this server answers to 127.0.0.1 only"
        origin = request.headers.get("Origin")
        if origin is None and request.path == "/ws":
            return "a session needs an origin"
        if origin is not None and origin not in {f"http://{host}" for host in self._hosts}:
            return "another page may not use this server"
        given = request.query.get("token") or request.cookies.get(COOKIE, "")
        if not hmac.compare_digest(given.encode(), self._token.encode()):
            return "open the address that was printed: it holds the token"
        return ""


def serve(arguments: Sequence[str], *, port: int = 0, open_browser: bool = True) -> None:
    """Serve `nanscope replay` with these arguments until interrupted."""
    server = ReplayServer(arguments, port)
    print(f"open {server.address}\nctrl+c ends it", flush=True)  # noqa: T201 - the only line that there is
    if open_browser:
        webbrowser.open(server.address)
    server.run()
