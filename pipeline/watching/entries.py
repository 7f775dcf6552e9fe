"""One staged checkpoint on disk: a folder that holds links to its files, and a paper that says where it came from.

```
checkpoint-500.k2v0x9qa/     the entry
├── entry.json               its paper
└── checkpoint-500/          what is published; its name tells the step, as the trainer's folder does
```
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.code_state import CodeState
from pipeline.watching import stageable
from registry_hooks import durable
from registry_hooks.errors import CorruptFileError

PAPER_FILE = "entry.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """What only they know who stage a save.

    Attributes:
        parent_run_id: The training run; None for one that is made.
        code_dir: Work tree of the training code.
        code: Its state when the training began; None asks git when the save is staged.
        arguments: Of the training; None where nobody can ask it.
        base: The model that adapters are merged into.
    """

    parent_run_id: str | None = None
    code_dir: Path = field(default_factory=Path)
    code: CodeState | None = None
    arguments: Mapping[str, Any] | None = None
    base: Path | None = None


class Paper(BaseModel):
    """What `entry.json` says.

    Attributes:
        name: Of the trainer's folder, and of the one in the entry.
        origin: The trainer's folder, which may be gone by now.
        code_dir: Work tree of the training code.
        code: Its state when it trained this; None in papers from before that was asked.
        arguments: Of the training, where it told them.
        base: The model that this, an adapter, is merged into.
        files: Size in bytes and mtime in nanoseconds of each file when it was staged.
        failed_because: Why it was given up; None while it waits.
    """

    model_config = ConfigDict(frozen=True)

    name: str = Field(pattern=r"^[^/.][^/]*$")
    origin: Path
    step: int = Field(ge=0)
    staged_at: datetime
    parent_run_id: str | None = None
    code_dir: Path = Path()
    code: CodeState | None = None
    arguments: dict[str, Any] | None = None
    base: Path | None = None
    files: dict[str, tuple[int, int]]
    failed_because: str | None = None

    def to_json(self) -> bytes:
        return self.model_dump_json(indent=2).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A staged checkpoint."""

    folder: Path
    paper: Paper

    @property
    def checkpoint(self) -> Path:
        """The folder that is published."""
        return self.folder / self.paper.name

    @property
    def paper_path(self) -> Path:
        return self.folder / PAPER_FILE

    @property
    def age_key(self) -> tuple[datetime, str]:
        """Sorts entries, oldest first."""
        return self.paper.staged_at, self.folder.name

    def write_paper(self) -> None:
        """Write `entry.json`, whole or not at all."""
        durable.write_atomically(self.paper_path, self.paper.to_json())

    def given_up(self, because: str) -> Entry:
        """The same with the reason in its paper; nothing is written yet."""
        return replace(self, paper=self.paper.model_copy(update={"failed_because": because}))

    def check_unchanged(self) -> None:
        """Links share their bytes with the trainer's files, so a file that was written over is changed here, too.

        Raises:
            CorruptFileError: A file is not the one that was staged.
        """
        now = stamps(self.checkpoint)
        changed = sorted(name for name, stamp in self.paper.files.items() if now.get(name) != stamp)
        if changed:
            raise CorruptFileError(
                f"{self.paper.name}/{changed[0]} was written over in place after it was staged, so this save was not "
                "published: let every save have a folder of its own"
            )


def read(folder: Path) -> Entry | None:
    """The entry in `folder`; None when it holds none, or went away meanwhile."""
    try:
        paper = Paper.model_validate_json((folder / PAPER_FILE).read_bytes())
    except (OSError, ValidationError):
        return None
    return Entry(folder=folder, paper=paper)


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and mtime of every file of a checkpoint folder that is staged; empty when the folder is gone."""
    found = {}
    try:
        for name in stageable.names_of(folder):
            facts = (folder / name).stat()
            found[name] = (facts.st_size, facts.st_mtime_ns)
    except OSError:
        return {}
    return found


def fingerprint(folder: Path, target: str) -> str:
    """Names the very save in `folder` as far as it goes to `target`, without reading a byte of it.

    Args:
        target: Where it is published; the same save may go to another registered model, too.
    """
    try:
        inode = folder.stat().st_ino
    except OSError:
        inode = 0
    text = f"{target}\n{folder.name}\n{inode}\n{sorted(stamps(folder).items())}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]
