"""The engine for people: one checkpoint folder, one OpenAI server, in the foreground."""

from __future__ import annotations

import argparse
import signal
import socket
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path

from registry_hooks import events
from registry_hooks.checkpoint_files import inspect
from registry_hooks.errors import RelayError, SettingsError, UserError
from registry_hooks.settings import LOOPBACK_HOSTS
from server.engine import listening
from server.engine.offline import go_offline
from server.engine_spec import EngineSpec
from server.garbage import nothing_to_collect

_INTERRUPTED = 130


def main(arguments: list[str]) -> int:
    """Serve until Ctrl-C; the exit code: 2 for what the user can mend, 1 for other failures."""
    options = _parser().parse_args(arguments)
    events.configure()
    go_offline()
    try:
        return _INTERRUPTED if _run(options) == signal.SIGINT else 0
    except RelayError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2 if isinstance(error, UserError) else 1
    except KeyboardInterrupt:
        return _INTERRUPTED


def _run(options: argparse.Namespace) -> int:
    if options.host not in LOOPBACK_HOSTS:
        raise SettingsError(
            f"--host {options.host} would let other machines in, and an engine has no key: nothing was started; "
            "use 127.0.0.1, or put `relay serve` in front, which checks one"
        )
    spec = _spec(options)
    since = time.monotonic()
    inspect(Path(spec.checkpoint_dir))
    place: AbstractContextManager[socket.socket] = (
        listening.listen_on_uds(Path(spec.uds)) if spec.uds else listening.listen_on_tcp(options.host, options.port)
    )
    with place as listener:
        with nothing_to_collect():
            from server.engine import launching

            running = launching.load(spec, since=since)
        return launching.serve(running, listener, on_ready=lambda: _say_ready(spec, listener))


def _spec(options: argparse.Namespace) -> EngineSpec:
    folder = Path(options.folder).absolute()
    return EngineSpec(
        checkpoint_dir=str(folder),
        uds=options.uds or "",
        model_name=options.model_name or folder.name,
        fingerprint=options.fingerprint,
        device=options.device,
        dtype=options.dtype,
        num_threads=options.num_threads,
        max_model_len_tokens=options.max_model_len,
        max_queue=options.max_queue,
        kv_budget_bytes=options.kv_budget_mb * 1_000_000,
        packed_linears=not options.no_packed_linears,
    )


def _say_ready(spec: EngineSpec, listener: socket.socket) -> None:
    if spec.uds:
        where = f"unix:{spec.uds}"
    else:
        host, port = listener.getsockname()[:2]
        where = f"http://[{host}]:{port}/v1" if ":" in host else f"http://{host}:{port}/v1"
    print(f"ready: {where} (model {spec.model_name}); Ctrl-C stops it", flush=True)  # noqa: T201


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m server.engine", description="Serve one checkpoint folder as an OpenAI server."
    )
    parser.add_argument("folder", metavar="DIR", help="folder with config.json, tokenizer and safetensors")
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--port", type=_port, help="TCP port; 0 takes a free one")
    place.add_argument("--uds", metavar="PATH", help="Unix socket in place of a port")
    parser.add_argument("--host", default="127.0.0.1", help="loopback address to bind (default: %(default)s)")
    parser.add_argument("--model-name", help="name in answers (default: the folder's)")
    parser.add_argument("--fingerprint", default="relay", help="system_fingerprint of answers (default: %(default)s)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto")
    parser.add_argument("--num-threads", type=_count, default=0, help="compute threads on CPU (default: one a core)")
    parser.add_argument(
        "--max-model-len", type=_count, default=0, metavar="TOKENS", help="longest prompt and answer together"
    )
    parser.add_argument("--max-queue", type=_count, default=64, help="requests that may wait (default: %(default)s)")
    parser.add_argument(
        "--kv-budget-mb",
        type=_count,
        default=0,
        metavar="MB",
        help="memory for the keys and values of running requests (default: what suits the device)",
    )
    parser.add_argument(
        "--no-packed-linears", action="store_true", help="on CPU: leave the weights in torch's own layout"
    )
    return parser


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 65535:
        raise argparse.ArgumentTypeError("a port is between 0 and 65535")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("cannot be negative")
    return value
