"""Where a base model's files are and what its config.json says: built-in, local directory or hub. Loads no torch."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from backends.contract import BackendError, Failure, FailureKind
from backends.local.options import LocalOptions, Task

BUILTIN = {"builtin:tiny-lm": Path(__file__).parent / "models" / "tiny_lm"}
"""Models that travel with the package."""

DEFAULT_MAX_LENGTH = 1024
"""Tokens of an example where neither the options nor the model set a lower limit."""

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


def user_error(message: str, detail: str = "") -> BackendError:
    """Return an error that the user can fix; `detail` is the remedy."""
    return BackendError(Failure(FailureKind.USER, message, detail))


@dataclass(frozen=True)
class ModelSource:
    """A base model on disk: its name as written, its directory and its config.json."""

    name: str
    directory: Path
    config: Mapping[str, Any] = field(hash=False)

    @property
    def weight_files(self) -> tuple[Path, ...]:
        """The weight files, sorted: safetensors where there are any, else PyTorch's own format."""
        found = sorted(self.directory.glob("model*.safetensors"))
        return tuple(found or sorted(self.directory.glob("pytorch_model*.bin")))

    @property
    def stamp(self) -> str:
        """Changes when the weights do: the directory, and each weight file's size and time of change."""
        stats = [(each.name, each.stat()) for each in self.weight_files]
        return f"{self.directory.resolve()}|" + "|".join(f"{name}:{s.st_size}:{s.st_mtime_ns}" for name, s in stats)

    @property
    def tells_segments_apart(self) -> bool:
        """Whether the model takes segment ids: encoders of BERT's kind do, RoBERTa's have one kind of segment only."""
        return int(self.config.get("type_vocab_size") or 0) > 1

    def parameters(self) -> int:
        """Return how many numbers the weight files hold, from the headers alone where they are safetensors."""
        total = 0
        for path in self.weight_files:
            is_safe = path.suffix == ".safetensors"
            total += sum(prod(each) for each in _tensor_shapes(path)) if is_safe else path.stat().st_size // 4
        return total

    def adapter_parameters(self, rank: int) -> int:
        """Return an upper bound of what adapters of this rank hold: every matrix gets one."""
        if any(each.suffix != ".safetensors" for each in self.weight_files):
            return self.parameters()
        shapes = [shape for path in self.weight_files for shape in _tensor_shapes(path)]
        return sum(rank * sum(shape) for shape in shapes if len(shape) == 2)

    def max_length(self, asked: int | None) -> int:
        """Return the tokens of one example: what was asked for, at most what the model's positions allow."""
        limits = [self.config.get(name) for name in ("max_position_embeddings", "n_positions", "max_seq_len")]
        known = [int(each) for each in limits if isinstance(each, int) and each > 0]
        if known and str(self.config.get("model_type", "")) in {"roberta", "xlm-roberta", "camembert", "mpnet"}:
            known = [each - 2 for each in known]  # these count positions from the padding index on
        return min([asked or DEFAULT_MAX_LENGTH, *known])


def _tensor_shapes(path: Path) -> list[list[int]]:
    """Read the shapes in a safetensors file: an 8-byte little-endian length, then a JSON header."""
    with path.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        if length > path.stat().st_size:
            raise ValueError("the header is longer than the file")
        header = json.loads(stream.read(length))
    return [entry["shape"] for name, entry in header.items() if name != "__metadata__"]


def kept_bytes(base: ModelSource, lora_rank: int | None) -> int:
    """Return what a finished run keeps on disk: float32 weights, or the adapter, and the tokenizer."""
    tokenizer = sum(each.stat().st_size for each in base.directory.glob("*token*"))
    return 4 * (base.parameters() if lora_rank is None else base.adapter_parameters(lora_rank)) + tokenizer


def peak_bytes(base: ModelSource, lora_rank: int | None) -> int:
    """Return what a run needs on disk at most: the kept model and a resume checkpoint (weights and two moments, about
    three times the model), each of them twice while the new one replaces the old."""
    return 8 * kept_bytes(base, lora_rank)


def changed(path: Path) -> int:
    """Return the time of the last change of a directory in ns, or 0 where there is none."""
    return path.stat().st_mtime_ns if path.exists() else 0


