"""The review page's server: loopback only, one link per browser, nothing from outside, every request checked.

Who may ask: a browser that came by a link with the one-time token and got a cookie for it (HttpOnly, SameSite=Strict).
What else is checked: the Host header, so that no foreign name can be pointed at this machine (DNS rebinding); for
everything that writes also the Origin and a header that other sites cannot send (CSRF). The page has no inline script
and puts every text of the run in as text.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from fgvr.errors import UserError
from fgvr.images.read import ImageError
from fgvr.review.catalogue import PAGE, SORTS
from fgvr.review.decisions import MAX_TEXT, Kind
from fgvr.review.desk import QUEUES, Desk, Gone
from fgvr.review.thumbnails import Thumbnails

COOKIE: Final = "fgvr_review"
PAGES: Final = Path(__file__).parent / "page"
MAX_BODY: Final = 1 << 20
HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_TYPES: Final = {".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".svg": "image/svg+xml"}


class Doors:
    """Who is let in: links with a token that works once, and the cookies that were given for them.

    Attributes:
        port: of the server.
        new_link: called with a fresh link whenever the one before it was used.
    """

    def __init__(self, port: int, new_link: Callable[[str], None]) -> None:
        self.port, self.new_link = port, new_link
        self.hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}
        self._token = secrets.token_urlsafe(32)
        self._cookies: set[str] = set()

    @property
    def link(self) -> str:
        """The link that works once."""
        return f"http://127.0.0.1:{self.port}/?token={self._token}"

    def exchange(self, token: str) -> str | None:
        """A cookie for the token, which is worth nothing from now on; None for any other text."""
        if not secrets.compare_digest(token.encode(), self._token.encode()):
            return None
        self._token = secrets.token_urlsafe(32)
        cookie = secrets.token_urlsafe(32)
        self._cookies.add(cookie)
        self.new_link(self.link)
        return cookie

    def refusal(self, request: Request) -> str | None:
        """Why a request is refused; None: it may pass."""
        if request.headers.get("host") not in self.hosts:
            return "this server answers only at 127.0.0.1 and localhost"
        if request.method not in {"GET", "HEAD"}:
            if request.headers.get("origin") not in {f"http://{host}" for host in self.hosts}:
                return "only the page itself may write"
            if request.headers.get("x-fgvr-review") != "1":
                return "only the page itself may write"
        cookie = request.cookies.get(COOKIE, "")
        if not any(secrets.compare_digest(cookie.encode(), known.encode()) for known in self._cookies):
            return "open the link that the command printed: each link works once, a new one is printed when it was used"
        return None


class _Guard(BaseHTTPMiddleware):
    def __init__(self, app: Any, doors: Doors) -> None:
        super().__init__(app)
        self._doors = doors

    async def dispatch(self, request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await self._answer(request, call_next)
        response.headers.update(HEADERS)
        return response

    async def _answer(self, request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        doors = self._doors
        token = request.query_params.get("token")
        if token is not None and request.url.path == "/" and request.headers.get("host") in doors.hosts:
            cookie = doors.exchange(token)
            if cookie is not None:
                home = RedirectResponse("/", 303)  # the address bar and the history do not keep the token
                home.set_cookie(COOKIE, cookie, httponly=True, samesite="strict", path="/")
                return home
        refused = doors.refusal(request)
        if refused is not None:
            return PlainTextResponse(f"Not allowed: {refused}.\n", 403)
        if int(request.headers.get("content-length") or 0) > MAX_BODY:
            return PlainTextResponse("Too long.\n", 413)
        return await call_next(request)


def application(desk: Desk, thumbnails: Thumbnails, doors: Doors, title: str) -> Starlette:
    """The server's application; see the module for what it checks."""
    called = Calls(desk, thumbnails, title)
    app = Starlette(
        routes=[
            Route("/", called.file),
            Route("/{name:str}.{ending:str}", called.file),
            Route("/api/run", called.run),
            Route("/api/names", called.names),
            Route("/api/like", called.like),
            Route("/api/photos", called.photos),
            Route("/api/doubles", called.doubles),
            Route("/api/map", called.map),
            Route("/api/half", called.half),
            Route("/api/audit", called.audit),
            Route("/api/audit", called.draw_audit, methods=["POST"]),
            Route("/api/comparisons", called.comparisons),
            Route("/api/comparisons", called.draw_differences, methods=["POST"]),
            Route("/api/decide", called.decide, methods=["POST"]),
            Route("/api/undo", called.undo, methods=["POST"]),
            Route("/thumb/{image_id:int}", called.thumb),
        ],
        exception_handlers={
            UserError: _sentence,
            ValueError: _sentence,
            KeyError: _sentence,
            OSError: _not_written,
        },
    )
    app.add_middleware(_Guard, doors=doors)
    return app


async def _sentence(_: Request, error: Exception) -> Response:
    said = f"there is no {error}" if isinstance(error, KeyError) else str(error)
    return JSONResponse({"error": said[:500]}, 404 if isinstance(error, Gone) else 409)


async def _not_written(_: Request, error: Exception) -> Response:
    said = f"nothing was written or read: {type(error).__name__}: {error}"
    return JSONResponse({"error": said[:500]}, 507)


