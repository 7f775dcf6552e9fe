"""The engine as a child, by the protocol of `server/engine_spec.py`. It watches its parent before it imports torch."""

from __future__ import annotations

import os
import queue
import threading
import time
from pathlib import Path

from registry_hooks import events
from registry_hooks.errors import RelayError
from server.engine.offline import go_offline
from server.engine_spec import EngineEvent, EngineSpec

_MAX_SPEC_BYTES = 64 * 1024
_STDIN, _STDOUT, _STDERR = 0, 1, 2


def main(arguments: list[str]) -> int:
    """Be an engine until SIGTERM or the end of stdin; the exit code."""
    if arguments != ["--supervised"]:
        os.write(_STDERR, b"--supervised takes no other option: the spec comes on stdin\n")
        return 2
    parent = Parent()
    stage = "import"
    try:
        events.configure()
        go_offline()
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
        parent.tell(EngineEvent(event="failed", stage=stage, reason=_sentence(error)))
        return 1
    return 0


class Parent:
    """The process that started this one. When it ends, so does this one, at once and at any time.

    Takes stdin and stdout away from everybody else: prints go to stderr, and no grandchild can hold the pipes.
    """

    def __init__(self) -> None:
        self._commands_fd, self._events_fd = os.dup(_STDIN), os.dup(_STDOUT)
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), _STDIN)
        os.dup2(_STDERR, _STDOUT)
        self._specs: queue.Queue[tuple[bytes, float]] = queue.Queue(maxsize=1)
        threading.Thread(target=self._watch, name="parent-watch", daemon=True).start()

    def tell(self, event: EngineEvent) -> None:
        """Send one event. A parent that no longer listens is as good as gone."""
        try:
            os.write(self._events_fd, event.to_line())
        except OSError:
            os._exit(1)

    def wait_for_spec(self) -> tuple[EngineSpec, float]:
        """What to be, and when that arrived on `time.monotonic()`. Waits for ever: a spare may be needed tomorrow.

        Raises:
            ValueError: A line that is no spec.
        """
        line, since = self._specs.get()
        try:
            return EngineSpec.from_line(line), since
        except (TypeError, ValueError) as error:
            raise ValueError(f"the line on stdin is no engine spec: {error}") from error

    def _watch(self) -> None:
        line, told = b"", False
        try:
            while chunk := os.read(self._commands_fd, _MAX_SPEC_BYTES):
                line = b"" if told else line + chunk
                if not told and b"\n" in line:
                    told = True
                    self._specs.put((line.partition(b"\n")[0], time.monotonic()))
                if len(line) > _MAX_SPEC_BYTES:
                    break
        finally:
            os._exit(1)


def _sentence(error: Exception) -> str:
    if isinstance(error, RelayError):
        return str(error)
    first_line = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first_line}"
