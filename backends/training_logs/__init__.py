"""Reads training logs of many programs into learning curves.

The content of a log reveals its format.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from backends.training_logs import delimited_text, event_files, json_formats, output_lines, sweep_output
from backends.training_logs.column_choice import columns_option, with_chosen_columns
from backends.training_logs.curve_assembly import assemble_curve
from backends.training_logs.errors import TrainingLogError
from backends.training_logs.imported_curve import ImportedCurve, RunDetails
from backends.training_logs.log_table import LogTable
from backends.training_logs.source_text import content_of, text_of
from backends.training_logs.table_shapes import separated

_BRACKETED_LINE = re.compile(r"\s*\[[^\]\[{}\"\n]*[A-Za-z:][^\]\[{}\"\n]*\]\s*\S")
"""A line of output that begins with its time or its level: `[2026-12-01 10:00:00] [INFO] ...`."""

__all__ = ["ImportedCurve", "RunDetails", "TrainingLogError", "columns_option", "curves_of", "read"]


def read(source: Path | bytes, details: RunDetails | None = None, name: str | None = None) -> tuple[ImportedCurve, ...]:
    """Return the curves in a file, or in its bytes.

    That is one curve, or one for each trial of a sweep, each run, and each validation set. `name`
    stands for the source in messages; default: the path. Raises TrainingLogError, with the place
    and the remedy, for a source that is not a training log.
    """
    details = details or RunDetails()
    name = name or (str(source) if isinstance(source, Path) else "history")
    content = content_of(source, name)
    if event_files.is_event_file(content):
        return curves_of(event_files.read(content, name), details)
    text, encoding = text_of(content, name)
    notes = (f"the file is read as {encoding}",) if encoding else ()
    if _BRACKETED_LINE.match(text) or text.lstrip()[:1] not in ("{", "["):
        if (card := delimited_text.table_within(text)) is not None:
            text = card
        table = output_lines.read(text, name) or delimited_text.read(text, name, details.columns)
        return curves_of(replace(table, notes=(*notes, *table.notes)), details)
    if (printed := output_lines.read_dicts(text, name)) is not None:
        return curves_of(printed, details)
    value, is_lines = json_formats.parse(text, name)
    sweep_curves = sweep_output.read(value, name, details)
    if sweep_curves is not None:
        return sweep_curves
    table = json_formats.read(value, name, details.columns, is_lines=is_lines)
    return curves_of(replace(table, notes=(*notes, *table.notes)), details)


def curves_of(table: LogTable, details: RunDetails) -> tuple[ImportedCurve, ...]:
    """Return a curve for each run and each validation set in a table.

    Raises TrainingLogError for a table that is not a training log.
    """
    found = []
    for one in separated(with_chosen_columns(table, details.columns)):
        curve = assemble_curve(one.table, details)
        left_out = (*one.left_out, *curve.left_out)
        found.append(replace(curve, run=one.run, evaluation_set=one.evaluation_set, left_out=left_out))
    return tuple(found)
