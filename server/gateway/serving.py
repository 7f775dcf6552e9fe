"""Puts a gateway together, runs it, and takes it down in order: streams first, engines last."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import threading
from collections.abc import Iterator
from functools import partial
from types import FrameType
from typing import cast

import uvicorn

from registry_hooks import events
from registry_hooks.blobs import BlobCache
from registry_hooks.errors import PortInUseError, SettingsError
from registry_hooks.mlflow_registry import MlflowRegistry
from registry_hooks.ports import ObjectReader, ReportSink, VersionSource
from registry_hooks.s3_store import S3Store
from registry_hooks.settings import LOOPBACK_HOSTS, ServeSettings, Settings
from server import descriptors
from server.gateway.app import Gateway, create_app
from server.gateway.bounds import BoundedHttp, Crowd, most_connections
from server.gateway.control import Watcher
from server.gateway.departure import Departure, end_engines
from server.gateway.door import Door
from server.gateway.engines import EngineRoom
from server.gateway.journal import Journal
from server.gateway.lineup import LineUp
from server.gateway.metrics import Metrics
from server.gateway.pulse import Pulse
from server.gateway.reloading import Loader
from server.gateway.reporting import Reporter

_WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound

# Longer than clients keep an idle connection (httpx, and so openai's client: 5 s, which is uvicorn's default too): who
# closes first must be the client, else its next request goes into a connection that just ends.
_KEEP_ALIVE_S = 75

_TICKS_A_SECOND = 10  # uvicorn's
_GOOD_KEY_CHARS = 16
# The control loop may hang in a read of registry or store; it cannot start anything by then.
_WATCHER_ENDS_S = 5


class _Server(uvicorn.Server):
    """uvicorn that gives notice before it closes its door; its last streams end with an error event, not a cut."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway, crowd: Crowd, grace_s: float) -> None:
        super().__init__(config)
        self._gateway = gateway
        self._crowd = crowd
        self._grace_s = grace_s

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # It may interrupt a thread that holds the log's lock: nothing is logged here, and nothing waits.
        self._gateway.departure.announce()
        if self._gateway.departure.is_closing:
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        self.should_exit = self.should_exit or self._gateway.departure.is_closing
        if counter % _TICKS_A_SECOND == 0:
            self._crowd.close_the_late(asyncio.get_running_loop().time())
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        ending = threading.Thread(target=self._end_streams, name="shutdown", daemon=True)
        asyncio.get_running_loop().call_soon(ending.start)  # runs when the listener below is closed
        await super().shutdown(sockets)

    def _end_streams(self) -> None:
        events.logger().info("gateway.stopping", grace_s=self._grace_s)
        self._gateway.watcher.stop()
        end_engines(self._gateway.lineup, self._grace_s)


def front_door(gateway: Gateway) -> uvicorn.Server:
    """The HTTP server of `gateway`, not listening yet."""
    grace_s = gateway.settings.serve.shutdown_grace_s
    crowd = Crowd(most_connections())
    config = uvicorn.Config(
        Door(create_app(gateway), gateway.settings.serve, gateway.departure, crowd),
        http=cast("type[asyncio.Protocol]", partial(BoundedHttp, crowd=crowd)),
        ws="none",  # no room of ours speaks it, and its connections would have no bounds
        log_config=None,
        access_log=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(grace_s) + 10,
    )
    return _Server(config, gateway, crowd, grace_s)


def serve(settings: Settings) -> int:
    """Serve until SIGINT or SIGTERM.

    Raises:
        SettingsError: Other machines could come in without a key.
        PortInUseError: Somebody else listens there.
    """
    check_key(settings.serve)
    descriptors.raise_limit()
    listener = listen(settings.serve.host, settings.serve.port)
    url = public_url(settings.serve, port=listener.getsockname()[1])
    registry = MlflowRegistry(
        settings.tracking_uri, timeout_s=settings.registry.timeout_s, write_timeout_s=settings.registry.write_timeout_s
    )
    store = S3Store(settings.store, settings.s3_endpoint_url)
    with assembled(settings, source=registry, sink=registry, reader=store, url=url) as gateway:
        server = front_door(gateway)
        for number in (signal.SIGINT, signal.SIGTERM):
            # uvicorn takes signals only while it runs. One that comes before must count, and one that comes after, as
            # those that it caught and raises again do, must not end this process: engines are still to be taken down.
            signal.signal(number, server.handle_exit)
        events.logger().info("gateway.listening", url=url, server=settings.serve.server_name)
        server.run(sockets=[listener])
    return _ended(gateway.watcher)


