"""Settings: one YAML file, over it `RELAY_…`, over it the command line; `MLFLOW_*` and `AWS_*` fill what stays unset.

Every key has its unit in its name. An unknown key is refused with the nearest right one.
"""

from __future__ import annotations

import difflib
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError

from registry_hooks import command_template
from registry_hooks.errors import SettingsError

ENV_PREFIX = "RELAY_"
ENV_CONFIG = "RELAY_CONFIG"

LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")
DEFAULT_TRACKING_URI = "http://127.0.0.1:5000"

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


def _user_cache_dir() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "relay"


def _host_name() -> str:
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in socket.gethostname().split(".")[0]) or "server"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class RegistrySettings(_Section):
    """The MLflow registry."""

    name: str = Field("relay-demo", description="Registered model: one per product line.", pattern=r"^[^/:@]+$")
    alias: str = Field("Production", description="The alias that servers follow. Case matters.", pattern=r"^[\w\-]+$")
    tracking_uri: str = Field(
        "", description="MLflow server. Unset: `MLFLOW_TRACKING_URI`, else `http://127.0.0.1:5000`."
    )
    experiment: str = Field("relay", description="Experiment of the training runs that `relay publish` makes itself.")
    score_metric: str = Field("eval_loss", description="The metric that `/models/info` and deployments call the score.")
    timeout_s: float = Field(3.0, gt=0, le=120, description="Bound on one read of the registry.")
    write_timeout_s: float = Field(20.0, gt=0, le=300, description="Bound on one write to the registry.")


class StoreSettings(_Section):
    """The S3 store. Credentials come from `AWS_*` or the usual AWS files, never from here."""

    endpoint_url: str = Field("", description="S3 endpoint. Unset: `MLFLOW_S3_ENDPOINT_URL`, else AWS's own.")
    connect_timeout_s: float = Field(3.0, gt=0, le=60, description="Bound on opening a connection.")
    read_timeout_s: float = Field(20.0, gt=0, le=600, description="Bound on silence while reading.")
    num_connections: int = Field(4, ge=1, le=64, description="Parallel ranges while fetching, parts while publishing.")


class PublishSettings(_Section):
    """Publishing."""

    dtype: Dtype = Field("auto", description="Publish a copy converted to this dtype; `auto` publishes as saved.")
    golden_prompts: tuple[str, ...] = Field(
        (), description="Prompts of the golden set. Unset: a few general ones that any language model can score."
    )


class EngineSettings(_Section):
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


