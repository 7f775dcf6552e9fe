"""What an engine child is told, and what it says back. Standard library only: both sides import it.

The parent speaks on the child's stdin: one JSON line, an `EngineSpec`. It keeps that pipe open; its end (the parent is
gone, however it went) makes the child exit at once. A child that has no spec yet is a spare: it has imported torch and
waits. The child speaks on its stdout: JSON lines, each an `EngineEvent`. All else goes to stderr, which is a file.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

# What keys and values may take when nobody says. On CPU, memory is taken only as rows are used.
DEFAULT_KV_BYTES = {"cpu": 1_000_000_000, "cuda": 2_000_000_000}


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """One engine to be.

    Attributes:
        checkpoint_dir: Folder with config.json, tokenizer and safetensors.
        uds: Unix socket to listen on; at most 107 bytes.
        model_name: What `model` is called in answers and in `/v1/models`.
        fingerprint: `system_fingerprint` of every answer.
        device: `auto`, `cpu` or `cuda`.
        dtype: `auto`, `float32`, `bfloat16` or `float16`.
        num_threads: Compute threads on CPU; 0: one a physical core, from four cores on one less.
        max_model_len_tokens: 0: what the config says, at most 4096.
        max_queue: Requests that may wait; more get 429.
        packed_linears: Lay weights out for oneDNN where that is faster; float32 on CPU only.
        kv_budget_bytes: Memory for the keys and values of running requests; 0: what the device suggests.
        command: Template of another OpenAI server to run in the engine's place; empty for our own engine.
    """

    checkpoint_dir: str
    uds: str
    model_name: str
    fingerprint: str = "relay"
    device: str = "auto"
    dtype: str = "auto"
    num_threads: int = 0
    max_model_len_tokens: int = 0
    max_queue: int = 64
    kv_budget_bytes: int = 0
    packed_linears: bool = True
    command: str = ""

    def to_line(self) -> bytes:
        return json.dumps(dataclasses.asdict(self)).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> EngineSpec:
        return cls(**json.loads(line))


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReady:
    """What a ready engine says of itself.

    Attributes:
        device: `cpu` or `cuda`; `unknown` of another program.
        dtype: `float32`, `bfloat16` or `float16`; `unknown` of another program.
        vram_bytes: GPU memory of this process; 0 on CPU.
        rss_bytes: Resident memory of this process.
        num_parameters: 0 of another program.
        max_model_len_tokens: 0 where another program does not say.
        load_s: Seconds from the spec to weights in memory and checked.
        base_url: Where it answers; empty for the spec's socket.
        model_name: What it calls the model, where that is not what the spec says.
    """

    device: str
    dtype: str
    vram_bytes: int
    rss_bytes: int
    num_parameters: int
    max_model_len_tokens: int
    load_s: float
    base_url: str = ""
    model_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineEvent:
    """A line on the child's stdout.

    Attributes:
        event: `imported` (a spare is warm), `loaded` (weights in memory, not listening yet), `ready` or `failed`.
        stage: Of `failed`: `import`, `load` or `listen`.
        reason: Of `failed`: a sentence for people.
        blame: Of `failed`: who is at fault, a value of `registry_hooks.errors.Blame`. `version` only for what the bytes
            of the checkpoint show; whatever the program did not understand is the box's.
        ready: Of `ready` and `loaded`.
    """

    event: str
    stage: str = ""
    reason: str = ""
    blame: str = "box"
    ready: EngineReady | None = None

    def to_line(self) -> bytes:
        return json.dumps(dataclasses.asdict(self)).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> EngineEvent:
        document: dict[str, Any] = json.loads(line)
        ready = document.pop("ready", None)
        return cls(**document, ready=EngineReady(**ready) if ready else None)