def _ended(watcher: threading.Thread) -> int:
    """The exit code; ends this process itself where it would wait for a store or registry that says nothing."""
    events.logger().info("gateway.stopped", in_the_middle_of_a_reload=watcher.is_alive())
    if watcher.is_alive():  # nothing is left to do for it, and the threads of its fetch would be waited for
        os._exit(0)
    return 0


@contextlib.contextmanager
def assembled(
    settings: Settings, *, source: VersionSource, sink: ReportSink, reader: ObjectReader, url: str
) -> Iterator[Gateway]:
    """A gateway whose control loop runs; at the end nothing of it is left."""
    cache = BlobCache(settings.serve.cache_dir)
    log_dir = settings.serve.cache_dir / "logs" / settings.serve.server_name
    lineup = LineUp(settings.registry.name, settings.registry.alias)
    engines = EngineRoom(settings, log_dir)
    reporter = Reporter(sink, heartbeat_s=settings.serve.heartbeat_s)
    loader = Loader(settings=settings, source=source, reader=reader, cache=cache, engines=engines, lineup=lineup)
    journal = Journal(settings, lineup, reporter, url)
    watcher = Watcher(settings, loader, journal)
    serve = settings.serve
    pulse = Pulse(lineup, hung_after_s=serve.hung_after_s, work_silence_s=serve.request_timeout_s)
    metrics = Metrics()
    journal.on_reload = metrics.count_reload
    reporter.heartbeat = journal.beat
    engines.keep_spare()
    try:
        watcher.start()
        reporter.start()
        pulse.start()
        yield Gateway(
            settings=settings,
            lineup=lineup,
            watcher=watcher,
            journal=journal,
            metrics=metrics,
            departure=Departure(settings.serve.drain_notice_s),
        )
    finally:
        pulse.stop()
        _take_down(watcher, engines, lineup, journal, reporter)


def _take_down(watcher: Watcher, engines: EngineRoom, lineup: LineUp, journal: Journal, reporter: Reporter) -> None:
    watcher.stop()
    end_engines(lineup, 0)
    engines.close()
    watcher.join(_WATCHER_ENDS_S)
    journal.beat(stopped=True)
    reporter.stop()


def check_key(serve: ServeSettings) -> None:
    """Refuse to let other machines in without a key.

    Raises:
        SettingsError: The address is not loopback, and there is no key.
    """
    if serve.api_key is not None and len(serve.api_key.get_secret_value()) < _GOOD_KEY_CHARS:
        events.logger().warning("key.short", advice=f"guessable; take {_GOOD_KEY_CHARS} random characters or more")
    if serve.host not in LOOPBACK_HOSTS and serve.api_key is None:
        raise SettingsError(
            f"binding {serve.host} lets other machines in, so a key is needed and nothing was started: "
            "set RELAY_SERVE__API_KEY, or bind 127.0.0.1"
        )


def public_url(serve: ServeSettings, *, port: int) -> str:
    """Where `relay status` finds this server: a wildcard address means nothing to another machine."""
    host = socket.gethostname() if serve.host in _WILDCARDS else serve.host
    return serve.public_url.rstrip("/") or f"http://{f'[{host}]' if ':' in host else host}:{port}"


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, taken before anything heavy starts.

    Raises:
        PortInUseError: Somebody else listens there, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be bound ({error.strerror})"
        raise PortInUseError(
            f"{host}:{port} {why}; nothing was started. Stop the other server, or set RELAY_SERVE__PORT"
        ) from error
    return listener
