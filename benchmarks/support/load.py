"""Closed-loop clients that stream completions from an OpenAI server, and what they saw."""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import aiohttp

_TEXT = (
    "the of and to in is that for it as was with be by on not he his but at are this have from or had an they "
    "which one you were her all she there would their we him been has when who will more no if out so said what up"
)
WORDS = tuple(_TEXT.split())
NEW_TOKENS = 64
TIMEOUT_S = 600.0
STAGGER_S = 0.05


@dataclass(slots=True, kw_only=True)
class Seen:
    """One level of load.

    Attributes:
        first_s: Seconds to the first content, per request.
        gaps_s: Seconds between two chunks of content of one answer.
        wall_s: From the first request to the end of the last.
        num_tokens: As the server's own `usage` counts them, or `NEW_TOKENS` for an answer that ended by length.
    """

    first_s: list[float] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)
    wall_s: float = 0.0
    num_tokens: int = 0

    @property
    def tokens_per_s(self) -> float:
        return self.num_tokens / self.wall_s

    def gap_quantile_ms(self, share: float) -> float:
        """A quantile of the gaps, in milliseconds."""
        ordered = sorted(self.gaps_s)
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    @property
    def median_first_s(self) -> float:
        return statistics.median(self.first_s)


def prompts(number: int, *, seed: int) -> list[str]:
    """Texts of 8 to 200 words, the same for every server."""
    dice = random.Random(seed)
    return [" ".join(dice.choice(WORDS) for _ in range(dice.randint(8, 200))) for _ in range(number)]


async def load(url: str, model: str, texts: Sequence[str], *, num_clients: int) -> Seen:
    """Have `num_clients` send `texts`, each its next one when the last has ended."""
    seen, waiting = Seen(), list(reversed(texts))
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:

        async def client(number: int) -> None:
            await asyncio.sleep(number * STAGGER_S)
            while waiting:
                await _ask(session, url, model, waiting.pop(), seen)

        began = time.perf_counter()
        await asyncio.gather(*(client(number) for number in range(num_clients)))
        seen.wall_s = time.perf_counter() - began
    return seen


async def _ask(session: aiohttp.ClientSession, url: str, model: str, text: str, seen: Seen) -> None:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": NEW_TOKENS,
        "temperature": 0,
        "stream": True,
    }
    sent, last = time.perf_counter(), 0.0
    async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
        if answer.status != 200:
            raise RuntimeError(f"{url} answered {answer.status}: {await answer.text()}")
        async for line in answer.content:
            if not line.startswith(b"data: {"):
                continue
            choices = json.loads(line[6:]).get("choices") or [{}]
            content = choices[0].get("delta", {}).get("content")
            if not content or text in content:  # transformers serve sends the prompt back before its first token
                continue
            now = time.perf_counter()
            if last:
                seen.gaps_s.append(now - last)
            else:
                seen.first_s.append(now - sent)
            last = now
    if not last:
        raise RuntimeError(f"{url} sent a stream without content")
    seen.num_tokens += NEW_TOKENS
