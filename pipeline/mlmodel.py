"""`MLmodel` and its companions, written by hand: what MLflow's own loaders need to load a version that we published.

`mlflow.transformers.log_model` is not used: it copies the whole folder, uploads pickles, and breaks with new
transformers. The result loads with `mlflow.transformers.load_model` and `mlflow.pyfunc.load_model`.
Source: https://mlflow.org/docs/latest/ml/model/ (MLmodel format) and https://mlflow.org/docs/latest/ml/model/signatures/
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import yaml

from pipeline.checkpoint import Checkpoint
from registry_hooks import contract
from registry_hooks.records import DraftPlace

CHAT_TASK = "llm/v1/chat"
COMPLETIONS_TASK = "llm/v1/completions"
_CONDA_FILE, _PYTHON_ENV_FILE, _REQUIREMENTS_FILE = "conda.yaml", "python_env.yaml", "requirements.txt"
_WRITTEN_AS = "3.17.2"  # the MLflow whose format this is; MLflow itself need not be installed to publish
_PACKAGES = ("mlflow", "torch", "transformers", "safetensors", "accelerate")


def companions(checkpoint: Checkpoint, place: DraftPlace, *, name: str) -> Mapping[str, bytes]:
    """The small files that make a folder of weights an MLflow model, by their path below the artifact root.

    Args:
        name: The registered model; shown as the source of the model, in place of the path on the training box.
    """
    requirements = [_pinned(package) for package in _PACKAGES]
    python = platform.python_version()
    conda = {
        "name": "mlflow-env",
        "channels": ["conda-forge"],
        "dependencies": [f"python={python}", "pip", {"pip": requirements}],
    }
    python_env = {
        "python": python,
        "build_dependencies": ["pip", "setuptools", "wheel"],
        "dependencies": [f"-r {_REQUIREMENTS_FILE}"],
    }
    return {
        contract.MLMODEL_FILE: _yaml(_mlmodel(checkpoint, place, name)),
        _REQUIREMENTS_FILE: "".join(f"{line}\n" for line in requirements).encode(),
        _CONDA_FILE: _yaml(conda),
        _PYTHON_ENV_FILE: _yaml(python_env),
    }


def _mlmodel(checkpoint: Checkpoint, place: DraftPlace, name: str) -> dict[str, Any]:
    task = CHAT_TASK if checkpoint.has_chat_template else COMPLETIONS_TASK
    transformers = {
        "code": None,
        "components": ["tokenizer"],
        "inference_task": task,
        "instance_type": "TextGenerationPipeline",
        "model_binary": contract.MODEL_DIR,
        "pipeline_model_type": checkpoint.architecture,
        "source_model_name": name,
        "task": "text-generation",
        "tokenizer_type": checkpoint.tokenizer_class,
        "torch_dtype": f"torch.{checkpoint.dtype}",
        "transformers_version": checkpoint.transformers_version,
    }
    pyfunc = {
        "env": {"conda": _CONDA_FILE, "virtualenv": _PYTHON_ENV_FILE},
        "loader_module": "mlflow.transformers",
        "python_version": platform.python_version(),
    }
    return {
        "artifact_path": place.artifact_uri,
        "flavors": {"python_function": pyfunc, "transformers": transformers},
        "is_signature_from_type_hint": False,
        "metadata": {"task": task},
        "mlflow_version": _WRITTEN_AS,
        "model_id": place.model_id,
        "model_uuid": place.model_id,
        "prompts": None,
        "run_id": place.run_id,
        "signature": _signature(task),
        "type_hint_from_example": False,
        "utc_time_created": checkpoint.saved_at.strftime("%Y-%m-%d %H:%M:%S.%f"),
    }


def _signature(task: str) -> dict[str, str | None]:
    """Columns in and out of `pyfunc`, in the words of MLflow's model signatures: the part that language models use."""
    message = _object(
        role=_type("string"), content=_type("string", required=False), name=_type("string", required=False)
    )
    options = [
        _column("temperature", _type("double", required=False)),
        _column("max_tokens", _type("long", required=False)),
        _column("stop", _list(_type("string"), required=False)),
        _column("n", _type("long", required=False)),
        _column("stream", _type("boolean", required=False)),
        _column("top_p", _type("double", required=False)),
    ]
    usage = _object(
        **{key: _type("long", required=True) for key in ("completion_tokens", "prompt_tokens", "total_tokens")}
    )
    if task == CHAT_TASK:
        asked = _column("messages", _list(message, required=True))
        answered: dict[str, Any] = {"message": message}
    else:
        asked = _column("prompt", _type("string"))
        answered = {"text": _type("string")}
    choice = _object(index=_type("long"), finish_reason=_type("string"), **answered)
    outputs = [
        *(_column(key, _type("string")) for key in ("id", "object", "model")),
        _column("created", _type("long")),
        _column("choices", _list(choice, required=True)),
        _column("usage", {**usage, "required": False}),
    ]
    return {"inputs": json.dumps([asked, *options]), "outputs": json.dumps(outputs), "params": None}


def _type(name: str, *, required: bool = True) -> dict[str, Any]:
    return {"type": name, "required": required}


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": True}


def _list(item: dict[str, Any], *, required: bool) -> dict[str, Any]:
    return {"type": "array", "items": {k: v for k, v in item.items() if k != "required"}, "required": required}


def _column(name: str, kind: dict[str, Any]) -> dict[str, Any]:
    return {**kind, "name": name}


def _pinned(package: str) -> str:
    """`package==version` as installed on this box, which trained the checkpoint; the bare name when it is not here."""
    try:
        return f"{package}=={metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return package


def _yaml(document: object) -> bytes:
    text: str = yaml.safe_dump(document, sort_keys=True, allow_unicode=True, width=120)
    return text.encode()
