"""transformers' own loading, held to the letter: only the listed files, every tensor in its place, no code run."""

from __future__ import annotations

import contextlib
import errno
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from registry_hooks.checkpoint_files import CONFIG_FILE, CheckpointFiles
from registry_hooks.errors import NotACheckpointError, RelayError, SettingsError
from registry_hooks.weights import TensorInfo

# Constants that old saves of GPT-2 and GPT-NeoX hold, and that every model computes for itself: by name, and by how
# many dimensions they have, so that a trained tensor of that name is none. Source: transformers before 4.30.
_RECOMPUTED = (
    (re.compile(r"(^|\.)(attn|attention)\.masked_bias$"), (0, 1)),
    (re.compile(r"(^|\.)(attn|attention)\.bias$"), (4,)),
    (re.compile(r"(^|\.)rotary_emb\.inv_freq$"), (1,)),
)
# Where a config may name the attention that it was saved with; transformers loads it from the hub if it is no word.
_ATTENTION_KEYS = ("attn_implementation", "_attn_implementation")
_MAX_CAUSES = 10
# A model has about as many parameters as are saved. One that would be much larger is refused before memory is taken
# for it; smaller differences are found, and named, when its tensors are loaded.
_MOST_TIMES, _MOST_MORE = 4, 100_000_000
# What allocators, threads and libraries in Rust say in plain errors when the system has no more to give.
_SIGNS_OF_THE_MACHINE = (
    "out of memory",
    "not enough memory",
    "can't start new thread",
    "CUDA error",
    *(f"(os error {number})" for number in (errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC)),
)


@contextlib.contextmanager
def only_listed(files: CheckpointFiles) -> Iterator[Path]:
    """A folder that holds the files of the checkpoint and nothing else: what lies beside them is not the model.

    Where peft is installed, transformers would load an adapter that lies beside a merged model into it.
    """
    names = {path.name for path in files.folder.iterdir()}
    if names == set(files.files):
        yield files.folder
        return
    with tempfile.TemporaryDirectory(prefix="relay-engine-") as place:
        for name in files.files:
            (Path(place) / name).symlink_to((files.folder / name).resolve())
        yield Path(place)


