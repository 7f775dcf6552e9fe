"""Every name that Relay writes into the registry or the store: one module, so that nothing else spells them.

`docs/registry-contract.md` describes the same names for people; a test keeps the two equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatch

# Aliases on the registered model. MLflow's aliases are case-sensitive.
ALIAS_PRODUCTION = "Production"
ALIAS_CANDIDATE = "Candidate"
ALIAS_LAST_GOOD = "LastGood"

# Tags on a model version, set when it is created and never changed.
TAG_STEP = "relay.step"
TAG_CONFIG_HASH = "relay.config_hash"
TAG_GIT_COMMIT = "relay.git_commit"
TAG_GIT_DIRTY = "relay.git_dirty"
TAG_BYTES = "relay.bytes"
TAG_MANIFEST = "relay.manifest_sha256"
TAG_GOLDEN = "relay.golden_sha256"
TAG_DTYPE = "relay.dtype"
TAG_SAVED_AT = "relay.saved_at"
TAG_NONFINITE = "relay.nonfinite_metrics"

# Tags on a model version that change during its life.
TAG_STATE = "relay.state"
TAG_REASON = "relay.reason"
TAG_JUDGED = "relay.judged"
TAG_OF = "relay.of"
TAG_TRIES = "relay.tries"
TAG_REFUSED_PREFIX = "relay.refused."
TAG_DECLINED_PREFIX = "relay.declined."
# What `TAG_STATE` may say. "Promoted" is what the alias says.
STATE_ADMITTED = "admitted"
STATE_REJECTED = "rejected"
STATE_QUARANTINED = "quarantined"

# Tags on the registered model.
TAG_SERVER_PREFIX = "relay.server."
TAG_HOLD = "relay.hold"
TAG_FREEZE = "relay.freeze"
TAG_HOLD_PREFIX = "relay.hold."
TAG_FREEZE_PREFIX = "relay.freeze."
TAG_PROMOTER = "relay.promoter"
TAG_JUDGED_THROUGH = "relay.judged_through"

# Tag on the training run that `relay publish` makes when the Trainer made none.
TAG_TRAINING_KEY = "relay.training_key"
# Tag on a version's run: metrics and params whose names MLflow does not take, as JSON: what it has, what it was called.
TAG_RENAMED = "relay.renamed"
# Tag on a deployment run: why it ended as it did, in one sentence.
TAG_BECAUSE = "relay.because"

# Tag on a version's run, one per test set on which it was scored: JSON that names the file of the scores.
TAG_EVALUATION_PREFIX = "relay.evaluation."
# Folder of those files below the run's artifacts.
EVALUATION_DIR = "evaluation"

# Files of a published version, relative to its artifact root.
MODEL_DIR = "model"
TOKENIZER_DIR = "components/tokenizer"
MANIFEST_FILE = "manifest.json"
GOLDEN_FILE = "golden.json"
MLMODEL_FILE = "MLmodel"
WEIGHTS_PATTERN = "*.safetensors"

# The files that hold a vocabulary: any one of them is enough to build a tokenizer from.
VOCABULARY_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)
# All that the tokenizers of transformers' causal language models read and write.
TOKENIZER_FILES = (
    *VOCABULARY_FILES,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "emoji.json",
    "chat_template.jinja",
)
# What may leave the training box. Optimizer, scheduler, RNG states and pickles never do.
PUBLISHED_FILES = (
    "config.json",
    "generation_config.json",
    *TOKENIZER_FILES,
    WEIGHTS_PATTERN,
    "*.safetensors.index.json",
    "trainer_state.json",
)
PICKLE_FILES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt")


def decisions_experiment(name: str) -> str:
    """The experiment that holds one run per promotion decision of model `name`."""
    return f"{name}/decisions"


def deployments_experiment(name: str) -> str:
    """The experiment that holds one run per reload of a server that follows model `name`."""
    return f"{name}/deployments"


def hold_tag(alias: str) -> str:
    """The registered-model tag that holds `alias`. That of the default alias holds all of them."""
    return TAG_HOLD if alias == ALIAS_PRODUCTION else f"{TAG_HOLD_PREFIX}{alias}"


def freeze_tag(alias: str) -> str:
    """The same for promotions alone."""
    return TAG_FREEZE if alias == ALIAS_PRODUCTION else f"{TAG_FREEZE_PREFIX}{alias}"


def judged_tag(alias: str) -> str:
    """The version tag that says in which decision about `alias` it was judged: each alias has decisions of its own."""
    return _of_alias(TAG_JUDGED, alias)


def tries_tag(alias: str) -> str:
    """The tag of a version, or of the registered model, that says what could not be scored for `alias`."""
    return _of_alias(TAG_TRIES, alias)


def judged_through_tag(alias: str) -> str:
    """The registered-model tag that says up to which number all versions are judged for `alias`."""
    return _of_alias(TAG_JUDGED_THROUGH, alias)


def server_tag(server: str) -> str:
    """The registered-model tag in which server `server` says what it serves."""
    return TAG_SERVER_PREFIX + server


def refused_tag(server: str) -> str:
    """The version tag in which server `server` says why it refused that version."""
    return TAG_REFUSED_PREFIX + server


def declined_tag(server: str) -> str:
    """The version tag in which server `server` says what it asks for beyond others, so that it does not serve it."""
    return TAG_DECLINED_PREFIX + server


def evaluation_tag(test_set_digest: str) -> str:
    """The tag on a version's run that says how it was scored on the test set of that digest."""
    return TAG_EVALUATION_PREFIX + _short(test_set_digest)


def scores_file(test_set_digest: str) -> str:
    """Where the per-item scores on the test set of that digest lie, relative to the artifacts of the version's run."""
    return f"{EVALUATION_DIR}/{_short(test_set_digest)}.parquet"


def _of_alias(tag: str, alias: str) -> str:
    return tag if alias == ALIAS_PRODUCTION else f"{tag}.{alias}"


def _short(digest: str) -> str:
    """As much of a digest as people compare."""
    return digest[:12]


def copied_tags(label: str, tags: Mapping[str, str], *, is_copy: bool) -> frozenset[str]:
    """The keys among `tags` whose values were written for another version: MLflow copies all tags with a version.

    Args:
        label: `NAME/VERSION` of the version that has the tags.
        tags: All of its tags.
        is_copy: Whether it was made of another version. Then all counts as that one's until the promoter has seen it.
    """
    owner = tags.get(TAG_OF) or ("" if is_copy else label)
    changed = (TAG_STATE, TAG_REASON, TAG_JUDGED, TAG_TRIES)
    prefixes = (TAG_REFUSED_PREFIX, TAG_DECLINED_PREFIX, f"{TAG_JUDGED}.", f"{TAG_TRIES}.")
    return frozenset(key for key in tags if owner != label and (key in changed or key.startswith(prefixes)))


def whole_number(text: str | None) -> int | None:
    """The whole number, from 0, in a tag that anybody may write; None for anything else.

    Of at most 18 digits: Python reads no more than 4,300, and MLflow keeps no number beyond 64 bits.
    """
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) <= 18 else None


def published_files(names: Iterable[str]) -> list[str]:
    """The file names of a checkpoint folder that are published, sorted; all others stay where they are."""
    return sorted(name for name in names if any(fnmatch(name, pattern) for pattern in PUBLISHED_FILES))


def look_alikes(aliases: Iterable[str], wanted: str) -> list[str]:
    """Aliases that a person may have set in place of `wanted`: equal but for case or surrounding space."""
    folded = wanted.strip().casefold()
    return sorted(alias for alias in aliases if alias != wanted and alias.strip().casefold() == folded)
