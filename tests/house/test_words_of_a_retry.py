"""A call that is tried again says what happened and when it comes again, and nothing of how it was called."""

from __future__ import annotations

import json

import pytest
import stamina
import structlog

from registry_hooks import events


def test_a_retry_is_told_in_our_words(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    hooks, config = stamina.instrumentation.get_on_retry_hooks(), structlog.get_config()
    monkeypatch.setattr("sys.stderr.isatty", lambda: False)
    events.configure()
    try:
        for attempt in stamina.retry_context(
            on=ValueError, attempts=2, wait_initial=0.0, wait_max=0.0, wait_jitter=0.0
        ):
            with attempt:
                if attempt.num == 1:
                    raise ValueError("MLflow did not answer")
    finally:
        stamina.instrumentation.set_on_retry_hooks(hooks)
        structlog.configure(**config)

    told = json.loads(capsys.readouterr().err)
    told.pop("timestamp")
    assert told == {
        "event": "call.failed",
        "level": "warning",
        "reason": "MLflow did not answer",
        "num_tries": 1,
        "again_in_s": 0.0,
    }
