"""Half an hour of random use of one engine, which must leave nothing behind: `make soak`.

Clients chat, stream, hang up in the middle, leave before the first byte, and send what is wrong. Meanwhile memory,
threads and open files of the engine are written down. It fails on a leak, on a request that is stuck, on a 5xx, and on
an engine that died.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import aiohttp
import psutil
from findings import Sample, findings

from pipeline.demo.world import save_untrained

NUM_CLIENTS = 12
NUM_SAMPLES = 60
SETTLE_S = 20.0
_TIMEOUT_S = 120.0
_BAD_BODIES = (
    b"",
    b"{",
    b"\xff\xfe",
    b"[]",
    b'{"messages": []}',
    b'{"messages": [{"role": "nobody", "content": "hi"}]}',
    b'{"messages": [{"role": "user", "content": "hi"}], "temperature": NaN}',
    b'{"messages": [{"role": "user", "content": "hi"}], "max_tokens": -1}',
    b'{"messages": [{"role": "user", "content": "hi"}], "stop": [1, 2]}',
    b'{"messages": [{"role": "user", "content": "hi"}], "model": "other"}',
    b'{"messages": [{"role": "user", "content": "' + b"long " * 2000 + b'"}]}',
    b'{"messages": ' + b"[" * 5000 + b"]" * 5000 + b"}",
)


class Clients:
    """People of all kinds; `counts` says what came of their requests."""

    def __init__(self, session: aiohttp.ClientSession, url: str, rng: random.Random) -> None:
        self._session, self._url, self._rng = session, url, rng
        self.counts: Counter[str] = Counter()

    async def keep_asking(self, until: float) -> None:
        """Do something random, again and again."""
        ways = (self._chat, self._stream, self._hang_up, self._leave_early, self._send_nonsense)
        while time.monotonic() < until:
            way = self._rng.choices(ways, weights=(3, 4, 3, 1, 1))[0]
            try:
                await asyncio.wait_for(way(), _TIMEOUT_S)
                self.counts[way.__name__.strip("_")] += 1
            except TimeoutError:
                self.counts["stuck"] += 1
            except aiohttp.ClientError:
                self.counts["refused connections"] += 1
                await asyncio.sleep(0.1)
            await asyncio.sleep(self._rng.expovariate(20))

    async def _chat(self) -> None:
        async with self._session.post(self._url, json=self._body(stream=False)) as answer:
            await answer.read()
            self._note(answer.status, allowed=(200, 429))

    async def _stream(self) -> None:
        async with self._session.post(self._url, json=self._body(stream=True)) as answer:
            text = await answer.read()
            self._note(answer.status, allowed=(200, 429))
            if answer.status == 200 and not text.endswith(b"data: [DONE]\n\n"):
                self.counts["streams without an end"] += 1

    async def _hang_up(self) -> None:
        answer = await self._session.post(self._url, json=self._body(stream=True))
        async for _ in answer.content.iter_any():
            if self._rng.random() < 0.2:
                break
        answer.close()

    async def _leave_early(self) -> None:
        asking = asyncio.create_task(self._session.post(self._url, json=self._body(stream=self._rng.random() < 0.5)))
        await asyncio.sleep(self._rng.random() * 0.02)
        asking.cancel()
        with suppress(asyncio.CancelledError):
            (await asking).close()

    async def _send_nonsense(self) -> None:
        headers = {"content-type": "application/json"}
        async with self._session.post(self._url, data=self._rng.choice(_BAD_BODIES), headers=headers) as answer:
            await answer.read()
            self._note(answer.status, allowed=range(400, 500))

    def _note(self, status: int, *, allowed: range | tuple[int, ...]) -> None:
        if status not in allowed:
            self.counts[f"unexpected {status}"] += 1

    def _body(self, *, stream: bool) -> dict[str, object]:
        text = "".join(self._rng.choices("abcdefgh ", k=self._rng.randint(1, 120)))
        sampling = self._rng.choice(
            ({"temperature": 0}, {"temperature": 1.0, "top_p": 0.9}, {"seed": self._rng.randint(0, 9)}, {"stop": "ab"})
        )
        message = {"role": "user", "content": text}
        return {"messages": [message], "max_tokens": self._rng.randint(1, 80), "stream": stream, **sampling}


async def soak(process: subprocess.Popen[str], url: str, seconds: float, *, seed: int = 0) -> list[str]:
    """What is wrong after `seconds` of random use; nothing when all is well."""
    until = time.monotonic() + seconds
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        clients = Clients(session, f"{url}/chat/completions", random.Random(seed))
        asking = [asyncio.create_task(clients.keep_asking(until)) for _ in range(NUM_CLIENTS)]
        samples = []
        while time.monotonic() < until:
            await asyncio.sleep(min(seconds / NUM_SAMPLES, max(0.0, until - time.monotonic())))
            if process.poll() is not None:
                break
            samples.append(_sample(process.pid))
        await asyncio.gather(*asking)
    left = await _left(url.removesuffix("/v1")) if process.poll() is None else {}
    last = _sample(process.pid) if process.poll() is None else None
    print(f"asked: {dict(sorted(clients.counts.items()))}")
    return findings(samples, last, clients.counts, left=left)


async def _left(root: str) -> dict[str, int]:
    """Requests that the engine still holds although nobody asks any more."""
    counts: dict[str, int] = {}
    deadline = time.monotonic() + SETTLE_S
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < deadline:
            async with session.get(f"{root}/health") as answer:
                health = await answer.json()
            counts = {name: health[name] for name in ("num_running", "num_waiting")}
            if not any(counts.values()):
                break
            await asyncio.sleep(0.2)
    return counts


def _sample(pid: int) -> Sample:
    process = psutil.Process(pid)
    with process.oneshot():
        return Sample(
            at_s=time.monotonic(),
            rss_bytes=process.memory_info().rss,
            num_threads=process.num_threads(),
            num_files=process.num_fds(),
        )


def run(seconds: float) -> list[str]:
    """Start an engine on a small model, use it, stop it."""
    with tempfile.TemporaryDirectory(prefix="relay-soak-") as folder:
        save_untrained(Path(folder) / "demo", initializer_range=0.2)
        command = [sys.executable, "-m", "server.engine", f"{folder}/demo", "--port", "0", "--device", "cpu"]
        log = Path(folder) / "engine.log"
        with (
            log.open("wb") as out,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=out, text=True) as process,
        ):
            assert process.stdout is not None
            line = process.stdout.readline()
            try:
                if not line.startswith("ready: "):
                    return [f"the engine did not start: {log.read_text()[-2000:]}"]
                return asyncio.run(soak(process, line.split()[1], seconds))
            finally:
                process.terminate()


def main() -> int:
    """Soak, and say what was found; exit code 1 when something was."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1800.0)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: it takes its servers down with it
    wrong = run(options.seconds)
    for finding in wrong:
        print(f"found: {finding}")
    print("nothing was left behind" if not wrong else f"{len(wrong)} findings")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
