"""The files and the config.json of a base model: built-in, packaged, local directory or hub.

Loads no torch.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from backends.contract import BackendError, Failure, FailureKind
from backends.hugging_face import why_unavailable
from backends.local.options import LocalOptions, Task
from backends.local.packaged_models import PACKAGED

BUILTIN = {"builtin:tiny-lm": Path(__file__).parent / "models" / "tiny_lm"}
"""The models that the package contains."""

DEFAULT_MAX_LENGTH = 1024
"""The most tokens of an example if neither the options nor the model set a lower limit."""

_CAUSAL_SUFFIXES = ("ForCausalLM", "LMHeadModel")
_ENCODERS = frozenset(
    {
        *("albert", "bert", "camembert", "convbert", "deberta", "deberta-v2", "distilbert", "electra", "ernie", "esm"),
        *("funnel", "longformer", "mobilebert", "modernbert", "mpnet", "nystromformer", "rembert", "roberta"),
        *("roberta-prelayernorm", "squeezebert", "xlm-roberta", "xlm-roberta-xl", "xmod"),
    }
)
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
)
_HUB_PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
_ADAPTER = "adapter_config.json"

HUB_PROBE_S = 8.0
"""How long the hub may take to say whether it has a model."""


def user_error(message: str, detail: str = "") -> BackendError:
    """Return an error that the user can fix. `detail` is the remedy."""
    return BackendError(Failure(FailureKind.USER, message, detail))


@dataclass(frozen=True)
class ModelSource:
    """A base model on disk: its name as the user wrote it, its directory and its config.json."""

    name: str
    directory: Path
    config: Mapping[str, Any] = field(hash=False)

    @property
    def weight_files(self) -> tuple[Path, ...]:
        """The weight files, sorted: safetensors if there are any, else PyTorch's own format."""
        safetensors = sorted(self.directory.glob("model*.safetensors"))
        return tuple(safetensors or sorted(self.directory.glob("pytorch_model*.bin")))

    @property
    def stamp(self) -> str:
        """A text that changes whenever the weights change: directory, and size and modification
        time of each file.
        """
        stats = [(path.name, path.stat()) for path in self.weight_files]
        return f"{self.directory.resolve()}|" + "|".join(f"{name}:{s.st_size}:{s.st_mtime_ns}" for name, s in stats)

    @property
    def uses_segment_ids(self) -> bool:
        """Whether the model distinguishes segments.

        BERT and its kind do; RoBERTa has only one segment type.
        """
        return int(self.config.get("type_vocab_size") or 0) > 1

    @property
    def vocabulary_size(self) -> int | None:
        """The number of tokens for which the model has an embedding; None if it does not say."""
        text_config = self.config.get("text_config")
        size = self.config.get("vocab_size") or (text_config or {}).get("vocab_size")
        return size if isinstance(size, int) else None

    def parameters(self) -> int:
        """Return the number of parameters in the weight files.

        It comes from the headers alone if the files are safetensors, else from the file sizes.
        """
        total = 0
        for path in self.weight_files:
            is_safe = path.suffix == ".safetensors"
            shapes = _tensor_shapes(path).values() if is_safe else ()
            total += sum(map(prod, shapes)) if is_safe else path.stat().st_size // 4
        return total

    def tensor_shapes(self) -> dict[str, list[int]] | None:
        """Return the shape of each tensor by name; None without safetensors files."""
        if not self.weight_files or any(path.suffix != ".safetensors" for path in self.weight_files):
            return None
        return {name: shape for path in self.weight_files for name, shape in _tensor_shapes(path).items()}

    def matrices(self) -> list[str] | None:
        """Return the full names of the modules with a matrix, without embeddings and the output
        over the vocabulary; None without safetensors files.
        """
        shapes, vocabulary = self.tensor_shapes(), self.vocabulary_size
        if shapes is None:
            return None
        return [
            name.removesuffix(".weight")
            for name, shape in shapes.items()
            if len(shape) == 2 and vocabulary not in shape
        ]

    def adapter_parameters(self, rank: int) -> int:
        """Return an upper bound of the parameters of adapters of this rank: one adapter for every
        matrix.
        """
        if any(path.suffix != ".safetensors" for path in self.weight_files):
            return self.parameters()
        shapes = self.tensor_shapes() or {}
        return sum(rank * sum(shape) for shape in shapes.values() if len(shape) == 2)

    def max_length(self, requested: int | None) -> int:
        """Return the most tokens of one example: the requested number, or fewer if the model has
        fewer positions.
        """
        limits = [self.config.get(name) for name in ("max_position_embeddings", "n_positions", "max_seq_len")]
        known = [int(limit) for limit in limits if isinstance(limit, int) and limit > 0]
        if known and str(self.config.get("model_type", "")) in {"roberta", "xlm-roberta", "camembert", "mpnet"}:
            # these models count positions from the padding index on
            known = [limit - 2 for limit in known]
        return min([requested or DEFAULT_MAX_LENGTH, *known])


