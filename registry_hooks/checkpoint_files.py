"""What a folder must hold to be a checkpoint: one inspector for who publishes it and who serves it.

Reads config, index and headers, never the weights. Standard library only.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from registry_hooks import contract, weights
from registry_hooks.errors import NotACheckpointError, SettingsError, UnreadableFileError
from registry_hooks.weights import TensorInfo

CONFIG_FILE = "config.json"
GENERATION_CONFIG_FILE = "generation_config.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
SINGLE_WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
MAX_JSON_BYTES = 16 * 1024 * 1024
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
# What reads a SentencePiece vocabulary when there is no other: package to pip's name for it.
_SENTENCEPIECE_READERS = {"sentencepiece": "sentencepiece", "google.protobuf": "protobuf"}
# A SentencePiece model is a protobuf whose first field is its pieces.
_SENTENCEPIECE_START = b"\x0a"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointFiles:
    """What the files of a checkpoint say of it.

    Attributes:
        files: Names of the files that belong to it, sorted; all else in the folder is somebody else's.
        weight_files: Those of them that hold weights.
        tensors: Of all weight files.
        saved_dtype: The float dtype of most parameters: `float32`, `bfloat16`, `float16` or `float64`.
        files_with_auto_map: Files that name Python code of the checkpoint's own. Nobody runs it.
    """

    folder: Path
    config: Mapping[str, Any]
    tokenizer_config: Mapping[str, Any]
    files: tuple[str, ...]
    weight_files: tuple[str, ...]
    tensors: tuple[TensorInfo, ...]
    saved_dtype: str
    files_with_auto_map: tuple[str, ...]

    @property
    def num_parameters(self) -> int:
        return sum(tensor.num_elements for tensor in self.tensors)

    @property
    def num_weight_bytes(self) -> int:
        return sum(tensor.size_bytes for tensor in self.tensors)

    @property
    def has_chat_template(self) -> bool:
        return "chat_template" in self.tokenizer_config or "chat_template.jinja" in self.files


def inspect(folder: Path) -> CheckpointFiles:
    """Check the files of `folder` and say what they hold.

    Raises:
        NotACheckpointError: A file is missing, malformed, truncated or contradicts another, or weights are pickled,
            quantized or empty: what is wrong, and what to do.
        SettingsError: The checkpoint is whole, but its vocabulary needs a package that this machine has not.
    """
    _check_folder(folder)
    documents = {
        name: read_json_object(folder / name)
        for name in (CONFIG_FILE, GENERATION_CONFIG_FILE, TOKENIZER_CONFIG_FILE)
        if (folder / name).is_file()
    }
    weight_files, tensors = _weights(folder)
    _check_not_empty(folder, tensors)
    _check_vocabulary(folder)
    return CheckpointFiles(
        folder=folder,
        config=documents[CONFIG_FILE],
        tokenizer_config=documents.get(TOKENIZER_CONFIG_FILE, {}),
        files=_belonging(folder, weight_files),
        weight_files=weight_files,
        tensors=tensors,
        saved_dtype=_saved_dtype(folder, tensors),
        files_with_auto_map=tuple(name for name, document in documents.items() if "auto_map" in document),
    )


def read_json_object(path: Path, *, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """A JSON object in a file.

    Raises:
        UnreadableFileError: It cannot be read here and now.
        NotACheckpointError: Malformed, half-written, or longer than `max_bytes`.
    """
    try:
        if path.stat().st_size > max_bytes:
            raise _refused(f"{path} has more than {max_bytes} bytes", "save it again")
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise UnreadableFileError(f"{path} cannot be read ({error}): nothing was loaded or published") from error
    except (ValueError, RecursionError) as error:
        raise _refused(f"{path} cannot be read ({error}): half-written or damaged", "save it again") from error
    if not isinstance(document, dict):
        raise _refused(f"{path} holds no JSON object", "save it again")
    return document


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise _refused(f"{folder} is no folder", "pass a checkpoint folder")
    if (folder / CONFIG_FILE).is_file():
        return
    if any((folder / name).exists() for name in _ADAPTER_FILES):
        raise _refused(
            f"{folder} holds only a LoRA adapter",
            f"`relay publish {folder} --merge BASE` merges it into the checkpoint folder BASE and publishes the result",
        )
    inner = sorted(path.name for path in folder.glob("checkpoint-*") if path.is_dir())
    hint = f"it holds {', '.join(inner[:3])}: pass one of them" if inner else "pass a folder of `save_pretrained`"
    raise _refused(f"{folder} has no {CONFIG_FILE}, so it is no checkpoint", hint)


def _weights(folder: Path) -> tuple[tuple[str, ...], tuple[TensorInfo, ...]]:
    """Names of the weight files and all their tensors; index and files must tell the same."""
    has_single, has_index = (folder / SINGLE_WEIGHTS).is_file(), (folder / WEIGHTS_INDEX).is_file()
    if has_index:
        names = _indexed_names(folder)
        if has_single and names != (SINGLE_WEIGHTS,):
            raise _refused(
                f"{folder} has both {SINGLE_WEIGHTS} and {WEIGHTS_INDEX}, of which one is left over from another save",
                "remove it",
            )
        return names, _indexed_tensors(folder, names)
    if has_single:
        return (SINGLE_WEIGHTS,), weights.read_header(folder / SINGLE_WEIGHTS)
    raise _refused(*_why_no_weights(folder))


def _weight_map(folder: Path) -> Mapping[str, str]:
    weight_map = read_json_object(folder / WEIGHTS_INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise _refused(f"{folder / WEIGHTS_INDEX} has no weight_map", "save it again")
    return {tensor: str(name) for tensor, name in weight_map.items()}


def _indexed_names(folder: Path) -> tuple[str, ...]:
    names = tuple(sorted(set(_weight_map(folder).values())))
    wrong = [name for name in names if Path(name).name != name or not fnmatch(name, contract.WEIGHTS_PATTERN)]
    missing = [name for name in names if not (folder / name).is_file()]
    if wrong or missing:
        what = "no safetensors file of this folder" if wrong else "not there"
        raise _refused(f"{WEIGHTS_INDEX} of {folder} names {(wrong or missing)[0]}, which is {what}", "save it again")
    return names


def _indexed_tensors(folder: Path, names: Iterable[str]) -> tuple[TensorInfo, ...]:
    weight_map = _weight_map(folder)
    held = [(name, tensor) for name in names for tensor in weights.read_header(folder / name)]
    found = {tensor.name: name for name, tensor in held}
    if found != weight_map or len(found) != len(held):
        odd = sorted({tensor for tensor, _ in found.items() ^ weight_map.items()})
        about = f" about {odd[0]!r}" if odd else ""
        raise _refused(f"{WEIGHTS_INDEX} of {folder} and its files contradict each other{about}", "save it again")
    return tuple(tensor for _, tensor in held)


def _why_no_weights(folder: Path) -> tuple[str, str]:
    """What is there in place of weights, and what to do."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    pickles = [
        name
        for name in names
        if name.startswith(("pytorch_model", "model", "consolidated"))
        and any(fnmatch(name, pattern) for pattern in contract.PICKLE_FILES)
    ]
    if pickles:
        return (
            f"{folder} has its weights only as pickles ({pickles[0]}), which can run code when they are read",
            "save it with `save_pretrained`, which writes safetensors",
        )
    strays = [name for name in names if fnmatch(name, contract.WEIGHTS_PATTERN)]
    if strays:
        return (
            f"{folder} has {strays[0]} but neither {SINGLE_WEIGHTS} nor {WEIGHTS_INDEX}",
            "the save was not finished, or the files were renamed",
        )
    return f"{folder} has no weights ({SINGLE_WEIGHTS})", "save it with `save_pretrained`"