def load_tokenizer(files: CheckpointFiles, place: Path) -> Any:
    """The tokenizer of the files in `place`.

    Raises:
        NotACheckpointError: It does not load.
        SettingsError: It needs a package that is not installed here.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=True, trust_remote_code=False)
        tokenizer("a")  # settles the truncation state: from now on one thread may encode while another decodes
    except Exception as error:
        raise _why(f"the tokenizer in {files.folder} does not load", error, files, place) from error
    return tokenizer


def load_model(files: CheckpointFiles, place: Path, dtype: torch.dtype) -> Any:
    """The model of the files in `place`, in memory.

    Raises:
        NotACheckpointError: transformers does not know it, or the weights are not exactly those of its config.
        SettingsError: It needs a package that is not installed here.
        RelayError: This machine has not the memory, or its disk or GPU fails.
    """
    _check_known(files)
    transformers_logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(place, local_files_only=True, trust_remote_code=False)
        config.get_text_config().use_cache = True  # the HF Trainer saves false when it checkpoints gradients
        _check_size(files, config)
        model, report = AutoModelForCausalLM.from_pretrained(
            place,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the report then, by name
        )
    except NotACheckpointError:
        raise
    except Exception as error:
        raise _why(f"transformers cannot load {files.folder}", error, files, place) from error
    _check_report(files, report)
    if getattr(model, "_is_stateful", False):
        raise NotACheckpointError(
            f"{files.folder} is a recurrent model ({type(model).__name__}): this engine keeps attention caches only"
        )
    return model.eval()


def _check_size(files: CheckpointFiles, config: Any) -> None:
    with torch.device("meta"):  # no parameter takes memory
        model = AutoModelForCausalLM.from_config(config)
    wanted = sum(parameter.numel() for parameter in model.parameters())
    if wanted > _MOST_TIMES * files.num_parameters + _MOST_MORE:
        raise NotACheckpointError(
            f"the weights in {files.folder} are not those of its config: it asks for {wanted:,} parameters, and "
            f"{files.num_parameters:,} are there; nothing was loaded: save model and config together"
        )


def _check_known(files: CheckpointFiles) -> None:
    """A config that names code may need none: fine-tunes keep that line when transformers has the model itself."""
    model_type = files.config.get("model_type")
    if CONFIG_FILE in files.files_with_auto_map and model_type not in CONFIG_MAPPING:
        raise NotACheckpointError(
            f"{files.folder / CONFIG_FILE} has auto_map and the model_type {model_type!r}, which transformers does not "
            "know: it wants Python code of its own run, which Relay never does; nothing was loaded or published: "
            "use an architecture of transformers"
        )
    configs = (files.config, *(part for part in files.config.values() if isinstance(part, dict)))
    named = [str(config.get(key) or "") for config in configs for key in _ATTENTION_KEYS]
    if kernel := next((name for name in named if "/" in name), None):
        raise NotACheckpointError(
            f"{files.folder / CONFIG_FILE} names {kernel[:100]!r} for its attention, a program from the hub, "
            f"which Relay never runs; nothing was loaded or published: remove {' and '.join(_ATTENTION_KEYS)} from it"
        )


def _check_report(files: CheckpointFiles, report: Mapping[str, Any]) -> None:
    for name, saved, wanted in sorted(report.get("mismatched_keys") or ()):
        raise NotACheckpointError(
            f"the weights in {files.folder} are not those of its config: {name} has the shape {list(saved)} where the "
            f"config asks for {list(wanted)}; nothing is served: save model and config together"
        )
    shapes = {tensor.name: tensor for tensor in files.tensors}
    for what in ("missing_keys", "unexpected_keys", "error_msgs"):
        odd = sorted(map(str, report.get(what) or ()))
        if what == "unexpected_keys":
            odd = _but_for_recomputed(odd, shapes)
        if odd:
            raise NotACheckpointError(
                f"the weights in {files.folder} are not those of its config: {len(odd)} {what.replace('_', ' ')}, "
                f"such as {odd[0]}; nothing is served"
            )


def _but_for_recomputed(names: Iterable[str], shapes: Mapping[str, TensorInfo]) -> list[str]:
    def is_recomputed(name: str) -> bool:
        return name in shapes and any(
            pattern.search(name) and len(shapes[name].shape) in dimensions for pattern, dimensions in _RECOMPUTED
        )

    return [name for name in names if not is_recomputed(name)]


def _why(what: str, error: Exception, files: CheckpointFiles, place: Path) -> RelayError:
    """The error of a load that failed: the checkpoint's fault, unless this machine lacks something."""
    first_line = (str(error).strip().splitlines() or [""])[0].replace(str(place), str(files.folder))
    said = f"{what}: {type(error).__name__}: {first_line}"
    if isinstance(error, ImportError):
        return SettingsError(f"{said}; a package is missing on this machine: install it")
    if _is_of_the_machine(error):
        return RelayError(f"{said}; this machine could not load it, which says nothing of the checkpoint")
    return NotACheckpointError(said)


def _is_of_the_machine(error: BaseException | None) -> bool:
    """Whether this machine lacks memory, descriptors, threads or a working disk or GPU; the causes of `error` count."""
    for _ in range(_MAX_CAUSES):
        if isinstance(error, OSError) and error.errno is not None:  # transformers raises plain ones
            return True
        if isinstance(error, MemoryError | torch.OutOfMemoryError | torch.AcceleratorError):
            return True
        if error is None:
            return False
        if any(sign in str(error) for sign in _SIGNS_OF_THE_MACHINE):
            return True
        error = error.__cause__
    return False