def _tensor_shapes(path: Path) -> dict[str, list[int]]:
    """Read the tensor shapes of a safetensors file: an 8-byte little-endian length, then a JSON
    header.
    """
    with path.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        if length > path.stat().st_size:
            raise ValueError("the header is longer than the file")
        header = json.loads(stream.read(length))
    return {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}


def kept_bytes(base: ModelSource, lora_rank: int | None) -> int:
    """Return the bytes that a finished run keeps on disk: float32 weights or the adapter, and the
    tokenizer.
    """
    tokenizer = sum(path.stat().st_size for path in base.directory.glob("*token*"))
    return 4 * (base.parameters() if lora_rank is None else base.adapter_parameters(lora_rank)) + tokenizer


def peak_bytes(base: ModelSource, lora_rank: int | None) -> int:
    """Return the most bytes that a run needs on disk.

    These are the kept model and a resume checkpoint (weights and two optimizer moments, about three
    times the model), each of them twice while the new one replaces the old.
    """
    return 8 * kept_bytes(base, lora_rank)


def modified_ns(path: Path) -> int:
    """Return a directory's modification time in nanoseconds, or 0 if it does not exist."""
    return path.stat().st_mtime_ns if path.exists() else 0


def is_hub_id(name: str) -> bool:
    """Whether a name can only be a hub id: not built-in, not an existing path, and not like a
    path.
    """
    is_ours = name in BUILTIN or name in PACKAGED
    return not is_ours and not Path(name).expanduser().exists() and not name.startswith((".", "/", "~"))


def find(name: str, revision: str | None = None, *, weights: bool = True) -> ModelSource:
    """Find the model `name`.

    Download a hub model unless it is cached, its weights only if `weights` is true.

    Raises BackendError (user) with the remedy if the model does not exist or cannot be read.
    """
    if name in BUILTIN:
        directory = BUILTIN[name]
    elif name in PACKAGED:
        directory = _installed(name)
    elif name.startswith("builtin:"):
        known = ", ".join((*BUILTIN, *PACKAGED))
        raise user_error(f"there is no model {name}", f"choose a built-in model: {known}")
    elif is_hub_id(name):
        directory = _from_hub(name, revision, weights)
    else:
        directory = Path(name).expanduser()
    return ModelSource(name, directory, _read_config(name, directory))


def _installed(name: str) -> Path:
    directory = PACKAGED[name].directory()
    if directory is None:
        raise user_error(f"the model {name} is not installed: {PACKAGED[name].title}", PACKAGED[name].remedy)
    return directory


def _read_config(name: str, directory: Path) -> Mapping[str, Any]:
    if (directory / _ADAPTER).is_file():
        raise user_error(
            f"{name} is an adapter, not a base model",
            "name the adapter's base model, or merge the adapter into it first",
        )
    path = directory / "config.json"
    if not path.is_file():
        remedy = "give a directory in the transformers layout (config.json, tokenizer, safetensors), or a hub id"
        problem = "has no config.json" if directory.is_dir() else "does not exist"
        raise user_error(f"the model directory {directory} {problem}", remedy)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise user_error(
            f"{path} cannot be read: {error}", "restore the file from the model's original source"
        ) from error
    if not isinstance(config, dict):
        raise user_error(f"{path} is not a JSON object", "restore the file from the model's original source")
    return config


