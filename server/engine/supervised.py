"""The engine as a child, by the protocol of `server/engine_spec.py`. It watches its parent before it imports torch."""

from __future__ import annotations

import sys
from pathlib import Path

from registry_hooks import events
from registry_hooks.errors import RelayError, blame_of
from server.engine.offline import go_offline
from server.engine_spec import EngineEvent
from server.garbage import nothing_to_collect
from server.parent import Parent


def main(arguments: list[str]) -> int:
    """Be an engine until SIGTERM or the end of stdin; the exit code."""
    if arguments != ["--supervised"]:
        sys.stderr.write("--supervised takes no other option: the spec comes on stdin\n")
        return 2
    parent = Parent()
    stage = "import"
    try:
        events.configure()
        go_offline()
        with nothing_to_collect():
            from server.engine import launching, listening, warm_imports

            warm_imports.touch()
            parent.tell(EngineEvent(event="imported"))
            spec, since = parent.wait_for_spec()
            stage = "load"
            engine = launching.load(spec, since=since)
        parent.tell(EngineEvent(event="loaded", ready=engine.ready()))
        stage = "listen"
        with listening.listen_on_uds(Path(spec.uds)) as listener:
            launching.serve(
                engine, listener, on_ready=lambda: parent.tell(EngineEvent(event="ready", ready=engine.ready()))
            )
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent must hear it and this process must end
        parent.tell(EngineEvent(event="failed", stage=stage, reason=_sentence(error), blame=blame_of(error)))
        return 1
    return 0


def _sentence(error: Exception) -> str:
    if isinstance(error, RelayError):
        return str(error)
    first_line = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first_line}"
