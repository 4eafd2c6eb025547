"""Running of the application with uvicorn."""

import asyncio
import socket
import threading
import webbrowser

from speechbrain_emofilm.serve.app import create_app
from speechbrain_emofilm.serve.audio import f0_track
from speechbrain_emofilm.serve.guard import TOKEN, is_loopback, log_to_stderr
from speechbrain_emofilm.serve.service import Settings

import uvicorn
from speechbrain.utils.logger import get_logger
from uvicorn.protocols.http.h11_impl import H11Protocol

logger = get_logger(__name__)

#: Seconds within which the head of a request must arrive.
HEAD_SECONDS = 15.0
#: Greatest size of a request's head, and of a WebSocket message, in bytes.
MAX_HEAD, MAX_MESSAGE = 1 << 15, 1 << 17
#: Greatest number of connections.
MAX_CONNECTIONS = 512


class PromptProtocol(H11Protocol):
    """HTTP whose clients must send the head of a request in time.

    Arguments
    ---------
    *args, **kwargs
        Arguments of uvicorn's protocol.
    """

    head_seconds = HEAD_SECONDS

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport):
        """Start to wait for the first head."""
        super().connection_made(transport)
        self._wait_for_head()

    def data_received(self, data):
        """Wait for the rest of a head that is not complete."""
        super().data_received(data)
        if self._is_between_requests():
            self._wait_for_head()
        else:
            self._stop_timer()

    def connection_lost(self, exc):
        """Stop waiting."""
        self._stop_timer()
        super().connection_lost(exc)

    def _is_between_requests(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _wait_for_head(self):
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(
                self.head_seconds, self._give_up
            )

    def _stop_timer(self):
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self):
        self._head_timer = None
        # A WebSocket has taken over its connection.
        mine = self.transport.get_protocol() is self
        if mine and self._is_between_requests():
            self.transport.abort()


def make_server(app, host: str, port: int) -> uvicorn.Server:
    """Create the server of an application.

    Arguments
    ---------
    app : callable
        ASGI application.
    host : str
        Address to listen to.
    port : int
        Port; a free one if 0.

    Returns
    -------
    uvicorn.Server
        The server, which is not running yet.
    """
    config = uvicorn.Config(
        app,
        host,
        port,
        http=PromptProtocol,
        ws="websockets-sansio",
        ws_max_size=MAX_MESSAGE,
        ws_per_message_deflate=False,
        h11_max_incomplete_event_size=MAX_HEAD,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=10,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
    )
    return uvicorn.Server(config)


def serve(
    synthesizer,
    settings: Settings,
    port: int = 8000,
    browser: bool = True,
) -> None:
    """Serve a model until the user stops it.

    Arguments
    ---------
    synthesizer : EmoFiLMSynthesizer
        The model.
    settings : Settings
        Settings of the server.
    port : int
        Port to listen to.
    browser : bool
        Whether to open the page.
    """
    log_to_stderr()
    warm_up(synthesizer)
    app = create_app(synthesizer, settings)
    server = make_server(app, settings.host, port)
    shown = settings.host
    if shown in ("0.0.0.0", "::"):
        shown = "127.0.0.1"
    address = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/"
    print(f"Serving on {address} (Ctrl+C stops)", flush=True)
    if not is_loopback(settings.host) and settings.token is None:
        print(
            "Anyone who reaches this address can use the model: give a token "
            "with --token, or leave --host out.",
            flush=True,
        )
    if settings.token is not None:
        print(
            f"The page asks for the token; {address}#token=TOKEN brings it.",
            flush=True,
        )
    if browser:
        threading.Timer(0.5, webbrowser.open, [address]).start()
    server.run()


def warm_up(synthesizer) -> None:
    """Let a model speak once, so that no client waits for what is loaded.

    Arguments
    ---------
    synthesizer : EmoFiLMSynthesizer
        The model.
    """
    speaks_english = synthesizer.text_frontend.language != "zh"
    text = "We won." if speaks_english else "你好。"
    try:
        result = synthesizer.synthesize(text)
        f0_track(result.wav.numpy(), result.sample_rate)
        for _ in synthesizer.stream(text):
            pass
    except ValueError as error:  # a model that cannot stream, for example
        logger.info("The model was not warmed up: %s", error)


def check_token(token: str | None) -> None:
    """Check that a token can be sent.

    Arguments
    ---------
    token : str or None
        The token.

    Raises
    ------
    ValueError
        If it is short or has other characters.

    Example
    -------
    >>> check_token("a secret")
    Traceback (most recent call last):
    ...
    ValueError: The token has other characters than ...
    """
    if token is not None and not TOKEN.fullmatch(token):
        raise ValueError(
            "The token has other characters than letters, digits and ._~-, or "
            "not 8 to 256 of them: choose another."
        )


def check_address(host: str, port: int) -> None:
    """Check that an address can be listened to.

    Arguments
    ---------
    host : str
        Name or address of this machine.
    port : int
        Port.

    Raises
    ------
    OSError
        If it cannot.
    """
    try:
        if not 0 < port < 65536:
            raise OverflowError("ports are 1 to 65535")
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(found[0], found[1]) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(found[4])
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OSError(
            f"The server cannot listen to {host} port {port} ({reason}): "
            "choose another with --host and --port."
        ) from error
