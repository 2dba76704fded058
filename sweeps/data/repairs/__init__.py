"""Repair a data set: pure functions that mend what the checks find, and the files they lead to."""

from __future__ import annotations

from sweeps.data.repairs.duplicates import drop_duplicates, drop_leaks, drop_near_duplicates
from sweeps.data.repairs.labels import drop_nulls, drop_unseen_labels, resolve_conflicts, unify_labels
from sweeps.data.repairs.repair import Change, Facts, Repair, Repaired
from sweeps.data.repairs.texts import cut_prompts, drop_empty, drop_long, drop_surrogates, mend_mojibake, strip_spaces

__all__ = ["REPAIRS", "Change", "Facts", "Repair", "Repaired"]

REPAIRS: tuple[Repair, ...] = (
    Repair(
        "surrogate",
        "Leave out rows with half a character",
        "Half of a character (an unpaired surrogate) cannot be encoded; no sweep starts with such rows.",
        ("surrogate",),
        drop_surrogates,
        "required",
    ),
    Repair(
        "mojibake",
        "Decode wrongly decoded characters",
        "UTF-8 that a program read as Windows-1252 has 'Ã©' for 'é'; the model would learn to write it.",
        ("mojibake",),
        mend_mojibake,
    ),
    Repair(
        "whitespace",
        "Remove stray spaces and blank lines",
        "A space at the end of a label makes another label of it, and the model learns stray spaces.",
        ("surrounding-space", "label-spelling"),
        strip_spaces,
    ),
    Repair(
        "null-value",
        "Leave out rows whose label or prompt says NaN",
        "Spreadsheets and pandas write NaN for an empty cell; the model would learn it as a class.",
        ("null-value",),
        drop_nulls,
    ),
    Repair(
        "empty",
        "Leave out rows without a prompt or an answer",
        "There is nothing to read or nothing to learn; no sweep starts with such rows.",
        ("empty-prompt", "empty-completion"),
        drop_empty,
        "required",
    ),
    Repair(
        "label-spelling",
        "Write each label in one way",
        "Two spellings of one label are two classes to the model and to every metric.",
        ("label-spelling", "label-typo", "unknown-label"),
        unify_labels,
    ),
    Repair(
        "conflicting-labels",
        "Leave out labels that contradict the majority",
        "No model can learn two labels for the same prompt. Where there is no majority, no row stays.",
        ("conflicting-labels", "conflicting-variants"),
        resolve_conflicts,
    ),
    Repair(
        "duplicate",
        "Leave out repeated rows",
        "A repeated row weighs more in training, and may be in training and test at once.",
        ("duplicate",),
        drop_duplicates,
    ),
    Repair(
        "leak",
        "Leave out training rows that are also in validation or test",
        "The model would be tested on what it has seen. The test rows stay, so scores stay comparable.",
        ("overlap", "prompt-overlap", "near-overlap", "group-overlap"),
        drop_leaks,
    ),
    Repair(
        "unseen-label",
        "Leave out validation and test rows with a label that training does not have",
        "A model cannot answer with a label that it never saw; no sweep starts with such rows.",
        ("label-unseen",),
        drop_unseen_labels,
        "required",
    ),
    Repair(
        "cut-prompt",
        "Cut the prompts of very long rows",
        "Models cut texts that are too long, some of them at the beginning. Answers are never cut.",
        ("long-example",),
        cut_prompts,
        "on request",
    ),
    Repair(
        "long-example",
        "Leave out very long rows",
        "Models cut texts that are too long, and learn from the rest.",
        ("long-example",),
        drop_long,
        "on request",
    ),
    Repair(
        "near-duplicate",
        "Leave out rows that are nearly the same as another one",
        "Copies with small changes weigh more in training. Without this repair they stay in one part.",
        ("near-duplicate",),
        drop_near_duplicates,
        "on request",
    ),
)
"""All repairs of rows, in the order in which they are made: a later one sees earlier changes."""
