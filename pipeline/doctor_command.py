"""`relay doctor`: ask every check, print what they found, and say by the exit code whether something is wrong."""

from __future__ import annotations

import json
from dataclasses import asdict

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.doctor.examining import examine
from pipeline.doctor.finding import Finding, Role
from pipeline.terminal import terminal
from registry_hooks.settings import Settings

_COLOURS = {"ok": "green", "warning": "yellow", "failed": "red"}


def run(*, settings: Settings, role: Role = "both", as_json: bool = False, console: Console | None = None) -> int:
    """Examine this box.

    Args:
        role: What the box is for; checks that do not matter for it are left out.
        as_json: Print `{"role", "healthy", "findings": [{"name", "verdict", "what", "mend"}]}`.

    Returns:
        Exit code: 1 when a check failed, else 0; warnings do not count.
    """
    console = console or terminal()
    findings = examine(settings, role=role)
    is_healthy = all(finding.verdict != "failed" for finding in findings)
    if as_json:
        document = {"role": role, "healthy": is_healthy, "findings": [asdict(finding) for finding in findings]}
        console.out(json.dumps(document, indent=2), highlight=False)
    else:
        _show(findings, role, console)
    return 0 if is_healthy else 1


def _show(findings: list[Finding], role: Role, console: Console) -> None:
    table = Table(title=f"relay doctor: {role}" + (" boxes" if role == "both" else " box"))
    for heading in ("check", "", "what was found"):
        table.add_column(heading, overflow="fold")  # a command that was cut cannot be used
    for finding in findings:
        colour = _COLOURS[finding.verdict]
        mend = f"\n[bold]→ {escape(finding.mend)}[/bold]" if finding.mend else ""
        table.add_row(finding.name, f"[{colour}]{finding.verdict}[/{colour}]", escape(finding.what) + mend)
    console.print(table)
    num = {verdict: sum(finding.verdict == verdict for finding in findings) for verdict in _COLOURS}
    console.print(f"{num['ok']} ok, {num['warning']} to look at, {num['failed']} failed", highlight=False)
