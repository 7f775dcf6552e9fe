"""Who answers: what every answer says of the engine that made it."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from server.engine.api_errors import ModelNotFoundError


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The served model's name.

    Attributes:
        fingerprint: `system_fingerprint` of every answer.
        created_s: Unix time of the engine's start.
    """

    model_name: str
    fingerprint: str
    created_s: int = field(default_factory=lambda: int(time.time()))

    def check(self, wanted: str | None) -> None:
        """Accept our name, with or without an alias (`NAME@Alias`) or a version (`NAME/3`) that a gateway has resolved.

        Raises:
            ModelNotFoundError: Another model is wanted.
        """
        if wanted is not None and wanted != self.model_name and not wanted.startswith(self._qualified):
            raise ModelNotFoundError(f"model {wanted!r} is not served here, {self.model_name!r} is", param="model")

    @property
    def _qualified(self) -> tuple[str, str]:
        return (f"{self.model_name}@", f"{self.model_name}/")

    def card(self, max_model_len_tokens: int) -> dict[str, Any]:
        """The entry of `/v1/models`."""
        return {
            "id": self.model_name,
            "object": "model",
            "created": self.created_s,
            "owned_by": "relay",
            "max_model_len": max_model_len_tokens,
            "system_fingerprint": self.fingerprint,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """What all chunks of one answer have in common."""

    answer_id: str
    created_s: int
    identity: Identity

    @classmethod
    def new(cls, prefix: str, identity: Identity) -> Envelope:
        """An envelope with an id of its own."""
        return cls(answer_id=f"{prefix}-{uuid.uuid4().hex}", created_s=int(time.time()), identity=identity)

    def wrap(self, kind: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """One JSON object of the answer."""
        return {
            "id": self.answer_id,
            "object": kind,
            "created": self.created_s,
            "model": self.identity.model_name,
            "system_fingerprint": self.identity.fingerprint,
            "choices": choices,
            **more,
        }
