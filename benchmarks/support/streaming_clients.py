"""Closed-loop clients that stream chats, and what they saw. Light: it shares the machine with what it measures."""

from __future__ import annotations

import asyncio
import json
import random
import re
import statistics
import string
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from server.gateway.upstream import Upstream

NEW_TOKENS = 64
_STAGGER_S = 0.02
_TIMEOUT_S = 600.0
# The text inside a JSON string has its quotes escaped, so this cannot stand in an answer's own words.
_PIECE = re.compile(rb'"content":\s*"(?!")')
_USAGE = re.compile(rb'"completion_tokens":\s*(\d+)')


@dataclass(slots=True)
class Load:
    """What the clients of one run saw; moments and gaps in seconds."""

    wall_s: float = 0.0
    num_tokens: int = 0
    num_errors: int = 0
    first_token_s: list[float] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)

    @property
    def tokens_per_s(self) -> float:
        return self.num_tokens / self.wall_s

    def gap_ms(self, percentile: int) -> float:
        """Time between two pieces of one stream."""
        return 1000 * _percentile(self.gaps_s, percentile)

    def first_token_ms(self) -> float:
        """Median time from the request to its first piece."""
        return 1000 * statistics.median(self.first_token_s or [0.0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A server to load.

    Attributes:
        extra: Fields that go into every body.
        num_leading: Pieces of text that come before the first token and say nothing of it.
    """

    url: str
    model: str
    extra: dict[str, Any]
    num_leading: int = 0


def prompts(number: int, *, longest: int, seed: int) -> list[str]:
    """Texts of 8 to `longest` characters, which are as many tokens."""
    rng = random.Random(seed)
    return ["".join(rng.choices(string.ascii_lowercase, k=rng.randint(8, longest))) for _ in range(number)]


async def run_load(target: Target, texts: Sequence[str], *, num_clients: int) -> Load:
    """Send every text once, `num_clients` at a time, each client the next text when its answer has ended."""
    load, waiting = Load(), list(reversed(texts))
    way = Upstream(uds="", base_url=target.url, silence_s=_TIMEOUT_S)
    since = time.perf_counter()
    await asyncio.gather(*(_client(way, target, waiting, load, n * _STAGGER_S) for n in range(num_clients)))
    load.wall_s = time.perf_counter() - since
    way.close()
    return load


async def _client(way: Upstream, target: Target, waiting: list[str], load: Load, delay_s: float) -> None:
    await asyncio.sleep(delay_s)
    while waiting:
        await _stream(way, target, waiting.pop(), load)


async def _stream(way: Upstream, target: Target, text: str, load: Load) -> None:
    message = {"role": "user", "content": text}
    body = {"model": target.model, "messages": [message], "max_tokens": NEW_TOKENS, "stream": True} | target.extra
    last, seen, rest, counted = time.perf_counter(), -target.num_leading, b"", 0
    request_id = uuid.uuid4().hex  # the peer tells requests apart by it
    answer = await way.post("/v1/chat/completions", json.dumps(body).encode(), request_id=request_id)
    while received := await answer.read():
        now = time.perf_counter()
        whole, _, rest = (rest + received).rpartition(b"\n\n")
        for _ in _PIECE.finditer(whole):
            seen += 1
            if seen > 0:
                (load.first_token_s if seen == 1 else load.gaps_s).append(now - last)
                last = now
        if usage := _USAGE.search(whole):
            counted = int(usage[1])
    load.num_errors += answer.status != 200 or counted == 0
    load.num_tokens += counted


def _percentile(values: Sequence[float], percentile: int) -> float:
    ordered = sorted(values) or [0.0]
    return ordered[min(len(ordered) - 1, len(ordered) * percentile // 100)]
