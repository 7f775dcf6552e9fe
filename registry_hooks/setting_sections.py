"""The sections of the settings: every key with its default, its bounds and what it means. Units stand in the names."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from registry_hooks import command_template
from registry_hooks.golden_chat import MAX_GOLDEN_CHATS, MAX_GOLDEN_PROMPTS

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


def _user_cache_dir() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "relay"


def _not_blank(key: SecretStr | None) -> SecretStr | None:
    if key is not None and not key.get_secret_value().strip():
        raise ValueError(
            "it is set, but empty, and nothing was started: an empty key would let everybody in. "
            "Give it a key, such as that of `openssl rand -hex 24`, or unset it to serve this machine alone"
        )
    return key


def _host_name() -> str:
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in socket.gethostname().split(".")[0]) or "server"


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class RegistrySettings(Section):
    """The MLflow registry."""

    name: str = Field("relay-demo", description="Registered model: one per product line.", pattern=r"^[^/:@]+$")
    alias: str = Field("Production", description="The alias that servers follow. Case matters.", pattern=r"^[\w\-]+$")
    tracking_uri: str = Field(
        "", description="MLflow server. Unset: `MLFLOW_TRACKING_URI`, else `http://127.0.0.1:5000`."
    )
    public_url: str = Field(
        "",
        description="MLflow's address in people's browsers, for links in descriptions and on the terminal. Unset: that "
        "of the MLflow server.",
        pattern=r"^(https?://.+)?$",
    )
    experiment: str = Field("relay", description="Experiment of the training runs that `relay publish` makes itself.")
    score_metric: str = Field("eval_loss", description="The metric that `/models/info` and deployments call the score.")
    timeout_s: float = Field(3.0, gt=0, le=120, description="Bound on one read of the registry.")
    write_timeout_s: float = Field(20.0, gt=0, le=300, description="Bound on one write to the registry.")


class StoreSettings(Section):
    """The S3 store. Credentials come from `AWS_*` or the usual AWS files, never from here."""

    endpoint_url: str = Field("", description="S3 endpoint. Unset: `MLFLOW_S3_ENDPOINT_URL`, else AWS's own.")
    connect_timeout_s: float = Field(3.0, gt=0, le=60, description="Bound on opening a connection.")
    read_timeout_s: float = Field(20.0, gt=0, le=600, description="Bound on silence while reading.")
    num_connections: int = Field(4, ge=1, le=64, description="Parallel ranges while fetching, parts while publishing.")


class PublishSettings(Section):
    """Publishing."""

    dtype: Dtype = Field("auto", description="Publish a copy converted to this dtype; `auto` publishes as saved.")
    golden_prompts: tuple[str, ...] = Field(
        (),
        max_length=MAX_GOLDEN_PROMPTS,
        description="Prompts of the golden set. Unset: a few general ones that any language model can score.",
    )
    golden_chats: tuple[str, ...] = Field(
        (),
        max_length=MAX_GOLDEN_CHATS,
        description="Messages of a user, each a chat of the golden set. Unset: one that nearly every template takes.",
    )


class EngineSettings(Section):
    """The engine processes, on either box."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="`auto`: CUDA when there is any.")
    dtype: Dtype = Field("auto", description="`auto`: as saved on CUDA, float32 on CPU.")
    num_threads: int = Field(
        0,
        ge=0,
        le=1024,
        description="Compute threads on CPU; 0: one a physical core, from four cores on one less, one for tiny models.",
    )
    max_model_len_tokens: int = Field(
        0, ge=0, description="Longest prompt and answer together; 0: what the model's config says, at most 4096."
    )
    packed_linears: bool = Field(
        True, description="On CPU in float32: lay weights out once, at load, where a timing shows that it pays."
    )
    kv_budget_bytes: int = Field(
        0,
        ge=0,
        description="Memory for the keys and values of the requests that run at once; 0: 1 GB on CPU, 2 GB on CUDA.",
    )
    max_queue: int = Field(64, ge=0, description="Requests that may wait in one engine; more get 429.")
    command: Annotated[str, AfterValidator(command_template.check)] = Field(
        "",
        description="Another OpenAI server to run as the engine of `relay serve`, with `{dir}`, `{name}` and `{port}` "
        "or `{uds}` in it. Unset: Relay's own engine.",
    )
    start_timeout_s: float = Field(300.0, gt=0, description="Bound on a start: import, load and listen.")
    stop_grace_s: float = Field(5.0, gt=0, le=300, description="From SIGTERM to SIGKILL.")


