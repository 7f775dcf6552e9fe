"""`engine.command`: the command line of another OpenAI server, with places for what only Relay knows. Pure.

The template is split into words as a shell would, then each word is filled in: a folder with a space stays one word,
and no shell ever sees it.
"""

from __future__ import annotations

import re
import shlex

PLACES = ("dir", "port", "uds", "name")
_PLACE = re.compile(r"\{([^{}]*)\}")


def check(template: str) -> str:
    """The template, if it is one.

    Raises:
        ValueError: It is no command line, names an unknown place, no `{dir}`, or not exactly one of `{port}`, `{uds}`.
    """
    if not template:
        return template
    try:
        words = shlex.split(template)
    except ValueError as error:
        raise ValueError(f"it is no command line: {error}") from error
    named = {place for word in words for place in _PLACE.findall(word)}
    unknown = sorted(named - set(PLACES))
    if unknown:
        raise ValueError(f"it names {{{unknown[0]}}}; the places are {', '.join(f'{{{place}}}' for place in PLACES)}")
    if "dir" not in named:
        raise ValueError("it must name {dir}, the folder of the checkpoint")
    if len({"port", "uds"} & named) != 1:
        raise ValueError("it must name {port} or {uds}, where the server is to listen, and not both")
    return template


def names(template: str, place: str) -> bool:
    """Whether the template has `{place}` in it."""
    return place in _PLACE.findall(template)


def fill(template: str, **values: str) -> list[str]:
    """The command's words; `values` by place."""
    return [_PLACE.sub(lambda match: values[match[1]], word) for word in shlex.split(template)]
