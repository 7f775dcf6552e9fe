"""The plain recipe as a process that has imported everything and waits for orders: MLflow and from_pretrained.

Orders come as JSON lines on stdin, answers go as JSON lines to stdout; moments are Unix time in seconds.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROMPT = "What is two plus two?"


class PlainRecipe:
    """The process, seen from the benchmark; a context manager that ends it."""

    def __init__(self, env: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, text=True
        )
        self._answer()

    def order(self, **order: str) -> dict[str, Any]:
        """Have something done; what the process says of it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                return answer
        raise RuntimeError("the plain recipe ended without an answer; its errors are above")

    def __enter__(self) -> PlainRecipe:
        return self

    def __exit__(self, *exception: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


def publish(folder: str, name: str) -> dict[str, Any]:
    """Log the folder as artifacts of a run and make a version of them."""
    import mlflow

    client = mlflow.MlflowClient()
    began = time.time()
    experiment = mlflow.set_experiment("plain")
    run = client.create_run(experiment.experiment_id, run_name=name)
    client.log_artifacts(run.info.run_id, folder, "model")
    uploaded = time.time()
    client.log_metric(run.info.run_id, "eval_loss", 11.0)
    client.set_terminated(run.info.run_id)
    client.create_registered_model(name)
    source = f"{run.info.artifact_uri}/model"
    client.create_model_version(name, source, run_id=run.info.run_id, await_creation_for=0)
    return {"upload": uploaded - began, "register": time.time() - uploaded, "uri": source}


def load(name: str, folder: str) -> dict[str, Any]:
    """Download what the alias names, load it, and generate one token."""
    import mlflow
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    local = mlflow.artifacts.download_artifacts(artifact_uri=f"models:/{name}@Production", dst_path=folder)
    downloaded = time.time()
    tokenizer = AutoTokenizer.from_pretrained(local)
    model = AutoModelForCausalLM.from_pretrained(local, dtype="auto")
    loaded = time.time()
    chat = [{"role": "user", "content": PROMPT}]
    inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.inference_mode():
        model.generate(**inputs, max_new_tokens=1, do_sample=False)
    size = sum(path.stat().st_size for path in Path(local).rglob("*") if path.is_file())
    return {"downloaded_at": downloaded, "loaded_at": loaded, "first_token_at": time.time(), "bytes": size}


def main() -> None:
    """Serve orders until stdin ends."""
    import mlflow  # noqa: F401 - all imports before the first order
    import torch  # noqa: F401
    import transformers  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401

    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        orders: dict[str, Callable[..., dict[str, Any]]] = {"publish": publish, "load": load}
        print(json.dumps(orders[order.pop("do")](**order)), flush=True)


if __name__ == "__main__":
    main()
