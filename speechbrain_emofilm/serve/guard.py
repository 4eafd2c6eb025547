"""What every request passes: checks, limits, headers and one line of log."""

import asyncio
import hmac
import ipaddress
import json
import logging
import re
import sys
import time
import traceback
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

logger = logging.getLogger("speechbrain_emofilm.serve")

#: Prefix of the WebSocket subprotocol that carries the token: browsers cannot
#: send it as a header.
BEARER_PROTOCOL = "bearer."
#: Characters that headers and subprotocols can hold.
TOKEN = re.compile(r"[A-Za-z0-9._~-]{8,256}")

_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(self)",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; "
        "img-src 'self' data: blob:; media-src 'self' data: blob:; "
        "font-src 'self'; connect-src 'self'; worker-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}
#: Greatest size of all headers in bytes.
_MAX_HEADERS = 1 << 14
#: Policy violation, the WebSocket code for a refused connection.
_REFUSED = 1008


def error_body(
    message: str,
    kind: str = "invalid_request_error",
    param: str | None = None,
    code: str | None = None,
    values: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Make the body of an error, as OpenAI's.

    Arguments
    ---------
    message : str
        What is wrong and what to do, in English.
    kind : str
        OpenAI's kind of error.
    param : str, optional
        Name of the item of the request that is wrong.
    code : str, optional
        Short name of the error that does not change, by which a page has a
        sentence of its own for it.
    values : dict, optional
        Numbers and names of the message, for such a sentence.

    Returns
    -------
    dict
        The body.
    """
    return {
        "error": {
            "message": message,
            "type": kind,
            "param": param,
            "code": code,
            "values": dict(values or {}),
        }
    }


def is_loopback(host: str) -> bool:
    """Check whether a host is this machine only.

    Example
    -------
    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("::")
    (True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """Outermost layer of the application.

    Arguments
    ---------
    app : callable
        ASGI application.
    token : str, optional
        Token that requests must bring.
    hosts : collection of str, optional
        Names by which the server may be addressed; any if None. A page whose
        name was made to point here (DNS rebinding) has another one.
    max_body : int
        Greatest size of a body in bytes.
    max_upload : int
        Greatest size of a body with a recording in bytes.
    body_seconds : float
        Time within which a body must arrive.
    """

    #: Paths that take recordings.
    UPLOADS = ("/v1/voices", "/v1/label")

    def __init__(
        self,
        app,
        token: str | None = None,
        hosts: Collection[str] | None = None,
        max_body: int = 1 << 20,
        max_upload: int = 32 << 20,
        body_seconds: float = 30.0,
    ):
        self.app = app
        self._token = token
        self._hosts = hosts
        self._max_body = max_body
        self._max_upload = max_upload
        self._body_seconds = body_seconds

    async def __call__(self, scope, receive, send):
        """Let a request in, or answer why not."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        started = time.monotonic()
        response: dict[str, Any] = {"status": None, "bytes": 0}

        async def watched_send(message):
            kind = message["type"]
            if kind == "http.response.start":
                response["status"] = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                if scope["path"].startswith("/v1/"):
                    headers.setdefault("cache-control", "no-store")
            elif kind == "http.response.body":
                response["bytes"] += len(message.get("body", b""))
            elif kind == "websocket.accept":
                response["status"] = 101
            elif kind == "websocket.close":
                response.setdefault("closed", message.get("code"))
            await send(message)

        try:
            refusal = self._refusal(scope)
            if refusal is None:
                limited = self._limited(scope, receive)
                await self.app(scope, limited, watched_send)
            elif scope["type"] == "websocket":
                await receive()
                await watched_send(
                    {"type": "websocket.close", "code": _REFUSED}
                )
            else:
                await refusal(scope, receive, watched_send)
        except Exception as error:
            # Clients that leave in the middle are no error of the server.
            if not isinstance(error, OSError):
                response["error"] = traceback.format_exc()
            if response["status"] is None and scope["type"] == "http":
                await _internal_error()(scope, receive, watched_send)
        finally:
            log(
                "request",
                method=scope.get("method", "WS"),
                path=scope["path"][:200],
                client=(scope.get("client") or ["?"])[0],
                ms=round(1000 * (time.monotonic() - started)),
                **response,
            )

    def _refusal(self, scope) -> JSONResponse | None:
        """Return the answer to a request that is not let in."""
        headers = Headers(scope=scope)
        if sum(len(k) + len(v) for k, v in scope["headers"]) > _MAX_HEADERS:
            message = "The headers are too large: send shorter ones."
            return JSONResponse(
                error_body(message, code="headers_too_large"), 431
            )
        host = headers.get("host", "")
        if self._hosts is not None and _hostname(host) not in self._hosts:
            return JSONResponse(
                error_body(
                    "This server is not known by that name: use one of "
                    f"{', '.join(sorted(self._hosts))}.",
                    code="wrong_host",
                    values={"known": ", ".join(sorted(self._hosts))},
                ),
                421,
            )
        changes = scope["type"] == "websocket" or scope["method"] not in (
            "GET",
            "HEAD",
            "OPTIONS",
        )
        origin = headers.get("origin")
        if changes and origin and urlsplit(origin).netloc != host.lower():
            return JSONResponse(
                error_body(
                    "Pages of other servers may not use this one.",
                    code="wrong_origin",
                ),
                403,
            )
        if self._token and _is_protected(scope["path"]):
            given = _given_token(headers)
            if not hmac.compare_digest(given.encode(), self._token.encode()):
                return JSONResponse(
                    error_body(
                        "The token is missing or wrong: send the header "
                        "'Authorization: Bearer TOKEN'.",
                        "authentication_error",
                        code="invalid_api_key",
                    ),
                    401,
                    {"www-authenticate": "Bearer"},
                )
        if scope["type"] == "http":
            length = headers.get("content-length", "0")
            limit = self._limit(scope)
            if not length.isdigit() or int(length) > limit:
                return JSONResponse(
                    error_body(
                        _too_large(limit),
                        code="too_large",
                        values={"limit": limit},
                    ),
                    413,
                )
        return None

    def _limit(self, scope) -> int:
        """Return the greatest size of the request's body."""
        upload = scope["path"] in self.UPLOADS
        return self._max_upload if upload else self._max_body

    def _limited(self, scope, receive):
        """Wrap ``receive``: a body has a greatest size and time."""
        if scope["type"] != "http":
            return receive
        size, complete = 0, False
        limit = self._limit(scope)
        deadline = time.monotonic() + self._body_seconds

        async def limited():
            nonlocal size, complete
            if complete:
                return await receive()
            left = max(deadline - time.monotonic(), 0.0)
            try:
                message = await asyncio.wait_for(receive(), left)
            except TimeoutError:
                raise HTTPException(
                    408, "The request's body did not arrive in time."
                ) from None
            size += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if size > limit:
                raise HTTPException(413, _too_large(limit))
            return message

        return limited


def _too_large(limit: int) -> str:
    return f"The request is larger than the {limit} bytes that are accepted."


def _internal_error() -> JSONResponse:
    return JSONResponse(
        error_body(
            "The server has failed; its log says why.",
            "server_error",
            code="server_failed",
        ),
        500,
    )


def _is_protected(path: str) -> bool:
    """Check whether a path needs the token: the page asks for it itself."""
    return path not in ("/", "/healthz", "/favicon.ico") and (
        not path.startswith("/static/")
    )


def _given_token(headers: Headers) -> str:
    kind, _, token = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return token.strip()
    for name in headers.get("sec-websocket-protocol", "").split(","):
        if name.strip().startswith(BEARER_PROTOCOL):
            return name.strip()[len(BEARER_PROTOCOL) :]
    return ""


def _hostname(host: str) -> str:
    """Return the name in a Host header, without its port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def log(event: str, **values: Any) -> None:
    """Write one line of JSON to the log. Texts are never logged."""
    line = {"time": round(time.time(), 3), "event": event, **values}
    failed = "error" in values
    logger.log(
        logging.ERROR if failed else logging.INFO,
        "%s",
        json.dumps(line, ensure_ascii=True, default=str),
    )


def log_to_stderr() -> None:
    """Send the log to stderr, a line of JSON for each event."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
