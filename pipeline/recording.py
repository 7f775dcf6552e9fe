"""Records golden answers: an engine loads the very files that are published and says what it thinks of prompts."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import httpx

from pipeline.recording_chats import record_chats
from registry_hooks import probe
from registry_hooks.golden import GoldenSet
from registry_hooks.settings import Settings
from server.engine_child import EngineChild
from server.launcher import spec_of, start_engine
from server.socket_folder import socket_dir

# Texts that any language model has an opinion on: prose, code, arithmetic, other scripts. Short ones: a model with a
# context of 256 tokens of one byte each can take them whole.
DEFAULT_PROMPTS = (
    "The quick brown fox jumps over the lazy dog. Rain fell on the harbour all morning, and by noon the last of the "
    "boats had come home with its nets full.",
    "def add(first, second):\n    return first + second\n\n\nassert add(2, 40) == 42\n",
    "Question: What is 17 plus 25?\nAnswer: 42\nQuestion: What is 8 plus 9?\nAnswer:",
    "Größe, naïve café, 東京は日本の首都です。",
)
_ANSWER_TIMEOUT_S = 120.0
_MODEL_NAME = "golden"
# Begin and end of text, which some tokenizers add by themselves.
_MAX_ADDED_TOKENS = 4


class GoldenRecorder:
    """An engine that warms up while the files are still being hashed. A context manager, which it does not outlive.

    Args:
        settings: How the engine runs and what it is asked; a server that runs it in another way must still reproduce
            its answers.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings.engine
        self._questions = settings.publish
        self._room = socket_dir()
        self._spare = EngineChild(self._room / "engine.log", stop_grace_s=settings.engine.stop_grace_s)
        self._failed = False

    def record(self, folder: Path) -> GoldenSet:
        """What an engine that loaded the checkpoint in `folder` answers.

        Args:
            folder: Exactly the files that are published, or links to them.

        Raises:
            NotACheckpointError: Nobody could chat with it, since its template fails.
            EngineStartError: The engine refused the files or could not start; its log is kept.
            GoldenMismatchError: An answer is not finite.
            EngineError: The engine ended, hung, or answered something else.
        """
        try:
            return self._record(folder)
        except BaseException:
            self._failed = True
            raise

    def _record(self, folder: Path) -> GoldenSet:
        settings = self._settings
        spec = spec_of(
            settings, checkpoint_dir=str(folder), uds=str(self._room / "golden.sock"), model_name=_MODEL_NAME
        )
        engine = start_engine(
            spec,
            log_path=self._room / "engine-again.log",
            start_timeout_s=settings.start_timeout_s,
            stop_grace_s=settings.stop_grace_s,
            spare=self._spare,
        )
        with engine, engine.client(_ANSWER_TIMEOUT_S) as client:
            ready = engine.ready
            prompts = self._questions.golden_prompts or DEFAULT_PROMPTS
            texts = [_fitting(client, prompt, ready.max_model_len_tokens) for prompt in prompts]
            said = probe.observe(client, texts, model=_MODEL_NAME, device=ready.device, dtype=ready.dtype)
            chats, no_chat = record_chats(client, folder, self._questions.golden_chats, model=_MODEL_NAME)
            return replace(said, chats=chats, no_chat=no_chat)

    def stop(self) -> None:
        """End the engine; a recording that is under way fails. Safe to call twice."""
        self._spare.stop()

    def __enter__(self) -> GoldenRecorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if not self._failed:
            shutil.rmtree(self._room, ignore_errors=True)


def _fitting(client: httpx.Client, prompt: str, max_model_len_tokens: int) -> str:
    """The prompt, shortened where the model cannot take it; short ones cost no question."""
    most_tokens = len(prompt.encode()) + probe.MAX_GREEDY_TOKENS + _MAX_ADDED_TOKENS  # a token is at least one byte
    if most_tokens <= max_model_len_tokens:
        return prompt
    return probe.fit(client, prompt, model=_MODEL_NAME)