def _check_not_empty(folder: Path, tensors: Iterable[TensorInfo]) -> None:
    """DeepSpeed's ZeRO-3 leaves empty tensors where it was not told to gather the weights."""
    for tensor in tensors:
        if not tensor.num_elements:
            raise _refused(
                f"the tensor {tensor.name} in {folder} is empty (shape {list(tensor.shape)}), as DeepSpeed ZeRO-3 "
                "saves weights that it has not gathered",
                "set stage3_gather_16bit_weights_on_model_save and save again, or make the weights from the "
                "ZeRO checkpoint with zero_to_fp32.py",
            )


def _check_vocabulary(folder: Path) -> None:
    present = [name for name in contract.VOCABULARY_FILES if (folder / name).is_file()]
    if not present:
        raise _refused(
            f"{folder} has no tokenizer ({contract.VOCABULARY_FILES[0]}), so nobody could talk to it",
            "give the Trainer `processing_class=tokenizer`, or `tokenizer.save_pretrained` into the folder",
        )
    if not all(_is_sentencepiece(folder / name) for name in present):
        return
    missing = [pip_name for module, pip_name in _SENTENCEPIECE_READERS.items() if not _is_installed(module)]
    if missing:
        raise SettingsError(
            f"the only vocabulary in {folder} is {present[0]}, a SentencePiece model, and {' and '.join(missing)} "
            f"is not installed here: nothing was loaded or published; `pip install {' '.join(missing)}`, or save the "
            "tokenizer as tokenizer.json (AutoTokenizer.from_pretrained, then save_pretrained, where it is installed)"
        )


def _is_sentencepiece(path: Path) -> bool:
    if path.suffix != ".model":
        return False
    try:
        with path.open("rb") as file:
            return file.read(1) == _SENTENCEPIECE_START
    except OSError as error:
        raise UnreadableFileError(f"{path} cannot be read ({error}): nothing was loaded or published") from error


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package that it would lie in
        return False


def _belonging(folder: Path, weight_files: tuple[str, ...]) -> tuple[str, ...]:
    """The files that are the checkpoint, without weights of something else, such as an adapter that lies beside it."""
    names = contract.published_files(path.name for path in folder.iterdir() if path.is_file())
    return tuple(name for name in names if name in weight_files or not fnmatch(name, contract.WEIGHTS_PATTERN))


def _saved_dtype(folder: Path, tensors: Iterable[TensorInfo]) -> str:
    sizes = Counter[str]()
    for tensor in tensors:
        if tensor.dtype in weights.DTYPE_NAMES:
            sizes[weights.DTYPE_NAMES[tensor.dtype]] += tensor.num_elements
    if not sizes:
        raise _refused(
            f"the weights of {folder} are neither float32, bfloat16 nor float16",
            "Relay serves no quantized checkpoints: save it in one of these",
        )
    return sizes.most_common(1)[0][0]


def _refused(what: str, instead: str) -> NotACheckpointError:
    return NotACheckpointError(f"{what}; nothing was loaded or published: {instead}")