def _from_hub(name: str, revision: str | None, weights: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = [pattern for pattern in _HUB_PATTERNS if weights or pattern != "*.safetensors"]
    reason = why_unavailable("model", name, HUB_PROBE_S, revision=revision)
    try:
        # Without an answer, `snapshot_download` would try for minutes before it uses its cache.
        return Path(
            snapshot_download(name, revision=revision, allow_patterns=patterns, local_files_only=reason is not None)
        )
    except HFValidationError as error:
        raise user_error(f"{name} is neither a directory nor a hub id", "check the spelling of `model`") from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        remedy = (
            "check the spelling; give a directory by its full path; without a network, download the model "
            "elsewhere and give its directory, or fill the hub cache and set HF_HUB_OFFLINE=1; "
            "for a gated model, set HF_TOKEN"
        )
        message = f"the model {name} is not on this machine, and the hub did not provide it"
        raise user_error(f"{message}: {reason}" if reason else message, remedy) from error


def task_of(options: LocalOptions, name: str | None = None) -> Task:
    """Return the task without network access or side effects: `causal-lm` if the model is not known
    yet.
    """
    if options.task != "auto":
        return options.task
    name = name or options.model
    if name not in BUILTIN and is_hub_id(name):
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            cached = try_to_load_from_cache(name, "config.json", revision=options.revision)
        except HFValidationError:
            return "causal-lm"
        directory = Path(cached).parent if isinstance(cached, str) else None
    elif name in PACKAGED:
        directory = PACKAGED[name].directory()
    else:
        directory = BUILTIN.get(name, Path(name).expanduser())
    if directory is None:
        return "causal-lm"
    try:
        return task_of_config(_read_config(name, directory)) or "causal-lm"
    except BackendError:
        return "causal-lm"  # `check` reports the error


def task_of_config(config: Mapping[str, Any]) -> Task | None:
    """Return the task for which an architecture is made, or None if this backend does not support
    it.
    """
    architectures = [str(name) for name in config.get("architectures") or ()]
    if config.get("is_encoder_decoder"):
        return None
    if str(config.get("model_type")) in _ENCODERS:
        return "sequence-classification"
    if any(name.endswith(_CAUSAL_SUFFIXES) for name in architectures):
        return "causal-lm"
    if any(name.endswith("ForSequenceClassification") for name in architectures):
        return "sequence-classification"
    return None


def problems(source: ModelSource) -> list[Failure]:
    """Return what is wrong with a model's directory, without loading the weights."""
    failures = []
    if not any((source.directory / name).is_file() for name in _TOKENIZER_FILES):
        message = f"{source.name} has no tokenizer in {source.directory}"
        failures.append(Failure(FailureKind.USER, message, "copy tokenizer.json there"))
    if not source.weight_files and not is_hub_id(source.name):
        message = f"{source.name} has no weights in {source.directory}"
        failures.append(Failure(FailureKind.USER, message, "copy model.safetensors (and its index, if any) there"))
    pad_id, size = source.config.get("pad_token_id"), source.vocabulary_size
    if isinstance(pad_id, int) and size is not None and pad_id >= size:
        message = f"{source.name} names token {pad_id} as padding, but the model knows only {size} tokens"
        failures.append(Failure(FailureKind.USER, message, "correct pad_token_id in the model's config.json"))
    try:
        source.parameters()
    except (OSError, ValueError, KeyError, struct.error) as error:
        message = f"the weights of {source.name} cannot be read: {error}"
        failures.append(Failure(FailureKind.USER, message, "download the file again: it may be incomplete"))
    return failures
