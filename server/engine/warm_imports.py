"""What a spare imports ahead of its spec, so that a load later costs only the weights."""

from __future__ import annotations

import importlib

# transformers imports a family's code when a config first asks for it: 10-50 ms each, more on a cold disk.
_FAMILIES = ("qwen3", "qwen2", "llama", "mistral", "gemma3", "phi3", "gpt2")
_SERVING = (
    "transformers.generation.utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.tokenization_utils_tokenizers",
    "jinja2.sandbox",
    "server.engine.api",
)


def touch() -> None:
    """Import all that serving a common model needs. A family that this transformers lacks is left out."""
    for module in _SERVING:
        importlib.import_module(module)
    for family in _FAMILIES:
        try:
            importlib.import_module(f"transformers.models.{family}.modeling_{family}")
        except ModuleNotFoundError:
            continue
