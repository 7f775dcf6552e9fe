"""Relay's own block in the description of a version; what people wrote around it stays. Pure."""

from __future__ import annotations

from registry_hooks.records import MAX_DESCRIPTION_CHARS

OPENING, CLOSING = "<!-- relay -->", "<!-- /relay -->"
# A block shorter than this says nothing: where people left less room there is none, and the tag tells the reason.
_LEAST_CHARS = 200


def with_block(text: str, block: str) -> str:
    """`text` with `block` in place of the block that Relay wrote before; behind it where there was none.

    Never longer than what MLflow holds: the block is cut then, and nothing that a person wrote.
    """
    before, after = _around(text)
    room = MAX_DESCRIPTION_CHARS - len(before) - len(after) - len(OPENING) - len(CLOSING) - 8
    if room < min(_LEAST_CHARS, len(block)):
        return text
    parts = (before, f"{OPENING}\n\n{block[:room]}\n\n{CLOSING}", after)
    return "\n\n".join(part for part in parts if part)


def _around(text: str) -> tuple[str, str]:
    """What stands before and behind Relay's block; a block without its end is a text of people."""
    begins = text.rfind(OPENING)
    ends = text.find(CLOSING, begins)
    if begins < 0 or ends < 0:
        return text.strip(), ""
    return text[:begins].strip(), text[ends + len(CLOSING) :].strip()
