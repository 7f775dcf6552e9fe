"""Text that any database takes. Pure."""

from __future__ import annotations

from collections.abc import Mapping

# PostgreSQL refuses NUL; the others come from the ends of logs and help nobody in a tag.
_CONTROLS = dict.fromkeys(number for number in (*range(32), 127) if chr(number) not in "\t\n\r")


def storable(value: object) -> object:
    """The same without control characters and halves of surrogate pairs, in all texts within."""
    if isinstance(value, str):
        return value.translate(_CONTROLS).encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {key: storable(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [storable(one) for one in value]
    return value