def is_hub_id(name: str) -> bool:
    """Whether a name can only be a hub id: no built-in, no existing path, nothing that looks like a path."""
    return name not in BUILTIN and not Path(name).expanduser().exists() and not name.startswith((".", "/", "~"))


def find(name: str, revision: str | None = None, *, weights: bool = True) -> ModelSource:
    """Return where a model is; a hub model is downloaded unless it is cached (its weights only where asked for).

    Raises BackendError (user) with the remedy where there is no such model, or it cannot be read.
    """
    if name in BUILTIN:
        directory = BUILTIN[name]
    elif name.startswith("builtin:"):
        raise user_error(f"there is no model {name}", f"built in are: {', '.join(BUILTIN)}")
    elif is_hub_id(name):
        directory = _from_hub(name, revision, weights)
    else:
        directory = Path(name).expanduser()
    return ModelSource(name, directory, _read_config(name, directory))


def _read_config(name: str, directory: Path) -> Mapping[str, Any]:
    if (directory / _ADAPTER).is_file():
        raise user_error(
            f"{name} is an adapter, not a base model", "name the model that the adapter belongs to, or merge it first"
        )
    path = directory / "config.json"
    if not path.is_file():
        remedy = "give a directory in the transformers layout (config.json, tokenizer, safetensors), or a hub id"
        wrong = "has no config.json" if directory.is_dir() else "does not exist"
        raise user_error(f"the model directory {directory} {wrong}", remedy)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise user_error(
            f"{path} cannot be read: {error}", "restore the file from where the model comes from"
        ) from error
    if not isinstance(config, dict):
        raise user_error(f"{path} is not a JSON object", "restore the file from where the model comes from")
    return config


def _from_hub(name: str, revision: str | None, weights: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = [each for each in _HUB_PATTERNS if weights or each != "*.safetensors"]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except HFValidationError as error:
        raise user_error(f"{name} is neither a directory nor a hub id", "check the spelling of `model`") from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        remedy = (
            "check the spelling; if it is a directory, give its full path; without a network, download the model "
            "elsewhere and give its directory, or fill the hub cache and set HF_HUB_OFFLINE=1; "
            "a gated model needs HF_TOKEN"
        )
        raise user_error(f"the model {name} is not here and cannot be had from the hub", remedy) from error


def task_of(options: LocalOptions, name: str | None = None) -> Task:
    """Return the task without network and side effect: `causal-lm` where nothing is known of the model yet."""
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
    else:
        directory = BUILTIN.get(name, Path(name).expanduser())
    if directory is None:
        return "causal-lm"
    try:
        return task_of_config(_read_config(name, directory)) or "causal-lm"
    except BackendError:
        return "causal-lm"  # `check` says what is wrong


def task_of_config(config: Mapping[str, Any]) -> Task | None:
    """Return the task that an architecture is made for, or None where it is neither of ours."""
    architectures = [str(each) for each in config.get("architectures") or ()]
    if config.get("is_encoder_decoder"):
        return None
    if str(config.get("model_type")) in _ENCODERS:
        return "sequence-classification"
    if any(each.endswith(_CAUSAL_SUFFIXES) for each in architectures):
        return "causal-lm"
    if any(each.endswith("ForSequenceClassification") for each in architectures):
        return "sequence-classification"
    return None


def problems(source: ModelSource) -> list[Failure]:
    """Return what is missing in a model's directory, without loading the weights."""
    found = []
    if not any((source.directory / each).is_file() for each in _TOKENIZER_FILES):
        found.append(
            Failure(
                FailureKind.USER, f"{source.name} has no tokenizer in {source.directory}", "copy tokenizer.json there"
            )
        )
    remote = is_hub_id(source.name)
    if not source.weight_files and not remote:
        message = f"{source.name} has no weights in {source.directory}"
        found.append(Failure(FailureKind.USER, message, "copy model.safetensors (and its index, if any) there"))
    try:
        source.parameters()
    except (OSError, ValueError, KeyError, struct.error) as error:
        message = f"the weights of {source.name} cannot be read: {error}"
        found.append(Failure(FailureKind.USER, message, "the file may be incomplete: fetch it again"))
    return found
