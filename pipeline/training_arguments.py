"""The arguments of a training: which of them make a model another one, and what people see of them.

They come from `training_args.json` in the checkpoint's folder, where the training wrote one
(`TrainingArguments.to_json_string()`); else from `RelayCallback`, which holds them; else there are the few that
`trainer_state.json` tells.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.trainer_state import TrainerState
from registry_hooks.checkpoint_files import read_json_object

TRAINING_ARGS_FILE = "training_args.json"
MAX_SHOWN = 80
_MAX_SHOWN_CHARS = 250
# Arguments of `transformers.TrainingArguments` that leave the weights of a step as they are: places, names, machines,
# what is logged, evaluated, saved and uploaded, and how long the training goes on.
_UNTOLD_PREFIXES = ("eval_", "hub_", "logging_", "push_to_hub", "save_", "torch_compile", "trackio_")
_UNTOLD_ENDINGS = ("_token",)
_LENGTHS = ("max_steps", "num_train_epochs")
_UNTOLD = frozenset(
    {
        *_LENGTHS,
        *("output_dir", "overwrite_output_dir", "run_name", "project", "report_to", "resume_from_checkpoint"),
        *("local_rank", "_n_gpu", "use_cpu", "no_cuda", "use_mps_device", "debug", "disable_tqdm"),
        *("ddp_backend", "ddp_timeout", "ddp_bucket_cap_mb", "ddp_find_unused_parameters", "ddp_broadcast_buffers"),
        *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers"),
        *("dataloader_prefetch_factor", "dataloader_multiprocessing_context", "skip_memory_metrics"),
        *("log_level", "log_level_replica", "log_on_each_node", "do_train", "do_eval", "do_predict"),
        *("evaluation_strategy", "per_device_eval_batch_size", "prediction_loss_only", "batch_eval_metrics"),
        *("include_for_metrics", "include_inputs_for_metrics", "include_tokens_per_second"),
        "include_num_input_tokens_seen",
        *("bf16_full_eval", "fp16_full_eval", "load_best_model_at_end", "metric_for_best_model", "greater_is_better"),
        *("enable_jit_checkpoint", "restore_callback_states_from_checkpoint", "auto_find_batch_size"),
    }
)


def arguments_of(folder: Path, state: TrainerState, told: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """All that is known of the arguments of the training that wrote `folder`.

    Args:
        told: What the training itself said, when it saved; None when nobody asked it.

    Raises:
        NotACheckpointError: `training_args.json` is malformed.
    """
    path = folder / TRAINING_ARGS_FILE
    if path.is_file():
        return read_json_object(path)
    return told or state.arguments


def hashed(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Those that make the model another one; what is off or unset counts as not there."""
    return {key: value for key, value in arguments.items() if _tells(key) and not _is_off(value)}


def shown(arguments: Mapping[str, Any]) -> dict[str, str]:
    """Those that people compare: the hashed ones and the lengths, as far as they are one number or word."""
    return dict(list(_shown(arguments))[:MAX_SHOWN])


def _shown(arguments: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    chosen = hashed(arguments) | {key: arguments[key] for key in _LENGTHS if arguments.get(key) is not None}
    for key, value in sorted(chosen.items()):
        if isinstance(value, str | int | float):
            yield key, str(value)[:_MAX_SHOWN_CHARS]


def _tells(key: str) -> bool:
    return key not in _UNTOLD and not key.startswith(_UNTOLD_PREFIXES) and not key.endswith(_UNTOLD_ENDINGS)


def _is_off(value: Any) -> bool:
    return value is None or value is False or value in ("", [], {})
