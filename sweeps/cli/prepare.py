"""The command `sweep prepare`: show what a data set needs, ask, and write it repaired and split."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sweeps.cli.terminal import err, json_option, out, print_json, relative, say, show
from sweeps.errors import Problem, UserInputError

if TYPE_CHECKING:
    from sweeps.data.repairs import Change, Repair
    from sweeps.data.repairs.loading import Loaded
    from sweeps.data.repairs.preparation import Preparation
    from sweeps.data.spec import DataSpec

_PARTS = {"train": "training", "valid": "validation", "test": "test"}
_TEXTS = ("prompt", "completion", "separator", "stop")
"""Options in which `\\n` is a line break."""
_SHOWN_NOTES = 5


@click.command()
@click.argument("source", metavar="IN")
@click.option("--out", "folder", type=click.Path(path_type=Path), required=True, help="The folder to write.")
@click.option("--prompt", metavar="TEMPLATE", help='The prompt, as a template over the columns: "{question}".')
@click.option("--completion", metavar="TEMPLATE", help='The answer, as a template over the columns: "{label}".')
@click.option("--validation", metavar="FILE|FRACTION", help="Default: the part that IN has, else 0.1.")
@click.option("--test", metavar="FILE|FRACTION", help="Default: as --validation; 0 means no test part.")
@click.option("--group-by", metavar="COLUMN", help="Keep the rows with the same value in one part.")
@click.option("--split-again", is_flag=True, help="Join the parts that IN has, and split all rows anew.")
@click.option("--seed", type=click.IntRange(min=0), default=7, show_default=True, help="Decides the split.")
@click.option(
    "--separator", metavar="TEXT", help=r"Ends every prompt; \n is a line break. Default: one that is unused."
)
@click.option("--stop", metavar="TEXT", help=r"Ends every completion; \n is a line break. Default: one that is unused.")
@click.option("--encoding", help="The encoding of text files. Default: UTF-8, or what the first rows are.")
@click.option("--only", multiple=True, metavar="CODE", help="Make only this repair, and those that every sweep needs.")
@click.option("--skip", multiple=True, metavar="CODE", help="Leave this repair out.")
@click.option("--also", multiple=True, metavar="CODE", help="Make this repair, too, which needs a request.")
@click.option(
    "--max-characters",
    type=click.IntRange(min=1),
    help="Leave out rows with more, prompt and answer together (--also cut-prompt: cut them).",
)
@click.option("--keep-columns", is_flag=True, help="Keep the columns that no template names.")
@click.option("--yes", is_flag=True, help="Make all usual repairs without a question.")
@click.option("--force", is_flag=True, help="Write into a folder that has other files, or changed ones.")
@json_option
def prepare(
    source: str, folder: Path, only: tuple[str, ...], skip: tuple[str, ...], also: tuple[str, ...],
    yes: bool, force: bool, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Repair and split the data IN, and write it for a sweep.

    Shows each repair with examples and asks before it is made; IN never changes. The folder gets
    train.jsonl, validation.jsonl and test.jsonl, which `sweep check` and `sweep run` read without
    templates, changes.jsonl with every change, and manifest.json.

    IN is a file, a folder or a URL, as in `data: {source: ...}`. The repairs: mojibake, whitespace,
    null-value, label-spelling, conflicting-labels, duplicate and leak; on request cut-prompt,
    long-example and near-duplicate.
    """
    from sweeps.data.repairs import inputs, loading, preparation, writing

    spec = _spec(source, options)
    path = Path(source).expanduser()
    writing.check_place(folder, path, force)
    repairs = _chosen(only, skip, also, options["max_characters"])
    with _as_options():
        spec, is_guess = inputs.completed(source, spec)
        found = inputs.find(source, spec, options["split_again"])
        keys = loading.Keys(
            spec.prompt or found.source.prompt, spec.completion or found.source.completion,
            spec.separator or found.source.separator, spec.stop or found.source.stop,
            spec.group_by, options["keep_columns"],
        )  # fmt: skip
        loaded = loading.load(found.readers, path if path.is_dir() else path.parent, keys, source)
        asks = _can_ask() and not yes and not as_json
        asked_for = {*only, *also, *(["long-example"] if options["max_characters"] else [])}
        decide = _Decisions(asks, as_json, asked_for)
        if not as_json:
            _show_input(source, loaded, spec.encoding, is_guess)
        done = preparation.repair_and_split(
            loaded, repairs, decide, found.fractions, spec.seed, spec.separator, spec.stop, options["max_characters"]
        )
    facts = _facts(loaded, spec, options, only, skip, also)
    if not asks and not yes:
        _conclude_without_writing(done, folder, as_json)
    written = writing.write(done, folder, facts, options["keep_columns"])
    if as_json:
        print_json({"folder": str(folder), "is_new": written.is_new, **written.manifest})
        return
    _show_output(done, folder, written.is_new)


def _can_ask() -> bool:
    return sys.stdin.isatty() and out.is_terminal and err.is_terminal


class _Decisions:
    """Shows each repair and decides about it: by a question, or by its mode and the options."""

    def __init__(self, asks: bool, is_silent: bool, also: set[str]) -> None:
        self._asks = asks
        self._is_silent = is_silent
        self._also = also
        self._number = 0

    def __call__(self, repair: Repair, changes: Sequence[Change]) -> bool:
        from sweeps.cli import change_view

        is_usual = repair.mode != "on request" or repair.code in self._also
        if self._is_silent:
            return is_usual
        self._number += 1
        show(change_view.repair(self._number, repair, changes, width=out.width, is_made=is_usual or self._asks))
        if not self._asks:
            return is_usual
        if repair.mode == "required":
            if not click.confirm("Every sweep needs this repair. Continue?", default=True, err=True):
                raise UserInputError([Problem("", "nothing was written", "")])
            return True
        return click.confirm("Make this repair?", default=is_usual, err=True)


