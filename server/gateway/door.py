"""What every request passes before the application: its id, who may come in without a key, and the way out.

The pure decisions stand first; `Door` is the ASGI layer around the application.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry_hooks.settings import LOOPBACK_HOSTS, ServeSettings
from server.direct_stream import RAW_SEND
from server.gateway import openai_errors
from server.gateway.bounds import Crowd
from server.gateway.departure import Departure
from server.gateway.openai_errors import ApiProblem

REQUEST_ID = "request_id"
_ID = re.compile(r"[!-~]{1,128}")
_HARMLESS = ("GET", "HEAD", "OPTIONS")
# What a page of another origin may read of an answer, beside its body.
_SHOWN = ("x-request-id", "x-relay-model", "x-relay-version", "x-relay-digest", "x-relay-step", "retry-after")


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """Who may ask a server without a key, and from which web pages.

    A browser carries any page's requests to this machine: without a key only names of this machine are answered (a
    page's own name may lead here too), and only pages of this machine may change anything.
    """

    hosts: frozenset[str]
    origins: frozenset[str]

    def problem(self, method: str, headers: Mapping[str, str]) -> ApiProblem | None:
        """Why the request is refused; None lets it in. Without a `Host`, no browser sent it."""
        host = headers.get("host", "")
        if host and _name_in(host) not in self.hosts:
            names = ", ".join(sorted(self.hosts))
            message = (
                f"this server has no key, so it answers only to {names}, and it was called {host[:100]!r}. "
                "Set serve.public_url to the name that it is called, or give it a key (RELAY_SERVE__API_KEY)"
            )
            return openai_errors.invalid(message, code="host_not_allowed", status=403)
        if method in _HARMLESS or self.origins & {"*", headers.get("origin", "")}:
            return None
        origin = headers.get("origin")
        is_foreign = origin is not None and _name_in(origin.partition("://")[2]) not in self.hosts
        if is_foreign or headers.get("sec-fetch-site") == "cross-site":
            message = (
                f"a page of {(origin or 'another site')[:100]!r} may not ask a server that has no key. "
                "Name it in serve.cors_origins if it may"
            )
            return openai_errors.invalid(message, code="origin_not_allowed", status=403)
        return None


def guest(serve: ServeSettings) -> Guest | None:
    """The rule for those who come without a key; None where everybody needs it."""
    if serve.api_key is not None:
        return None
    names = {*LOOPBACK_HOSTS, serve.host, urlsplit(serve.public_url).hostname or "localhost"}
    return Guest(hosts=frozenset(name.lower() for name in names), origins=frozenset(serve.cors_origins))


def request_id(given: str | None) -> str:
    """The caller's id, if it is one to put into a header and a log line, else a new one."""
    return given if given and _ID.fullmatch(given) else f"req-{uuid.uuid4().hex}"


class Door:
    """The layer around the application."""

    def __init__(self, app: ASGIApp, serve: ServeSettings, departure: Departure, crowd: Crowd) -> None:
        self._app = with_cors(app, serve.cors_origins)
        self._guest = guest(serve)
        self._departure = departure
        self._crowd = crowd

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        its_id = request_id(headers.get("x-request-id"))

        async def with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(b"x-request-id", its_id.encode())]
                if self._departure.is_announced:  # its next request is to go to another server
                    added.append((b"connection", b"close"))
                message["headers"] = [*message.get("headers", ()), *added]
            await send(message)

        problem = self._guest.problem(scope["method"], headers) if self._guest is not None else None
        if self._crowd.is_full and scope["path"].startswith("/v1/"):
            problem = openai_errors.server_full()
        if problem is not None:
            await problem_answer(problem, its_id)(scope, receive, with_id)
            return
        # HEAD is answered as GET wherever there is one; the server sends no body then.
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        scope = {**scope, "method": method, REQUEST_ID: its_id, RAW_SEND: send}
        await self._app(scope, receive, with_id)


def with_cors(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """`app`, which pages of these origins may ask; as it is where there are none."""
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=list(origins),
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=list(_SHOWN),
    )


def problem_answer(problem: ApiProblem, its_id: str) -> Response:
    """An error as OpenAI's clients expect it, with the id of the request that it answers."""
    return Response(problem.body(its_id), problem.status, dict(problem.headers), media_type="application/json")


def _name_in(host: str) -> str | None:
    try:
        name = urlsplit(f"//{host}").hostname
    except ValueError:
        return None
    return name.removesuffix(".") if name else None
