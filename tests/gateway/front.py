"""The gateway's own HTTP server in this process, in front of engines that a test scripts."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import httpx

from registry_hooks.records import ModelVersion
from registry_hooks.settings import Settings
from server.engine_spec import EngineReady
from server.gateway.app import Gateway
from server.gateway.departure import Departure
from server.gateway.journal import WatchStatus
from server.gateway.lineup import Checkpoint, LineUp, Slot
from server.gateway.metrics import Metrics
from server.gateway.serving import front_door, listen
from server.launcher import Engine

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\n"
JSON = OK + b"content-type: application/json\r\n"
EVENTS = OK + b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
CHAT = {"messages": [{"role": "user", "content": "hi"}]}


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def with_length(body: bytes, head: bytes = JSON) -> bytes:
    return head + b"content-length: %d\r\n\r\n" % len(body) + body


async def request_of(reader: asyncio.StreamReader) -> bytes:
    """One request, whole."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
    return head + await reader.readexactly(int(length or 0))


def answering(*pieces: bytes, health: bytes = b"{}") -> Handler:
    """An engine that answers every POST with `pieces`, and every GET with its health."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            request = await request_of(reader)
            for piece in [with_length(health)] if request.startswith(b"GET") else pieces:
                writer.write(piece)
                await writer.drain()

    return handler


@dataclass
class StandIn:
    """A scripted engine: alive until a test says otherwise."""

    ready: EngineReady
    spec: SimpleNamespace
    alive: bool = True
    pid: int = 1
    model_name: str = ""

    def is_alive(self) -> bool:
        return self.alive

    def stop(self) -> None:
        self.alive = False


@dataclass
class Front:
    """A running front: `client` asks it, `flip` puts an engine into service."""

    lineup: LineUp
    departure: Departure
    loop: asyncio.AbstractEventLoop
    server: Any
    port: int
    client: httpx.Client
    engines: list[asyncio.Server]
    spares: list[Slot] = field(default_factory=list)

    def flip(self, handler: Handler, *, model_name: str = "") -> Slot:
        """A new engine that answers requests from now on."""
        slot = self.engine(handler, model_name=model_name)
        self.lineup.flip(slot)
        return slot

    def engine(self, handler: Handler, *, model_name: str = "") -> Slot:
        """A new engine, beside those that are in service."""
        listening = asyncio.run_coroutine_threadsafe(_listening(handler), self.loop).result(10)
        self.engines.append(listening)
        port = listening.sockets[0].getsockname()[1]
        ready = EngineReady(
            device="cpu",
            dtype="float32",
            vram_bytes=0,
            rss_bytes=0,
            num_parameters=0,
            max_model_len_tokens=8,
            load_s=0.0,
            base_url=f"http://127.0.0.1:{port}",
            model_name=model_name,
        )
        engine = StandIn(ready=ready, spec=SimpleNamespace(uds=""), model_name=model_name)
        version = ModelVersion(
            name=self.lineup.label[0], version=1, run_id=None, model_id=None, artifact_uri="s3://b/1"
        )
        checkpoint = Checkpoint(version=version, digest="1" * 64, directory="", attested=True, size_bytes=1)
        return Slot(checkpoint=checkpoint, engine=cast("Engine", engine), loaded_at=datetime.now(UTC))

    def chat(self, **fields: Any) -> httpx.Response:
        return self.client.post("/v1/chat/completions", json=CHAT | fields)


def die(slot: Slot) -> None:
    cast("StandIn", slot.engine).alive = False


async def _listening(handler: Handler) -> asyncio.Server:
    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await handler(reader, writer)
        writer.close()

    return await asyncio.start_server(served, "127.0.0.1", 0)


@contextlib.contextmanager
def a_front(handler: Handler | None = None, *, name: str = "m", **serve: Any) -> Iterator[Front]:
    """A front that listens on a free port; with `handler`, an engine is in service."""
    settings = Settings.model_validate({"registry": {"name": name}, "serve": {"shutdown_grace_s": 1, **serve}})
    lineup, departure = LineUp(name, "Production"), Departure(settings.serve.drain_notice_s)
    nothing = SimpleNamespace(stop=lambda: None)
    journal = SimpleNamespace(status=WatchStatus())
    gateway = Gateway(
        settings=settings,
        lineup=lineup,
        watcher=cast("Any", nothing),
        journal=cast("Any", journal),
        metrics=Metrics(),
        departure=departure,
    )
    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    server = front_door(gateway)
    started: list[asyncio.AbstractEventLoop] = []
    engines: list[asyncio.Server] = []

    async def work() -> None:
        started.append(asyncio.get_running_loop())
        await server.serve(sockets=[listener])
        for engine in engines:
            engine.close()

    thread = threading.Thread(target=lambda: asyncio.run(work()), daemon=True)
    thread.start()
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20, trust_env=False) as client:
        client.get("/health")
        front = Front(
            lineup=lineup,
            departure=departure,
            loop=started[0],
            server=server,
            port=port,
            client=client,
            engines=engines,
        )
        if handler is not None:
            front.flip(handler)
        try:
            yield front
        finally:
            client.close()
            server.should_exit = server.force_exit = True
            thread.join(20)
