"""Asks every check at once, each within a bound, whatever the others find."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from queue import Empty, SimpleQueue

from pipeline.doctor import machine_checks, package_checks, registry_checks, store_checks
from pipeline.doctor.finding import Check, Finding, Role, failed, without_secrets
from registry_hooks.errors import RelayError
from registry_hooks.settings import Settings

CHECK_TIMEOUT_S = 5.0
CHECKS: tuple[Check, ...] = (
    *registry_checks.CHECKS,
    *store_checks.CHECKS,
    *machine_checks.CHECKS,
    *package_checks.CHECKS,
)
_SECRET_VARIABLES = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
)


def examine(
    settings: Settings,
    *,
    role: Role,
    checks: Sequence[Check] = CHECKS,
    timeout_s: float = CHECK_TIMEOUT_S,
    environ: Mapping[str, str] = os.environ,
) -> list[Finding]:
    """What all checks for a box of this role find, in their order; returns within `timeout_s`, give or take little.

    No finding holds a secret.
    """
    deadline = time.monotonic() + timeout_s
    asked = [(check, _begin(check, settings)) for check in checks if role in check.roles]
    found = [finding for check, answer in asked for finding in _wait(check, answer, deadline, timeout_s)]
    secrets = list(_secrets(settings, environ))
    return [without_secrets(finding, secrets) for finding in found]


def _begin(check: Check, settings: Settings) -> SimpleQueue[Sequence[Finding]]:
    answer: SimpleQueue[Sequence[Finding]] = SimpleQueue()
    # A daemon: a check that never returns must not keep the program from ending.
    threading.Thread(target=lambda: answer.put(_ask(check, settings)), name=f"doctor {check.name}", daemon=True).start()
    return answer


def _ask(check: Check, settings: Settings) -> Sequence[Finding]:
    try:
        return check.ask(settings)
    except RelayError as error:
        return [failed(check.name, str(error), check.mend_silence)]
    except Exception as error:  # noqa: BLE001 - one check that fails must not take the others' answers with it
        what = f"the check itself failed: {type(error).__name__}: {error}"
        return [failed(check.name, what, "please report this as a bug of Relay")]


def _wait(check: Check, answer: SimpleQueue[Sequence[Finding]], deadline: float, timeout_s: float) -> Sequence[Finding]:
    try:
        return answer.get(timeout=max(0.001, deadline - time.monotonic()))
    except Empty:
        return [failed(check.name, f"no answer within {timeout_s:g} s", check.mend_silence)]


def _secrets(settings: Settings, environ: Mapping[str, str]) -> Iterable[str]:
    if settings.serve.api_key is not None:
        yield settings.serve.api_key.get_secret_value()
    yield from (environ[name] for name in _SECRET_VARIABLES if environ.get(name))
