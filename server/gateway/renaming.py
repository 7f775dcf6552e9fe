"""Another program may call the model by the path of its folder: it is asked under that name, and answers under ours."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from server.gateway.lineup import Slot


def as_asked(slot: Slot, body: bytes) -> bytes:
    """The request as the engine of `slot` wants it."""
    if not slot.engine.ready.model_name:
        return body
    return json.dumps({**json.loads(body), "model": slot.engine.model_name}).encode()


def as_answered(slot: Slot) -> Callable[[bytes], bytes]:
    """What makes an answer of `slot`, or a piece of one, name the registered model in place of a path on this box."""
    if not slot.engine.ready.model_name:
        return lambda piece: piece
    # A quote within a text is escaped, so this is the field. What follows the name is the program's own (`@main`).
    theirs = json.dumps(slot.engine.model_name)[1:-1].encode()
    field = re.compile(rb'"model"\s*:\s*"' + re.escape(theirs) + rb'[^"]*"')
    ours = b'"model": ' + json.dumps(slot.checkpoint.version.name).encode()
    return lambda piece: field.sub(lambda found: ours, piece)
