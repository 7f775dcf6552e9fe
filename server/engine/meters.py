"""What `/metrics` shows."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from server.engine.scheduling import Engine

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Meters:
    """Counts and clocks of one engine."""

    def __init__(self, engine: Engine) -> None:
        self.registry = CollectorRegistry()
        running = Gauge("relay_engine_requests_running", "Requests being answered.", registry=self.registry)
        running.set_function(lambda: engine.num_running)
        waiting = Gauge("relay_engine_requests_waiting", "Requests in line.", registry=self.registry)
        waiting.set_function(lambda: engine.num_waiting)
        places = Gauge("relay_engine_kv_capacity_tokens", "Tokens whose keys and values fit.", registry=self.registry)
        places.set_function(lambda: engine.num_places)
        stored = Gauge("relay_engine_kv_used_tokens", "Tokens whose keys and values are kept.", registry=self.registry)
        stored.set_function(lambda: engine.num_stored_tokens)
        self.prompt_tokens = Counter("relay_engine_prompt_tokens", "Prompt tokens taken in.", registry=self.registry)
        self.reused_tokens = Counter(
            "relay_engine_reused_prompt_tokens",
            "Prompt tokens that were not read again, since another request began alike.",
            registry=self.registry,
        )
        self.tokens = Counter("relay_engine_generated_tokens", "Tokens generated.", registry=self.registry)
        self.requests = Counter(
            "relay_engine_requests",
            "Answers by their end: stop, length, failed, cancelled or refused.",
            ["outcome"],
            registry=self.registry,
        )
        self.first_token_s = Histogram(
            "relay_engine_time_to_first_token_seconds",
            "From taking a request to its first token.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.between_tokens_s = Histogram(
            "relay_engine_inter_token_seconds", "Between two tokens.", buckets=_SECONDS, registry=self.registry
        )

    def exposition(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)


class Stopwatch:
    """Times the tokens of one answer."""

    def __init__(self, meters: Meters) -> None:
        self._meters = meters
        self._last = time.monotonic()
        self._is_first = True

    def token(self) -> None:
        """One more token has come."""
        now = time.monotonic()
        histogram = self._meters.first_token_s if self._is_first else self._meters.between_tokens_s
        histogram.observe(now - self._last)
        self._meters.tokens.inc()
        self._last, self._is_first = now, False
