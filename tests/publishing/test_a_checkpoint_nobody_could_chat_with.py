"""A checkpoint whose chat template fails is refused when it is published, by a real engine; no version is made."""

from __future__ import annotations

from pathlib import Path
from shutil import copytree

import pytest

from pipeline.publishing import PublishOptions, publish
from registry_hooks import golden
from registry_hooks.errors import NotACheckpointError, UnknownModelError
from registry_hooks.memory import MemoryRegistry
from registry_hooks.memory_store import MemoryStore
from registry_hooks.settings import EngineSettings, Settings

pytestmark = pytest.mark.integration
SETTINGS = Settings(engine=EngineSettings(device="cpu", num_threads=1))


class Silent:
    """Nobody watches."""

    def begin(self, stage: str, total_bytes: int) -> None: ...

    def advance(self, stage: str, num_bytes: int) -> None: ...

    def end(self, stage: str, seconds: float) -> None: ...


def test_a_template_that_runs_a_command_makes_no_version_and_a_whole_one_is_recorded(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    registry, store = MemoryRegistry(), MemoryStore()
    broken = copytree(tiny_checkpoint, tmp_path / "checkpoint-20")
    (broken / "chat_template.jinja").write_text("{{ cycler.__init__.__globals__.os.popen('id').read() }}")

    def run(folder: Path) -> None:
        publish(
            folder,
            catalog=registry,
            writer=store,
            settings=SETTINGS,
            options=PublishOptions(),
            progress=Silent(),
        )

    with pytest.raises(NotACheckpointError, match="nobody could chat with this checkpoint"):
        run(broken)
    with pytest.raises(UnknownModelError):
        registry.get_version(SETTINGS.registry.name, 1)
    run(tiny_checkpoint)
    version = registry.get_version(SETTINGS.registry.name, 1)
    recorded = golden.parse(store.read(f"{version.artifact_uri}/golden.json", 1_000_000))

    assert [chat.messages[0][0] for chat in recorded.chats] == ["user"]
    assert recorded.chats[0].prompt_ids
