"""One small model whose answers vary, and ways to ask it: in the process, or as a process."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipeline.demo.world import save_untrained
from server.engine import loading
from server.engine.api import build_app
from server.engine.choosing import runner_of
from server.engine.generation import Generate, OneAtATime
from server.engine.identity import Identity
from server.engine.loading import LoadedModel, LoadOptions
from server.engine.running import RunningEngine
from server.engine.scheduling import Engine, Runner


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model with large weights: its greedy answers are not one token for ever."""
    folder = tmp_path_factory.mktemp("engine") / "lively"
    save_untrained(folder, seed=0, initializer_range=0.2)
    return folder


@pytest.fixture(scope="session")
def loaded(checkpoint: Path) -> LoadedModel:
    """One thread, since the tests' neighbours are busy too."""
    return loading.load(checkpoint, LoadOptions(device="cpu", num_threads=1))


_HELLO = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}


class Api:
    """The API of an engine in this process."""

    def __init__(self, running: RunningEngine) -> None:
        self.running = running
        self.app = build_app(running)

    def request(self, method: str, path: str, **more: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
                return await client.request(method, path, **more)

        return asyncio.run(ask())

    def get(self, path: str) -> httpx.Response:
        return self.request("GET", path)

    def chat(self, **body: Any) -> httpx.Response:
        return self.request("POST", "/v1/chat/completions", json=_HELLO | body)

    def complete(self, **body: Any) -> httpx.Response:
        return self.request("POST", "/v1/completions", json={"prompt": "hello", "max_tokens": 4} | body)


@pytest.fixture(scope="session")
def make_api(loaded: LoadedModel) -> Iterator[Callable[..., Api]]:
    """Builds engines around the one model."""
    engines: list[Engine] = []

    def make(model: LoadedModel = loaded, *, max_queue: int = 4, generate: Generate | None = None) -> Api:
        engine = Engine(max_queue=max_queue)
        engines.append(engine)

        def load() -> tuple[LoadedModel, Runner]:
            if generate is not None:
                return model, OneAtATime(model, generate=generate)
            own = dataclasses.replace(model, model=copy.deepcopy(model.model))  # batching changes its attention
            return own, runner_of(own)

        identity = Identity(model_name="demo", fingerprint="v1-abc")
        return Api(RunningEngine(engine=engine, loaded=engine.start(load), identity=identity, load_s=0.1))

    yield make
    for engine in engines:
        engine.stop()


@pytest.fixture(scope="session")
def api(make_api: Callable[..., Api]) -> Api:
    return make_api()
