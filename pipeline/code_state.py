"""The code that trained a checkpoint, as git knows it at one moment: best that of the training, not of the upload."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

_TIMEOUT_S = 10.0
_DUBIOUS = "dubious ownership"


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeState:
    """What git says of a work tree.

    Attributes:
        commit: 40 hex digits; None outside of a work tree, or without a commit.
        is_dirty: Whether files that git knows had changes; files that it does not know, such as the folder of the runs,
            count for nothing. None where there is no commit or no answer.
        trouble: Why nobody knows although there is a work tree, and what to do; empty where there is nothing to say.
    """

    commit: str | None = None
    is_dirty: bool | None = None
    trouble: str = ""


def look(code_dir: Path) -> CodeState:
    """The state of the work tree that `code_dir` is in, now."""
    commit, said = _git(code_dir, "rev-parse", "--verify", "HEAD")
    if commit is None:
        if _DUBIOUS not in said:
            return CodeState()
        return CodeState(
            trouble=f"git reads no work tree of another user, so the commit of {code_dir} is not on record: "
            f"`git config --global --add safe.directory {code_dir.resolve()}`, with the top folder of the work tree"
        )
    changes, _ = _git(code_dir, "status", "--porcelain", "--untracked-files=no")
    return CodeState(commit=commit, is_dirty=bool(changes) if changes is not None else None)


def _git(folder: Path, *arguments: str) -> tuple[str | None, str]:
    """Output of a git command that changes nothing, and its complaints.

    The output is None when git, the work tree or an answer in time is missing.
    """
    environ = os.environ | {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            check=False,
            env=environ,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None, ""
    return (done.stdout.strip() if done.returncode == 0 else None), done.stderr
