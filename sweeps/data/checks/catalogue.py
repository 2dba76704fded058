"""Every code of a finding about data: why it hurts, and what repairs it.

`docs/guide/data-checks.md` has the tables that are made from here; a test compares them. A code
never changes once published.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

RULES: Mapping[str, str] = {
    "size": "enough examples for the task",
    "quality": "consistent format, no incomplete or incorrect examples",
    "representative": "like what the model will see in use; varied; classes balanced",
    "specified": "the input holds all that is needed to produce the output",
    "pairs": "JSON lines of prompt and completion, or chat messages",
    "separator": "one fixed separator ends every prompt",
    "stop": "one fixed stop sequence ends every completion",
    "delimiters": "neither of the two is inside a prompt or the data",
    "style": "style, tone and length are consistent and match the task",
    "inference": "prompts at inference have the format of training, the separator included",
}
"""The four data rules and the six format rules that this project was asked to enforce."""

Repair = Literal["prepare", "drop", "key", "by hand", "none"]


@dataclass(frozen=True)
class Check:
    """What one code means.

    `severity` is "either" if it depends on the case. `why` is one sentence, `repair` names the
    remedy. The examples of a `droppable` code can be left out with `drop: [code]`. `rules` are keys
    of `RULES`.
    """

    code: str
    title: str
    severity: Literal["error", "warning", "either"]
    why: str
    repair: str
    droppable: bool = False
    rules: tuple[str, ...] = ()


# fmt: off
READING: Sequence[Check] = (
    Check("format", "unknown kind of file", "error", "Nobody can read it.", "save it as .jsonl or .csv",
          rules=("pairs",)),
    Check("unreadable", "the system cannot read the file", "error", "There is no data.", "check path and permissions"),
    Check("archive", "damaged or unsuitable archive", "error", "Its content cannot be read.", "unpack or repack it"),
    Check("gzip", "damaged gzip stream", "error", "The file ends in the middle.", "copy the file again"),
    Check("encoding", "text in another encoding", "either", "Letters would be read as others.", "`encoding:`"),
    Check("zero-bytes", "bytes of zero in a text", "error", "The file is damaged or no text.", "copy the file again"),
    Check("long-line", "a record too long to read", "error", "It is a file without line breaks.", "correct the file",
          rules=("pairs",)),
    Check("json", "not valid JSON", "error", "The record is lost.", "`sweep prepare`", rules=("pairs", "quality")),
    Check("json-object", "an object around the records", "warning", "A guess found the list of records.",
          "none, if right"),
    Check("csv", "not valid CSV", "error", "The cells of the row are unknown.", "`sweep prepare`",
          rules=("pairs", "quality")),
    Check("cells", "more or fewer cells than columns", "error", "Text is in the wrong column.", "`sweep prepare`",
          rules=("quality",)),
    Check("delimiter", "another delimiter than the ending says", "warning", "A guess chose the columns.",
          "none, if right"),
    Check("quoting", "cells in quotes in an unusual form", "warning", "A guess found the cells.", "none, if right"),
    Check("header", "no line of column names", "error", "A sentence would be taken for a name.", "name the columns"),
    Check("repeated-column", "two columns of one name", "either", "Only one can be used.", "rename one"),
    Check("repeated-header", "the column names again as a row", "warning", "Two files were joined.", "none: left out"),
    Check("unnamed-column", "text in a column without a name", "warning", "No template can use it.", "name the column"),
    Check("empty-row", "a row without text", "warning", "There is nothing to learn.", "none: left out"),
    Check("sheets", "a workbook with several sheets", "warning", "Only one of them is read.",
          "save the other as a file"),
    Check("table", "damaged Parquet or Arrow file", "error", "Its rows cannot be read.", "write it again"),
    Check("workbook", "damaged or huge Excel workbook", "error", "Its rows cannot be read.", "save it as .csv"),
    Check("no-gold-label", "SNLI pairs without a label", "warning", "The annotators disagreed.", "none: left out"),
    Check("fallback", "another source took the place", "warning", "Results are not those of the source.", "`--data`"),
)
"""Codes about files and their records."""

STRUCTURE: Sequence[Check] = (
    Check("no-template", "no column prompt, completion or messages", "error", "Nobody knows what to learn.",
          "`prompt:`, `completion:`", rules=("pairs",)),
    Check("chat", "chat data with keys for pairs", "error", "The chat template delimits messages.", "remove the keys",
          rules=("pairs",)),
    Check("preference-pairs", "chosen and rejected answers", "error", "Rejected answers would be trained, or ignored.",
          "templates over `chosen`", rules=("pairs",)),
    Check("missing-field", "a column of a template is missing", "error", "The prompt would lack a part.",
          "`sweep prepare`", True, ("pairs", "specified")),
    Check("field", "a column is not text, or a message is wrong", "error", "The example cannot be made.",
          "`sweep prepare`", True, ("pairs", "quality")),
    Check("empty-prompt", "empty prompt", "error", "The model learns to answer without a question.",
          "`sweep prepare`", True, ("specified", "quality")),
    Check("empty-completion", "empty completion", "error", "The model learns to say nothing.", "`sweep prepare`",
          True, ("quality",)),
    Check("surrogate", "half a character", "error", "UTF-8 cannot encode it, so no file can hold it.",
          "correct the file", True, ("quality",)),
    Check("long-example", "more than 10,000 characters", "warning",
          "Models cut long texts, and the answer may be lost.", "`sweep prepare`", True, ("style",)),
    Check("unanswered", "messages after the last answer", "warning", "They cannot be trained.", "none: left out",
          rules=("quality",)),
    Check("stop-inside", "stop sequence inside a completion", "error", "It would cut the answer.", "`stop:`", True,
          ("stop", "delimiters")),
    Check("stop-in-prompt", "stop sequence inside a prompt", "warning", "The model sees it without an end.",
          "`stop:`", True, ("delimiters",)),
    Check("separator-inside", "separator inside a text", "warning", "The model takes it for the end of the prompt.",
          "`separator:`", True, ("separator", "delimiters")),
    Check("doubled-separator", "a second separator", "warning", "Users would have to write both in use.",
          "`sweep prepare`", rules=("separator", "inference")),
    Check("doubled-stop", "a second stop sequence", "warning", "The model writes it as a part of each answer.",
          "`sweep prepare`", rules=("stop",)),
    Check("left-out", "examples left out by `drop`", "warning", "You asked for it; look at how many they are.",
          "none"),
    Check("empty-set", "a part without examples", "error", "Nothing can be trained or scored.", "name another file",
          rules=("size",)),
    Check("too-few", "too few examples to hold some out", "error", "There would be nothing to score.", "add examples",
          rules=("size",)),
    Check("few-examples", "fewer than 100 training examples", "warning", "Fine-tuning hardly changes the model.",
          "add examples", rules=("size",)),
    Check("one-class", "all completions are the same", "error", "There is nothing to learn.", "check the template",
          rules=("quality",)),
    Check("one-prompt", "all prompts are the same", "error", "The answer cannot depend on it.", "check the template",
          rules=("specified",)),
    Check("duplicate", "repeated example", "warning", "It weighs more in training.", "`sweep prepare`", True,
          ("quality",)),
    Check("conflicting-labels", "identical prompts, different labels", "warning", "No model can learn both.",
          "`sweep prepare`", True, ("quality", "specified")),
    Check("imbalance", "one label more than 4 times as often", "warning", "Answering it always looks accurate.",
          "watch macro-F1; add examples", rules=("representative",)),
    Check("unknown-label", "a label that is not allowed", "error", "It is a class of its own.", "`sweep prepare`",
          True, ("quality",)),
    Check("label-unseen", "a label that train does not have", "error", "The model cannot know it.", "`sweep prepare`",
          True, ("representative",)),
    Check("label-spelling", "labels that differ in case or spaces", "warning", "One class becomes two.",
          "`sweep prepare`", True, ("style", "quality")),
    Check("label-unused", "an allowed label without examples", "warning", "It is misspelled, or cannot be learned.",
          "check `labels:`", rules=("representative",)),
    Check("overlap", "an example in two parts", "either", "The score counts what was memorised.", "`sweep prepare`",
          True, ("quality", "representative")),
    Check("left-out", "examples that drop: left out", "warning", "They are not trained.", "none: as you asked"),
    Check("prompt-overlap", "a prompt in two parts", "warning", "The score counts a prompt that was seen.",
          "`sweep prepare`", True, ("quality", "representative")),
)
"""Codes of the structural checks, which every preparation runs."""

THOROUGH: Sequence[Check] = (
    Check("near-duplicate", "nearly the same prompt twice in train", "warning", "Copies weigh more, and add little.",
          "`sweep prepare`", True, ("quality", "representative")),
    Check("near-overlap", "nearly the same prompt in two parts", "warning", "The score counts what was memorised.",
          "`sweep prepare`", True, ("quality", "representative")),
    Check("group-overlap", "one group in two parts", "warning", "The score counts a known user or document.",
          "`group_by:`, or split again with `sweep prepare`", True, ("representative",)),
    Check("conflicting-variants", "prompts that differ in case or spaces, different labels", "warning",
          "No model can learn both.", "`sweep prepare`", True, ("quality",)),
    Check("label-typo", "a rare label like a frequent one", "warning", "A typing error is a class of its own.",
          "`sweep prepare`", True, ("quality",)),
    Check("null-value", "NaN, None or null for a text", "warning", "The model learns the word of an empty cell.",
          "`sweep prepare`", True, ("quality", "specified")),
    Check("mislabelled", "likely wrong label", "warning", "The model learns the errors.", "read and correct them",
          True, ("quality",)),
    Check("class-missing", "a part without a class", "warning", "Its scores say nothing about the class.",
          "split again with `sweep prepare`", rules=("representative",)),
    Check("rare-class", "a class with few examples in a part", "warning", "It is hardly learned, or coarsely scored.",
          "add examples", rules=("size", "representative")),
    Check("few-per-class", "few examples for so many classes", "warning", "Each class is hardly learned.",
          "add examples; `sweep scale`", rules=("size",)),
    Check("length-drift", "other lengths than in train", "warning", "Scores are about other data.",
          "split again with `sweep prepare`", rules=("representative",)),
    Check("label-drift", "other shares of labels than in train", "warning", "Scores are about other data.",
          "split again with `sweep prepare`", rules=("representative",)),
    Check("vocabulary-drift", "many words that train does not have", "warning", "The model has not seen such texts.",
          "add such examples", rules=("representative",)),
    Check("format-drift", "prompts of another format than in train", "warning", "The model expects its format.",
          "correct the file", rules=("inference", "style")),
    Check("length-outlier", "a text far longer than the others", "warning", "It makes batches slow, and may be cut.",
          "cut or remove it", True, ("style",)),
    Check("prompt-heavy", "prompts far longer than completions", "warning", "The loss is about prompts.",
          "a lower `prompt_loss_weight`", rules=("style",)),
    Check("leading-space", "few completions with, or without, a first space", "warning", "It is another token.",
          "`sweep prepare`", True, ("style",)),
    Check("first-letter", "few completions in the other case", "warning", "The model learns two styles.",
          "correct the file", True, ("style",)),
    Check("end-punctuation", "few completions with, or without, an end mark", "warning", "They may be cut off.",
          "correct the file", True, ("style", "quality")),
    Check("surrounding-space", "few prompts with spaces around a field", "warning", "They differ from those in use.",
          "`sweep prepare`", True, ("style", "inference")),
    Check("upper-case", "a third of the letters are capitals", "warning", "Models know ordinary writing best.",
          "write it in lower case", rules=("style",)),
    Check("mixed-scripts", "few examples in another script", "warning", "One language is hardly learned.",
          "remove or add some", True, ("style", "representative")),
    Check("mojibake", "text decoded with a wrong encoding", "warning", "The model learns to write it.",
          "`sweep prepare`", True, ("quality",)),
    Check("common-prompt-prefix", "a long text begins every prompt", "warning", "It costs tokens and says nothing.",
          "a template without it", rules=("style",)),
    Check("common-prompt-suffix", "a separator that nobody named", "warning", "It would be doubled.", "`separator:`",
          rules=("separator",)),
    Check("common-completion-prefix", "a text begins every completion", "warning",
          "It costs tokens and says nothing.", "a template without it", rules=("style",)),
    Check("personal-data", "e-mail, telephone, card or bank numbers", "warning", "The file may be uploaded.",
          "write placeholders", True, ("quality",)),
    Check("secret", "an access key or private key", "warning", "The file may be uploaded.", "revoke it, remove it",
          True, ("quality",)),
)
"""Codes of the thorough checks, which `checks: quick` leaves out."""

MODEL: Sequence[Check] = (
    Check("cut-prompts", "prompts longer than the model takes", "warning", "Their beginning or end is lost.",
          "`max_length`", rules=("specified",)),
    Check("cut-completions", "completions longer than the model takes", "warning", "The model learns not to end.",
          "`max_length`", rules=("quality",)),
    Check("dropped-examples", "examples that the backend leaves out", "warning", "They are paid for and not used.",
          "`max_length`", rules=("size",)),
    Check("cut-generation-prompts", "prompts too long to generate for", "warning", "Scores are about cut prompts.",
          "`max_length`", rules=("inference",)),
    Check("token-outliers", "far more tokens than the others", "warning", "They make batches slow.",
          "cut or remove them", rules=("style",)),
    Check("unknown-tokens", "characters that the tokenizer lacks", "warning", "The model cannot read them.",
          "another model", rules=("specified",)),
    Check("template-drops", "the chat template leaves messages out", "warning", "The model never sees them.",
          "another model", rules=("specified",)),
    Check("prompt-weight", "prompts outweigh completions in the loss", "warning", "The loss is about prompts.",
          "a lower `prompt_loss_weight`", rules=("style",)),
    Check("training-examples", "what one example looks like to the backend", "warning", "It differs from the file.",
          "none, if right", rules=("inference",)),
    Check("memory", "a trial may need more memory than there is", "warning", "It would fail.",
          "the hint names the key"),
    Check("optional-left-out", "a hyperparameter that the backend has not", "warning", "It is not searched.", "none"),
    Check("batch-above-data", "a batch larger than the training set", "warning", "Two values of it are one.",
          "a smaller range", rules=("size",)),
    Check("reference-scores-low", "the right answers score low", "warning", "The metric does not fit the data.",
          "another metric"),
    Check("taken", "a column has the name of an output", "error", "The predictions would replace it.",
          "rename the column"),
)
"""Codes about the examples as a backend and a model take them, found while planning."""
# fmt: on

CHECKS: Mapping[str, Check] = {check.code: check for check in (*READING, *STRUCTURE, *THOROUGH, *MODEL)}

RETIRED_TOOL: Mapping[str, tuple[str, ...]] = {
    "number of examples": ("few-examples", "few-per-class"),
    "missing columns prompt, completion": ("no-template", "missing-field"),
    "additional columns": ("no-template",),
    "empty completion": ("empty-completion",),
    "duplicated rows": ("duplicate",),
    "long examples": ("long-example", "cut-prompts"),
    "lower case": ("upper-case",),
    "common prompt suffix (separator)": ("common-prompt-suffix", "doubled-separator", "separator-inside"),
    "common prompt prefix": ("common-prompt-prefix",),
    "common completion prefix": ("common-completion-prefix",),
    "common completion suffix (stop sequence)": ("stop-inside", "doubled-stop"),
    "completion starts with a space": ("leading-space",),
    "file format": ("format", "json", "csv", "delimiter"),
    "type of the task": ("one-class", "one-prompt"),
    "split into train and validation": ("overlap", "label-unseen"),
}
"""The checks of `openai tools fine_tunes.prepare_data` (openai 0.28), and their codes here."""

RETIRED_TOOL_NOTES: Mapping[str, str] = {
    "additional columns": "templates choose the columns; further ones are harmless, and stay with predictions",
    "long examples": "characters here; `sweep plan` counts the tokens of the model",
    "common prompt suffix (separator)": "without one, a separator is appended to every prompt",
    "common completion suffix (stop sequence)": "without one, a stop sequence is appended to every completion",
    "completion starts with a space": "only where completions differ; `sweep prepare` writes one everywhere",
    "type of the task": "`task: auto` tells classification by the same rule",
    "split into train and validation": "every sweep splits by itself, stratified, and keeps equal prompts together",
}