class ServeSettings(_Section):
    """The gateway."""

    host: str = Field("127.0.0.1", description="Address to bind. Other than loopback needs `api_key`.")
    port: int = Field(8765, ge=0, le=65535, description="Port; 0 takes a free one.")
    public_url: str = Field(
        "", description="What other machines call this server, for `relay status`. Unset: its host and port."
    )
    server_name: str = Field(
        default_factory=_host_name, description="Name of this server in the registry. Unset: the host's name."
    )
    api_key: SecretStr | None = Field(
        None, description="Bearer key for `/v1/*` and `/models/reload`. Best set as `RELAY_SERVE__API_KEY`."
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
    shutdown_grace_s: float = Field(
        10.0, ge=0, le=600, description="How long streams may finish after SIGTERM before they end with an error event."
    )
    request_timeout_s: float = Field(600.0, gt=0, description="Bound on silence of an engine within one request.")
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


class EvaluateSettings(_Section):
    """Scoring versions on a test set, by the engine that would serve them."""

    test_set: Path | None = Field(
        None,
        description="JSONL file of the one fixed test set. Unset: the promoter compares `promoter` policy's metric.",
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


class PromoterSettings(_Section):
    """The promoter."""

    policy: Path | None = Field(None, description="YAML file of the policy. Unset: its defaults.")
    interval_s: float = Field(5.0, gt=0, le=3600, description="Seconds between two passes.")


class StackSettings(_Section):
    """`relay up`: everything on one box."""

    data_dir: Path = Field(Path("mlruns"), description="MLflow's database, the S3 server's files and all logs.")
    mlflow_port: int = Field(5000, ge=0, le=65535, description="Port of MLflow; 0 takes a free one.")
    s3_port: int = Field(9000, ge=0, le=65535, description="Port of the S3 server; 0 takes a free one.")
    bucket: str = Field(
        "relay", description="Bucket of the checkpoints.", pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$"
    )
    start_timeout_s: float = Field(120.0, gt=0, description="Bound on the start of each server.")


class Settings(_Section):
    """All settings."""

    registry: RegistrySettings = Field(default_factory=RegistrySettings)
    store: StoreSettings = Field(default_factory=StoreSettings)
    publish: PublishSettings = Field(default_factory=PublishSettings)
    engine: EngineSettings = Field(default_factory=EngineSettings)
    serve: ServeSettings = Field(default_factory=ServeSettings)
    evaluate: EvaluateSettings = Field(default_factory=EvaluateSettings)
    promoter: PromoterSettings = Field(default_factory=PromoterSettings)
    stack: StackSettings = Field(default_factory=StackSettings)

    @property
    def tracking_uri(self) -> str:
        """Where MLflow is, after the fallbacks."""
        return self.registry.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_TRACKING_URI

    @property
    def s3_endpoint_url(self) -> str | None:
        """Where S3 is, after the fallbacks; None for AWS itself."""
        return self.store.endpoint_url or os.environ.get("MLFLOW_S3_ENDPOINT_URL") or None


def load(
    config: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    *,
    overrides: Mapping[str, Mapping[str, object]] | None = None,
) -> Settings:
    """Read the settings: defaults, then the YAML file, then `RELAY_SECTION__KEY` of the environment, then `overrides`.

    Args:
        config: The file; None takes `RELAY_CONFIG`, else `configs/local.yaml` of this folder if it is there.
        environ: The environment.
        overrides: What the command line says, by section and key; None values are passed over.

    Raises:
        SettingsError: A file that cannot be read, an unknown key (the nearest right one is named), a bad value.
    """
    path = config or (Path(environ[ENV_CONFIG]) if environ.get(ENV_CONFIG) else None)
    default = Path("configs/local.yaml")
    if path is None and default.is_file():
        path = default
    values = _read_yaml(path) if path else {}
    origin = {section: str(path) for section in values}
    for section, key, value in _from_environment(environ):
        values.setdefault(section, {})[key] = value
        origin[section] = f"{origin[section]} and the environment" if section in origin else "the environment"
    for section, keys in (overrides or {}).items():
        for key, value in keys.items():
            if value is not None:
                values.setdefault(section, {})[key] = value
                origin[section] = "the command line"
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise SettingsError(_explain(error, origin)) from error


def known_keys() -> dict[str, dict[str, Any]]:
    """Every section and key, with the pydantic field behind it, for the docs and for error messages."""
    return {
        section: dict(field.annotation.model_fields)
        for section, field in Settings.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    }


def _read_yaml(path: Path) -> dict[str, dict[str, Any]]:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"settings file {path} cannot be read: {error}") from error
    document = {} if document is None else document
    if not isinstance(document, dict) or not all(isinstance(v, dict) for v in document.values() if v is not None):
        raise SettingsError(
            f"settings file {path} must hold sections with keys below them, such as `serve: {{port: 8765}}`"
        )
    return {str(section): dict(keys or {}) for section, keys in document.items()}


def _from_environment(environ: Mapping[str, str]) -> Iterator[tuple[str, str, Any]]:
    for variable, text in sorted(environ.items()):
        if not variable.startswith(ENV_PREFIX) or variable == ENV_CONFIG:
            continue
        section, separator, key = variable.removeprefix(ENV_PREFIX).lower().partition("__")
        if not separator:
            raise SettingsError(_unknown(f"{section}", f"environment variable {variable}", as_variable=True))
        yield section, key, yaml.safe_load(text) if text.startswith("[") else text


def _explain(error: ValidationError, origin: Mapping[str, str]) -> str:
    lines = []
    for problem in error.errors(include_url=False, include_input=False):
        place = ".".join(str(part) for part in problem["loc"])
        where = origin.get(str(problem["loc"][0]), "the defaults") if problem["loc"] else "the settings"
        if problem["type"] == "extra_forbidden":
            lines.append(_unknown(place, where))
        else:
            lines.append(f"{place} (from {where}): {problem['msg'].removeprefix('Value error, ')}")
    return "; ".join(lines)


def _unknown(place: str, where: str, *, as_variable: bool = False) -> str:
    names = [
        name for section, keys in known_keys().items() for name in (section, *(f"{section}.{key}" for key in keys))
    ]
    wanted = place.replace("__", ".")
    near = difflib.get_close_matches(wanted, names, n=1, cutoff=0.5)
    if not near:  # a right key in a wrong section, or without any
        tail = wanted.rpartition(".")[2]
        near = [name for name in names if name.rpartition(".")[2] == tail][:1]
    spelled = [ENV_PREFIX + name.upper().replace(".", "__") if as_variable else name for name in near]
    hint = f"; did you mean {spelled[0]}?" if spelled else f"; sections are {', '.join(known_keys())}"
    return f"{place} ({where}): unknown key, nothing was started{hint}"