class Calls:
    """The answers to the page's requests. What reads or writes is done in threads by Starlette."""

    def __init__(self, desk: Desk, thumbnails: Thumbnails, title: str) -> None:
        self._desk, self._thumbnails, self._title = desk, thumbnails, title
        self._files = {file.name: file for file in PAGES.iterdir() if file.suffix in _TYPES}

    def file(self, request: Request) -> Response:
        """One of the page's own files."""
        parts = request.path_params
        file = self._files.get(f"{parts['name']}.{parts['ending']}" if parts else "index.html")
        if file is None:
            return PlainTextResponse("There is no such page.\n", 404)
        return Response(file.read_bytes(), media_type=_TYPES[file.suffix])

    def run(self, _: Request) -> Response:
        """What is reviewed, by whom, and how many decisions hold: the page asks again and again."""
        now = self._desk.decisions
        return JSONResponse(
            {
                "title": self._title,
                "who": self._desk.who,
                "version": self._desk.version,
                "table": self._desk.catalogue.named.name,
                "photos": len(self._desk.catalogue.index.ids),
                "decided": len(now.photos),
                "damaged": len(now.damaged),
                "refused": [each.why for each in now.refused][-3:],
            }
        )

    def names(self, request: Request) -> Response:
        """A page of names."""
        asked = request.query_params
        sort = asked.get("sort", "count")
        if sort not in SORTS:
            raise ValueError(f"names are sorted by {', '.join(SORTS)}")
        start = _start(request)
        rows, total = self._desk.catalogue.names(self._desk.decisions, asked.get("search", ""), sort, start)
        return JSONResponse({"names": [vars(row) for row in rows], "total": total, "start": start, "page": PAGE})

    def like(self, request: Request) -> Response:
        """Type-ahead."""
        return JSONResponse(self._desk.catalogue.like(self._desk.decisions, request.query_params.get("text", "")))

    def photos(self, request: Request) -> Response:
        """A page of photos of a name or a queue."""
        asked = request.query_params
        if text := asked.get("text", "").strip():
            return JSONResponse(self._desk.alike(text[:MAX_TEXT], _start(request)))
        if "first" in asked and "second" in asked:
            return JSONResponse(self._desk.differing((asked["first"], asked["second"]), _start(request)))
        if "photo" in asked:
            return JSONResponse(self._desk.alike(int(asked["photo"]), _start(request)))
        queue = asked.get("queue")
        if queue is not None and queue not in QUEUES:
            raise ValueError(f"queues are {', '.join(QUEUES)}")
        return JSONResponse(self._desk.photos(asked.get("name"), queue, _start(request)))

    def doubles(self, _: Request) -> Response:
        """Names that may mean one thing."""
        pairs = self._desk.catalogue.doubles(self._desk.decisions)
        return JSONResponse([[vars(first), vars(second)] for first, second in pairs])

    def map(self, _: Request) -> Response:
        """A sample of photos in two dimensions."""
        return JSONResponse(self._desk.map())

    def half(self, request: Request) -> Response:
        """The smaller of two groups of a name's photos."""
        return JSONResponse(self._desk.smaller_half(request.query_params.get("name", "")))

    def audit(self, _: Request) -> Response:
        """What the audit says so far."""
        return JSONResponse(self._desk.audit())

    async def draw_audit(self, request: Request) -> Response:
        """Draw the sample, once."""
        asked = await _body(request)
        found = await run_in_threadpool(self._desk.draw_audit, float(asked["half_width"]), int(asked.get("seed", 0)))
        return JSONResponse(found)

    def comparisons(self, _: Request) -> Response:
        """Which methods can be compared, and what comparisons say so far."""
        return JSONResponse(self._desk.comparisons())

    async def draw_differences(self, request: Request) -> Response:
        """Draw photos on which two methods differ, once."""
        asked = await _body(request)
        pair = str(asked["first"]), str(asked["second"])
        return JSONResponse(await run_in_threadpool(self._desk.draw_differences, *pair))

    async def decide(self, request: Request) -> Response:
        """Write a decision."""
        asked = await _body(request)
        if asked.get("kind") not in set(Kind) - {Kind.UNDO}:
            raise ValueError("a kind of decision that is not known")
        return JSONResponse(await run_in_threadpool(self._desk.decide, asked))

    async def undo(self, request: Request) -> Response:
        """Take the last decision back."""
        await _body(request)
        return JSONResponse(await run_in_threadpool(self._desk.undo))

    def thumb(self, request: Request) -> Response:
        """A photo as a small JPEG; 422 with the reason where it cannot be read."""
        uri = self._desk.catalogue.uri(request.path_params["image_id"]) if _in_run(self._desk, request) else None
        if uri is None:
            return PlainTextResponse("There is no such photo.\n", 404)
        try:
            data = self._thumbnails.jpeg(uri, int(request.query_params.get("side", "128")))
        except ImageError as error:
            return PlainTextResponse(f"{error.reason}\n", 422)
        return Response(data, media_type="image/jpeg")


def _in_run(desk: Desk, request: Request) -> bool:
    return bool(0 <= request.path_params["image_id"] < desk.catalogue.tables["samples"].rows)


def _start(request: Request) -> int:
    start = int(request.query_params.get("start", "0"))
    if not 0 <= start < 1 << 40:
        raise ValueError("a page that cannot be")
    return start


async def _body(request: Request) -> dict[str, Any]:
    if request.headers.get("content-type", "").split(";")[0] != "application/json":
        raise ValueError("JSON is expected")
    data = b""
    async for piece in request.stream():
        data += piece
        if len(data) > MAX_BODY:
            raise ValueError("too long")
    asked = json.loads(data)
    if not isinstance(asked, dict):
        raise ValueError("a JSON object is expected")  # noqa: TRY004  the page shows the sentence
    return asked
