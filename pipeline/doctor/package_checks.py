"""Are Python and the packages of versions that Relay is tested with?"""

from __future__ import annotations

import importlib.metadata
import platform
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.doctor.finding import Check, Finding, failed, ok, warning
from registry_hooks.settings import Settings

FIRST_PYTHON = (3, 11)


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """A package, and the versions of it that will do, as `pyproject.toml` says.

    Attributes:
        below: The first version that will not do any more; empty for no bound.
        extra: Which `relay-cd[…]` brings it.
    """

    package: str
    at_least: tuple[int, ...]
    below: tuple[int, ...] = ()
    extra: str

    @property
    def requirement(self) -> str:
        """As pip reads it."""
        upper = f",<{_dotted(self.below)}" if self.below else ""
        return f"{self.package}>={_dotted(self.at_least)}{upper}"


ENGINE_NEEDS = (
    Need(package="torch", at_least=(2, 9), extra="engine"),
    Need(package="transformers", at_least=(5, 20), below=(6,), extra="engine"),
    Need(package="safetensors", at_least=(0, 6), extra="engine"),
)


def python(settings: Settings) -> Sequence[Finding]:
    """Whether this Python is new enough."""
    what = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info[:2] < FIRST_PYTHON:
        return [failed("python", f"{what}; Relay needs 3.11", "make the environment anew with Python 3.11 or later")]
    return [ok("python", what)]


def packages(settings: Settings) -> Sequence[Finding]:
    """Whether an engine can run here; a foreign `engine.command` brings its own packages."""
    if settings.engine.command:
        return [ok("packages", "engine.command runs another program, which brings its own packages")]
    return [package_finding(need, installed(need.package)) for need in ENGINE_NEEDS]


def package_finding(need: Need, version: str | None) -> Finding:
    """Judge the installed version of a package; None for not installed."""
    install = f"pip install 'relay-cd[{need.extra}]'"
    if version is None:
        what = "not installed, so no engine can run here: nothing can be served, nor golden answers recorded"
        return failed(need.package, what, install)
    numbers = tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])
    if numbers < need.at_least:
        return failed(need.package, f"{version}; Relay needs {need.requirement}", f"pip install '{need.requirement}'")
    if need.below and numbers >= need.below:
        what = f"{version}, which Relay does not know; it is tested with {need.requirement}"
        return warning(need.package, what, f"pip install '{need.requirement}'")
    return ok(need.package, version)


def installed(package: str) -> str | None:
    """The version that is installed here; None for none. Nothing is imported."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)


CHECKS = (
    Check(name="python", ask=python, mend_silence="check that the disk answers: df -h"),
    Check(name="packages", ask=packages, mend_silence="check that the disk answers: df -h"),
)
