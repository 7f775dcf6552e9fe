"""Where a prompt ends and its answer begins, in token ids, as lm-evaluation-harness draws that border."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from registry_hooks.errors import NotACheckpointError

TOKENIZER_FILE = "tokenizer.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A text in two parts.

    Attributes:
        answer_ids: Never empty.
    """

    context_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]

    @property
    def ids(self) -> list[int]:
        """The whole text."""
        return [*self.context_ids, *self.answer_ids]


class Tokens:
    """The tokenizer of a checkpoint, without torch and transformers.

    Args:
        folder: The checkpoint.

    Raises:
        NotACheckpointError: It has no tokenizer.json, or one that is none.
    """

    def __init__(self, folder: Path) -> None:
        # Comes with the extra `engine`, as the engine itself does: the command line starts without it.
        from tokenizers import Tokenizer

        path = folder / TOKENIZER_FILE
        if not path.is_file():
            raise NotACheckpointError(
                f"{folder} has no {TOKENIZER_FILE}: nothing was evaluated; save it with a fast tokenizer"
            )
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise NotACheckpointError(f"{path} is no tokenizer ({error}): nothing was evaluated") from error
        self._tokenizer.no_truncation()  # what training had set must not cut a question
        self._tokenizer.no_padding()

    def plain(self, text: str) -> list[int]:
        """Ids of a text that is ready as it stands: a chat by its template, or a part of a text."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def prompt(self, text: str) -> list[int]:
        """Ids of a plain prompt, with what the tokenizer adds to every text."""
        return list(self._tokenizer.encode(text, add_special_tokens=True).ids)


def pair_of_prompt(encode: Callable[[str], list[int]], prompt: str, answer: str) -> Pair:
    """Prompt and answer as lm-evaluation-harness does it: spaces at the end of the prompt belong to the answer.

    Source: `lm_eval.api.model.TemplateLM._encode_pair`, version 0.4.13.
    """
    context = prompt.rstrip()
    return _split(encode, context, prompt[len(context) :] + answer)


def pair_of_chat(encode: Callable[[str], list[int]], text: str, answer: str) -> Pair:
    """A chat by its template, and its answer: the server's prompt ends where the template ends, spaces and all."""
    return _split(encode, text, answer)


def _split(encode: Callable[[str], list[int]], context: str, answer: str) -> Pair:
    context_ids, whole_ids = encode(context), encode(context + answer)
    answer_ids = whole_ids[len(context_ids) :]
    if not answer_ids:  # the answer has melted into the prompt's last token; a sum over no tokens is no score
        answer_ids = encode(answer)
    return Pair(context_ids=tuple(context_ids), answer_ids=tuple(answer_ids))
