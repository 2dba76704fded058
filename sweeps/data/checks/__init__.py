"""Checks of the data before anything is spent on it: pure functions, examples -> findings.

A check never opens a file. The structural checks are run on every preparation, and their errors
prevent the sweep from starting. Those of `THOROUGH` take seconds; `examination` runs them once for
each content. `catalogue` says of each code why it hurts, and what repairs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sweeps.data.checks.affixes import check_affixes
from sweeps.data.checks.classes import check_classes
from sweeps.data.checks.conflicts import check_conflicting_variants
from sweeps.data.checks.decoding import check_decoding
from sweeps.data.checks.delimiters import check_delimiters
from sweeps.data.checks.drift import check_drift
from sweeps.data.checks.groups import check_groups
from sweeps.data.checks.label_spelling import check_label_typos, check_null_values
from sweeps.data.checks.labels import check_labels
from sweeps.data.checks.lengths import check_lengths
from sweeps.data.checks.mislabelled import check_mislabelled
from sweeps.data.checks.near import check_near_duplicates
from sweeps.data.checks.overlap import check_overlap
from sweeps.data.checks.personal_data import check_personal_data
from sweeps.data.checks.style import check_style
from sweeps.data.checks.texts import check_conversations, check_texts
from sweeps.data.checks.training import check_size, check_training, is_classification
from sweeps.data.checks.view import DataView
from sweeps.data.findings import Finding

__all__ = [
    "THOROUGH",
    "DataView",
    "check_conversations",
    "check_delimiters",
    "check_labels",
    "check_overlap",
    "check_size",
    "check_texts",
    "check_training",
    "is_classification",
]

THOROUGH: tuple[Callable[[DataView], Iterator[Finding]], ...] = (
    check_groups,
    check_near_duplicates,
    check_conflicting_variants,
    check_label_typos,
    check_null_values,
    check_mislabelled,
    check_classes,
    check_drift,
    check_lengths,
    check_style,
    check_affixes,
    check_decoding,
    check_personal_data,
)
"""The checks that compare texts, and fit small models. Add new ones here."""