def _spec(source: str, options: Mapping[str, Any]) -> DataSpec:
    """Return the options as a `data:` section. Raises UserInputError for wrong ones."""
    from pydantic import ValidationError

    from sweeps.data.spec import DataSpec

    names = ("group_by", "seed", "encoding")
    given = {name: options[name] for name in names if options[name] is not None}
    given |= {name: _unescaped(options[name]) for name in _TEXTS if options[name] is not None}
    given |= {name: _fraction(options[name]) for name in ("validation", "test") if options[name] is not None}
    try:
        return DataSpec(source=source, **given)
    except ValidationError as invalid:
        problems = []
        for fault in invalid.errors():
            place = f"--{fault['loc'][0]}".replace("_", "-") if fault["loc"] else "--validation, --test"
            problems.append(Problem(place, fault["msg"].removeprefix("Value error, ")))
        raise UserInputError({problem.place: problem for problem in problems}.values()) from None


def _unescaped(text: str) -> str:
    return text.replace("\\n", "\n").replace("\\t", "\t")


def _fraction(text: str) -> float | str:
    """Return a number as a number; everything else is the name of a file."""
    try:
        return float(text)
    except ValueError:
        return text


def _chosen(
    only: Sequence[str], skip: Sequence[str], also: Sequence[str], max_characters: int | None
) -> tuple[Repair, ...]:
    """Return the repairs that the options leave. Raises UserInputError for an unknown code."""
    from sweeps.data.repairs import REPAIRS
    from sweeps.data.repairs.preparation import ALL_REPAIRS
    from sweeps.errors import suggestion

    modes = {repair.code: repair.mode for repair in ALL_REPAIRS}
    problems = [
        Problem(option, f"unknown repair {code!r}", suggestion(code, modes))
        for option, codes in (("--only", only), ("--skip", skip), ("--also", also))
        for code in codes
        if code not in modes
    ]
    problems += [
        Problem("--skip", f"no sweep can use the data without the repair {code!r}")
        for code in skip
        if modes.get(code) == "required"
    ]
    if problems:
        raise UserInputError(problems)
    wanted = {*only, *also, *(["long-example"] if max_characters else [])}
    return tuple(
        repair
        for repair in REPAIRS
        if repair.code not in skip and (not only or repair.code in wanted or repair.mode == "required")
    )


@contextmanager
def _as_options() -> Iterator[None]:
    """Let errors name options where they name keys of the sweep file."""
    try:
        yield
    except UserInputError as error:
        raise UserInputError(
            Problem(
                re.sub(r"^data\.(\w+)", lambda key: _option(key[1]), problem.place),
                problem.message,
                re.sub(r"\b(?:set|write) (encoding|separator|stop)\b:?", r"pass --\1", problem.hint),
            )
            for problem in error.problems
        ) from None


def _option(key: str) -> str:
    return f"--{key}".replace("_", "-")


def _show_input(source: str, loaded: Loaded, encoding: str, is_guess: bool) -> None:
    from sweeps.cli import change_view, data_view

    notes = list(loaded.notes)
    for note in data_view.findings(notes[:_SHOWN_NOTES]):
        err.print(note, soft_wrap=not err.is_terminal)
    if len(notes) > _SHOWN_NOTES:
        say(f"and {len(notes) - _SHOWN_NOTES} more warnings about the input")
    show(change_view.loaded(source, loaded, encoding, is_guess=is_guess))


def _facts(
    loaded: Loaded, spec: DataSpec, options: Mapping[str, Any], only: Sequence[str], skip: Sequence[str],
    also: Sequence[str],
) -> dict[str, Any]:  # fmt: skip
    """Return what the manifest says of the input and the options, without any path."""
    asked = spec.model_dump(
        include={"prompt", "completion", "validation", "test", "group_by", "seed", "encoding"}, exclude_none=True
    )
    for part in ("validation", "test"):
        if isinstance(asked.get(part), str):
            asked[part] = Path(asked[part]).name
    asked |= {name: sorted(codes) for name, codes in (("only", only), ("skip", skip), ("also", also)) if codes}
    asked |= {name: options[name] for name in ("max_characters", "keep_columns", "split_again") if options[name]}
    columns = {} if options["keep_columns"] else {"columns_left_out": list(loaded.unused)}
    return {"input": dict(loaded.digests), "options": asked, **columns}


def _conclude_without_writing(done: Preparation, folder: Path, as_json: bool) -> None:
    """Raise UserInputError, after the report of what would be done."""
    from sweeps.data.repairs import writing

    if as_json:
        print_json({"folder": None, **writing.outcome(done)})
    sizes = ", ".join(f"{len(rows):,} {_PARTS[part]}" for part, rows in done.parts.items())
    message = f"nothing was written, because nobody could be asked; {folder} would get {sizes} examples"
    raise UserInputError([Problem("", message, "--yes makes the repairs above and writes the files")])


def _show_output(done: Preparation, folder: Path, is_new: bool) -> None:
    from sweeps.cli import change_view

    show(change_view.result(done))
    where = relative(folder.absolute())
    say(f"wrote {where}" if is_new else f"{where} already has exactly these files")
    say(f"next: sweep init {where}, or data: {{source: {where}}} without templates in the sweep file that you have")
