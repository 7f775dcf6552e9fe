"""Has this box the disk, the GPU, the port and the key that its role needs?"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import httpx

from pipeline.doctor.finding import Check, Finding, Role, failed, ok, warning
from pipeline.stack import ports
from registry_hooks.errors import PortInUseError
from registry_hooks.settings import LOOPBACK_HOSTS, ServeSettings, Settings
from server import gpu as gpus

MIN_FREE_BYTES, GOOD_FREE_BYTES = 1_000_000_000, 10_000_000_000
GOOD_VRAM_BYTES = 2_000_000_000
GOOD_KEY_CHARS = 20
MAKE_KEY = 'export RELAY_SERVE__API_KEY="$(openssl rand -hex 32)"'
_ASK_TIMEOUT_S = 2.0


def cache_disk(settings: Settings) -> Sequence[Finding]:
    """Whether checkpoints can be fetched into the cache."""
    folder = settings.serve.cache_dir
    return [disk_finding("cache disk", folder, free_bytes(folder), setting="RELAY_SERVE__CACHE_DIR")]


def data_disk(settings: Settings) -> Sequence[Finding]:
    """Whether the local stack has room."""
    folder = settings.stack.data_dir
    return [disk_finding("data disk", folder, free_bytes(folder), setting="RELAY_STACK__DATA_DIR")]


def disk_finding(name: str, folder: Path, free: int, *, setting: str) -> Finding:
    """Judge the bytes that are free where `folder` is, or would be made."""
    what = f"{free / 1e9:.1f} GB are free for {folder}"
    mend = f"free some (df -h {folder}), or set {setting} to a larger disk"
    if free < MIN_FREE_BYTES:
        return failed(name, f"{what}, too little for a checkpoint", mend)
    return ok(name, what) if free >= GOOD_FREE_BYTES else warning(name, f"{what}, which a few checkpoints fill", mend)


def free_bytes(folder: Path) -> int:
    """Bytes free on the disk where `folder` is, or would be made."""
    there = folder.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    return shutil.disk_usage(there).free


def gpu(settings: Settings) -> Sequence[Finding]:
    """How much memory is free on the GPU that engines use, if there is one."""
    card = gpus.card()
    if card is not None and card.free_bytes is None:
        return [ok("GPU", f"{card.uuid}, which does not tell its free memory")]
    return [gpu_finding(settings.engine.device, card.free_bytes if card else None)]


def gpu_finding(device: str, free: int | None) -> Finding:
    """Judge the free GPU memory; None stands for no GPU that can be seen."""
    if free is None:
        if device == "cuda":
            return failed(
                "GPU", "engine.device is cuda, and there is no GPU (nvidia-smi)", "set RELAY_ENGINE__DEVICE=cpu"
            )
        return ok("GPU", "no GPU: engines run on the CPU")
    what = f"{free / 1e9:.1f} GB of GPU memory are free"
    if free >= GOOD_VRAM_BYTES or device == "cpu":
        return ok("GPU", what)
    return warning(
        "GPU", f"{what}, too little for most models", "see who holds it (nvidia-smi), or RELAY_ENGINE__DEVICE=cpu"
    )


def port(settings: Settings) -> Sequence[Finding]:
    """Whether the gateway's port is free, or ours already."""
    serve = settings.serve
    try:
        ports.take(serve.port, host=serve.host, setting="serve.port")
    except PortInUseError as error:
        ours = _server_name(serve)
        if ours == serve.server_name:
            return [ok("port", f"{serve.port}: our server {ours!r} answers there")]
        who = f"a Relay server called {ours!r}" if ours else "something that is no Relay server"
        what = f"{serve.host}:{serve.port} is taken by {who} ({error.__cause__})"
        return [failed("port", what, f"stop it (ss -ltnp 'sport = :{serve.port}'), or set RELAY_SERVE__PORT")]
    return [ok("port", f"{serve.host}:{serve.port} is free: no server runs there")]


def key(settings: Settings) -> Sequence[Finding]:
    """Whether strangers are kept out."""
    serve = settings.serve
    given = serve.api_key.get_secret_value() if serve.api_key else ""
    return [key_finding(serve.host, given)]


def key_finding(host: str, given: str) -> Finding:
    """Judge the API key, empty for none, for a gateway that binds `host`."""
    if not given:
        if host in LOOPBACK_HOSTS:
            return ok("API key", f"none, and none is needed: only this box reaches {host}")
        what = f"serve.host {host} lets other machines in, and there is no key, so `relay serve` will not start"
        return failed("API key", what, MAKE_KEY)
    if len(given) < GOOD_KEY_CHARS:
        return warning("API key", f"it has only {len(given)} characters, which can be guessed", MAKE_KEY)
    return ok("API key", f"set, {len(given)} characters")


def _server_name(serve: ServeSettings) -> str:
    host = "127.0.0.1" if serve.host in ("0.0.0.0", "::") else serve.host  # noqa: S104 - compared with, not bound
    try:
        answer = httpx.get(f"http://{host}:{serve.port}/models/info", timeout=_ASK_TIMEOUT_S, trust_env=False)
        return str(answer.raise_for_status().json()["server"])
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError):
        return ""


_SERVING: tuple[Role, ...] = ("both", "inference")
CHECKS = (
    Check(name="cache disk", ask=cache_disk, mend_silence="check that the disk answers: df -h", roles=_SERVING),
    Check(
        name="data disk", ask=data_disk, mend_silence="check that the disk answers: df -h", roles=("both", "training")
    ),
    Check(name="GPU", ask=gpu, mend_silence="check that nvidia-smi answers; a driver that hangs needs a reboot"),
    Check(name="port", ask=port, mend_silence="set RELAY_SERVE__PORT", roles=_SERVING),
    Check(name="API key", ask=key, mend_silence=MAKE_KEY, roles=_SERVING),
)
