"""Is MLflow there, does it let us in, and does it know the model?"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from urllib.parse import urlsplit

from pipeline.doctor.clocks import skew_finding
from pipeline.doctor.finding import Check, Finding, failed, ok, warning
from registry_hooks import contract
from registry_hooks.errors import AccessDeniedError, RegistryUnavailableError, UnknownModelError
from registry_hooks.mlflow_registry import MlflowRegistry
from registry_hooks.settings import Settings

FIRST_GOOD, FIRST_UNKNOWN = (3, 17), (4,)
MAX_QUICK_S = 0.5
_QUICK_TIMEOUT_S = 2.0  # the store checks ask here first, and need the rest of their 5 s
START = "start it (`relay up`, or `mlflow server`), or set RELAY_REGISTRY__TRACKING_URI or MLFLOW_TRACKING_URI"


def answers(settings: Settings) -> Sequence[Finding]:
    """Whether MLflow answers, how fast, of which version it is, and whether its clock agrees with ours."""
    with connected(settings) as registry:
        asked, began = datetime.now(UTC), time.monotonic()
        try:
            facts = registry.rest.server_facts()
        except RegistryUnavailableError as error:
            return [failed("registry", str(error), START)]
        took_s, answered = time.monotonic() - began, datetime.now(UTC)
    speed = f"{settings.tracking_uri} answers in {took_s * 1000:.0f} ms"
    slow = warning("registry", f"{speed}, which delays each look at the alias", "use a nearer server, or a better link")
    return [
        ok("registry", speed) if took_s <= MAX_QUICK_S else slow,
        version_finding(facts.version),
        skew_finding("registry clock", theirs=facts.clock, asked=asked, answered=answered),
    ]


def knows_model(settings: Settings) -> Sequence[Finding]:
    """Whether MLflow lets us in, has the registered model, and has the alias that servers follow."""
    name, alias = settings.registry.name, settings.registry.alias
    with connected(settings) as registry:
        try:
            aliases = registry.aliases(name)
        except AccessDeniedError as error:
            return [refused(str(error), settings.tracking_uri)]
        except UnknownModelError:
            what = f"MLflow has no registered model {name!r}"
            return [warning("registered model", what, f"relay publish CHECKPOINT --name {name}")]
        except RegistryUnavailableError as error:
            return [failed("registered model", str(error), START)]
    others = contract.look_alikes(aliases, alias)
    if alias not in aliases:
        seen = f"; it has {', '.join(others)}, and case matters" if others else ""
        what = f"{name} has no alias {alias!r}, so servers have nothing to serve{seen}"
        return [warning("registered model", what, f"set the alias {alias} on a version, in MLflow's page of {name}")]
    if others:
        what = f"{name} has {alias}, and look-alikes that no server follows: {', '.join(others)}"
        return [warning("registered model", what, f"delete the alias {others[0]} in MLflow's page of {name}")]
    return [ok("registered model", f"{name}@{alias} names version {aliases[alias]}")]


def refused(said: str, tracking_uri: str) -> Finding:
    """What a 401 or 403 of MLflow means: it does not know the name by which we call it, or not our password."""
    if "host header" not in said.lower():
        mend = "export MLFLOW_TRACKING_USERNAME=… MLFLOW_TRACKING_PASSWORD=…, or MLFLOW_TRACKING_TOKEN=…"
        return failed("registered model", said, mend)
    host = urlsplit(tracking_uri).hostname or ""
    what = f"MLflow is there and refuses requests that call it {host!r} (its protection against DNS rebinding)"
    mend = f"start it with: mlflow server --allowed-hosts '{host},{host}:*,localhost:*' …"
    return failed("registered model", what, mend)


def version_finding(text: str) -> Finding:
    """Whether that version of the MLflow server is one that Relay is tested with."""
    numbers = tuple(int(part) for part in re.findall(r"\d+", text)[:3])
    what = f"the server is MLflow {text}"
    if not numbers:
        return warning("MLflow version", "the server does not say its version", "check that it is MLflow 3.17 or later")
    if numbers < FIRST_GOOD:
        return failed("MLflow version", f"{what}; Relay needs 3.17", "pip install 'mlflow>=3.17,<4', where it runs")
    if numbers >= FIRST_UNKNOWN:
        return warning("MLflow version", f"{what}, which Relay does not know", "pip install 'mlflow>=3.17,<4' there")
    return ok("MLflow version", what)


@contextmanager
def connected(settings: Settings) -> Iterator[MlflowRegistry]:
    """The registry, with bounds that suit somebody who waits."""
    registry = MlflowRegistry(settings.tracking_uri, timeout_s=min(settings.registry.timeout_s, _QUICK_TIMEOUT_S))
    try:
        yield registry
    finally:
        registry.close()


CHECKS = (
    Check(name="registry", ask=answers, mend_silence=START),
    Check(name="registered model", ask=knows_model, mend_silence=START),
)
