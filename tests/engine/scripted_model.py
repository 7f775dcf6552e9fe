"""A model whose words the test chooses."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from server.engine.asks import Ask, Event, Finished, TokenMade
from server.engine.loading import LoadedModel


def saying(text: str, *, reason: str = "length") -> Callable[[LoadedModel, Ask], Iterator[list[Event]]]:
    """A model that says `text`, byte by byte, whatever it is asked."""

    def generate(loaded: LoadedModel, _: Ask) -> Iterator[list[Event]]:
        for token_id in loaded.tokenizer(text).input_ids:
            yield [TokenMade(token_id=token_id)]
        yield [Finished(reason=reason)]  # type: ignore[arg-type]

    return generate