class ServeSettings(Section):
    """The gateway."""

    host: str = Field("127.0.0.1", description="Address to bind. Other than loopback needs `api_key`.")
    port: int = Field(8765, ge=0, le=65535, description="Port; 0 takes a free one.")
    public_url: str = Field(
        "", description="What other machines call this server, for `relay status`. Unset: its host and port."
    )
    server_name: str = Field(
        default_factory=_host_name,
        description="Name of this server in the registry. Unset: the host's name.",
        pattern=r"^[\w\-][\w.\- :]*$",
    )
    api_key: Annotated[SecretStr | None, AfterValidator(_not_blank)] = Field(
        None,
        description="Bearer key for `/v1/*` and `/models/reload`. Best set as `RELAY_SERVE__API_KEY`, and of 16 "
        "characters or more.",
    )
    cors_origins: tuple[str, ...] = Field(
        (),
        description="Web pages that may ask this server, such as `https://chat.example`; `*`: every page. Unset: none.",
    )
    cache_dir: Path = Field(
        default_factory=_user_cache_dir, description="Local checkpoint cache. Unset: `~/.cache/relay`."
    )
    max_cache_bytes: int = Field(50_000_000_000, gt=0, description="Bound on the cache; what is served always stays.")
    poll_s: float = Field(1.0, gt=0, le=3600, description="Seconds between two looks at the alias (10 % jitter).")
    heartbeat_s: float = Field(30.0, gt=0, le=3600, description="Seconds between two heartbeats in the registry.")
    fetch_timeout_s: float = Field(3600.0, gt=0, description="Bound on fetching one version.")
    drain_timeout_s: float = Field(
        120.0, gt=0, description="How long streams may finish on an old version before they end with an error event."
    )
    drain_notice_s: float = Field(
        0.0,
        ge=0,
        le=600,
        description="How long `/ready` says 503 after SIGTERM while requests are still taken, for balancers to see it; "
        "a second SIGTERM ends it.",
    )
    shutdown_grace_s: float = Field(
        10.0, ge=0, le=600, description="How long streams may finish after SIGTERM before they end with an error event."
    )
    request_timeout_s: float = Field(600.0, gt=0, description="Bound on silence of an engine within one request.")
    hung_after_s: float = Field(
        10.0,
        ge=2,
        le=3600,
        description="An engine that says nothing for so long, not to `/health` either, hangs: it is ended and started "
        "again.",
    )
    hold_timeout_s: float = Field(
        30.0, ge=0, le=600, description="How long a request waits for an engine that is being restarted before a 503."
    )
    max_held: int = Field(256, ge=0, description="Requests that may wait so; more get 503 at once.")
    keep_previous: bool = Field(True, description="Keep the previous version's engine warm where memory allows.")
    min_free_bytes: int = Field(
        500_000_000, ge=0, description="Memory to leave free when an engine is started beside another."
    )
    require_manifest: bool = Field(False, description="Refuse versions that were not published by Relay.")
    require_golden: bool = Field(False, description="Refuse versions without golden answers.")


class EvaluateSettings(Section):
    """Scoring versions on a test set, by the engine that would serve them."""

    test_set: Path | None = Field(
        None,
        description="JSONL file of the one fixed test set. Unset: the promoter compares `promoter` policy's metric.",
    )
    sample: int | None = Field(
        None,
        ge=10,
        description="How many items of it are drawn anew for each decision. Unset: all, every time.",
    )
    deadline_s: float = Field(3600.0, gt=0, description="Bound on one evaluation; then its engine is killed.")
    ask_timeout_s: float = Field(300.0, gt=0, description="Bound on one answer.")
    num_at_once: int = Field(32, ge=1, le=1024, description="Items that are asked at the same time.")
    when_gpu_is_full: Literal["wait", "cpu"] = Field(
        "wait", description="`wait`: try again later; `cpu`: score there, which other scores cannot be compared with."
    )
    min_free_bytes: int = Field(
        1_000_000_000, ge=0, description="GPU memory that stays free for a trainer beside the engine."
    )
    cache_dir: Path | None = Field(
        None, description="Where versions' files are kept. Unset: `evaluation` below `serve.cache_dir`."
    )
    max_cache_bytes: int = Field(20_000_000_000, gt=0, description="Bound on that.")


class PromoterSettings(Section):
    """The promoter."""

    policy: Path | None = Field(None, description="YAML file of the policy. Unset: its defaults.")
    interval_s: float = Field(5.0, gt=0, le=3600, description="Seconds between two passes.")
    silent_after_s: float = Field(
        120.0, gt=0, description="A server whose heartbeat is older is an alert, and never a reason to move."
    )
    forget_servers_after_days: float = Field(
        7.0,
        gt=0,
        description="A server that is silent for longer is forgotten; it is back when it writes again.",
    )


class ClientSettings(Section):
    """`PredictionClient` as `get_client()` makes it."""

    base_url: str = Field("", description="The server to ask. Unset: this machine's own, at `serve.port`.")


class StackSettings(Section):
    """`relay up`: everything on one box."""

    data_dir: Path = Field(Path("mlruns"), description="MLflow's database, the S3 server's files and all logs.")
    mlflow_port: int = Field(5000, ge=0, le=65535, description="Port of MLflow; 0 takes a free one.")
    s3_port: int = Field(9000, ge=0, le=65535, description="Port of the S3 server; 0 takes a free one.")
    bucket: str = Field(
        "relay", description="Bucket of the checkpoints.", pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$"
    )
    start_timeout_s: float = Field(120.0, gt=0, description="Bound on the start of each server.")
