"""docs/registry-contract.md names everything that registry_hooks/contract.py spells, and nothing else."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from registry_hooks import contract

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "registry-contract.md").read_text(encoding="utf-8")


def spelled() -> dict[str, str]:
    """Every name of the contract, with the constant or function that spells it."""
    constants = {name: value for name, value in vars(contract).items() if name.isupper() and name[0] != "_"}
    names = {
        text: constant
        for constant, value in constants.items()
        for text in ([value] if isinstance(value, str) else value)
        if isinstance(text, str)
    }
    experiments = {
        contract.decisions_experiment("NAME"): "decisions",
        contract.deployments_experiment("NAME"): "deployments",
    }
    return {**names, **experiments}


def test_every_name_of_the_contract_stands_in_the_page() -> None:
    missing = {text: constant for text, constant in spelled().items() if f"`{text}" not in PAGE}

    assert not missing


def test_the_page_invents_no_tag() -> None:
    invented = {
        tag
        for tag in re.findall(r"`(relay\.[a-z0-9_.]+)", PAGE)
        if tag not in spelled() and not any(tag.startswith(name) for name in spelled() if name.endswith("."))
    }

    assert not invented


def test_no_other_module_spells_a_name_of_the_contract() -> None:
    """Equal spelling in two places is equal only until one of them changes."""
    elsewhere = [
        f"{path.relative_to(ROOT)}:{node.lineno} spells {node.value!r}"
        for package in ("registry_hooks", "server", "pipeline")
        for path in sorted((ROOT / package).rglob("*.py"))
        if path.name != "contract.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.match(r"relay\.[a-z_]+", node.value)
    ]

    assert not elsewhere, "name it in registry_hooks/contract.py and docs/registry-contract.md:\n" + "\n".join(
        elsewhere
    )
