"""The program of a sweep: its options joined with its preset, its faults, and its calls."""

from __future__ import annotations

import difflib
import itertools
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.command import config_file, presets
from backends.command.launchers import RankGroup
from backends.command.options import CommandOptions, ConfigOptions, MetricSource
from backends.command.placeholders import BUILT_IN, filled, filled_arguments, filled_value, placeholders_in
from backends.command.run_folder import RunFolder
from backends.contract import BackendError, Failure, FailureKind, Placement, Scalar, TrainingRequest
from backends.training_logs.live_sources import SOURCE_TYPES, LiveSource, open_source

FOUND_BY_ITSELF = ("jsonl", "hf_trainer_state", "csv", "tensorboard", "mlflow", "output")
"""The logs to look for without `metrics`. One that says more comes before one that says less."""


@dataclass(frozen=True)
class Call:
    """A filled command: what the supervisor starts, and the content of the configuration file."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    working_folder: str
    config: str | None = None


@dataclass(frozen=True)
class Program:
    """A training program with placeholders."""

    options: CommandOptions
    preset: presets.Preset

    @classmethod
    def of(cls, options: CommandOptions) -> Program:
        """Join the options with their preset. Raises BackendError for an unknown preset."""
        return cls(options, presets.load(options.preset or "plain"))

    @property
    def arguments(self) -> tuple[str, ...]:
        """The command as a list of arguments, with placeholders."""
        return self.options.arguments if self.options.run else tuple(self.preset.run.split())

    @property
    def config(self) -> ConfigOptions | None:
        """The configuration file, with what the preset needs set in it."""
        written = self.options.config
        if written is None:
            return None
        own = dict(config_file.flattened(written.set))
        return written.model_copy(update={"set": {**self.preset.set, **own}})

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment variables to set, with placeholders."""
        return {**self.preset.environment, **self.options.environment}

    @property
    def rename(self) -> Mapping[str, str]:
        """Our names of the program's numbers."""
        return {**self.preset.rename, **self.options.rename}

    @property
    def checkpoints(self) -> str | None:
        """The pattern of the checkpoints."""
        return self.options.checkpoints or self.preset.checkpoints

    @property
    def resume(self) -> str | None:
        """What continues a run from a checkpoint."""
        return self.options.resume or self.preset.resume

    @property
    def source_options(self) -> tuple[MetricSource, ...]:
        """The logs to follow, the best one first."""
        found = self.preset.metrics or FOUND_BY_ITSELF
        return self.options.metrics or tuple(MetricSource(type=source_type) for source_type in found)

    # -------------------------------------------------------------------------------------- faults
    def failures(self) -> Iterator[Failure]:
        """Yield every fault of the definition: of placeholders, options, files and logs."""
        used = self._used_placeholders()
        known = self.options.hyperparameters
        if not self.arguments:
            yield _user("`run` is missing: no command says how to train", "Write run: python train.py ...")
        for name in known:
            if name not in used:
                hint = f"Write {{{name}}} in `run`, `config` or `environment`."
                yield _user(f"the hyperparameter `{name}` is used nowhere", hint)
        for name in sorted(used - set(known) - set(BUILT_IN)):
            nearest = difflib.get_close_matches(name, [*known, *BUILT_IN], n=1)
            hint = f"Did you mean {{{nearest[0]}}}?" if nearest else "Declare it under `backend.hyperparameters`."
            yield _user(f"no hyperparameter fills the placeholder {{{name}}}", hint)
        yield from self._misplaced(used)
        yield from self._config_failures()
        yield from self._program_failures()
        for source in self.source_options:
            if source.type not in SOURCE_TYPES:
                hint = f"Known kinds of logs: {', '.join(SOURCE_TYPES)}."
                yield _user(f"metrics: there is no kind of log {source.type!r}", hint)

    def _used_placeholders(self) -> set[str]:
        written = () if self.options.config is None else (self.options.config.set, self.preset.set)
        return set(placeholders_in([list(self.arguments), self.environment, *written]))

    def _misplaced(self, used: set[str]) -> Iterator[Failure]:
        if "checkpoint" in used:
            yield _user("{checkpoint} has no value at the start of a trial", "Write it in `resume` only.")
        in_command = {*placeholders_in(self.arguments), *placeholders_in(self.environment)}
        if self.config is not None and "config" not in in_command:
            yield _user("the program never gets the configuration file", "Write {config} in `run`.")
        if self.config is None and "config" in used:
            yield _user("{config} has no value without a configuration file", "Add `config: {template: FILE}`.")
        if self.options.working_folder != "trial" and not {"output", "folder"} & used:
            hint = "Tell it where to write: {output} in `run`, `config` or `environment`; or `working_folder: trial`."
            yield _user("all trials would write to the same place", hint)
        options = [argument.partition("=")[0] for argument in self.arguments if argument.startswith("--")]
        for option, count in Counter(options).items():
            values = [value for name, value in itertools.pairwise(self.arguments) if name == option]
            if count > 1 and any(placeholders_in(values)):
                yield _user(f"`run` gives {option} {count} times", "Leave one of them: the program uses only one.")

    def _config_failures(self) -> Iterator[Failure]:
        config, written = self.config, self.options.config
        if config is None or written is None:
            return
        try:
            content = config_file.read_template(config.template, config.name)
        except BackendError as error:
            yield error.failure
            return
        keys = Counter(key for key, _ in config_file.flattened(written.set))
        for key, count in keys.items():
            if count > 1:
                yield _user(f"config: `{key}` is set {count} times", "Leave one of them.")
            known = list(content)
            close = difflib.get_close_matches(key, known, n=1, cutoff=0.8)
            if "." not in key and known and not config_file.has_key(content, key) and close:
                yield _user(f"config: the template has no key `{key}`", f"Did you mean {close[0]}?")

    def _program_failures(self) -> Iterator[Failure]:
        if not self.arguments or self.options.shell:
            return
        folder = self._working_folder(None)
        program = self.arguments[0]
        found = (folder / program).exists() if "/" in program else shutil.which(program) is not None
        if not found and not set(placeholders_in(program)):
            hint = "Install it in this environment, or give its path."
            yield _user(f"the program {program} was not found", hint)
        for argument in self.arguments[1:]:
            if argument.endswith(".py") and not set(placeholders_in(argument)) and not (folder / argument).exists():
                yield _user(f"the file {argument} was not found in {folder}", "Correct the path in `run`.")

    def _working_folder(self, run: RunFolder | None) -> Path:
        chosen = self.options.working_folder
        return Path(os.path.abspath(chosen)) if isinstance(chosen, Path) else (run.output if run else Path.cwd())

    # --------------------------------------------------------------------------------------- calls
    def call(
        self,
        request: TrainingRequest,
        run: RunFolder,
        placement: Placement,
        ranks: RankGroup,
        checkpoint: str | None = None,
    ) -> Call:
        """Return the command of an attempt, from the start or from a checkpoint.

        Raises BackendError where the configuration file cannot be made.
        """
        values = self.values(request, run, placement, ranks, checkpoint)
        config = None
        if (options := self.config) is not None:
            content = config_file.read_template(options.template, options.name)
            needed = self._evaluation_settings(content)
            for key, value in config_file.flattened({**needed, **options.set}):
                new = filled_value(value, values)
                if new is not None or value is None:
                    config_file.set_value(content, key, new)
            config = config_file.written(content, options.name)
        written: Sequence[str] = self.arguments
        if self.options.shell:
            written = ("/bin/sh", "-c", self.options.run if isinstance(self.options.run, str) else " ".join(written))
        arguments = filled_arguments(written, values)
        if checkpoint is not None and self.resume:
            arguments += filled_arguments(self.resume.split(), values)
        arguments = ranks.arguments(arguments)
        environment = {name: filled(value, values) for name, value in self.environment.items()}
        defaults = {**self._default_environment(run, placement), **ranks.environment}
        given = {name: value for name, value in environment.items() if value is not None}
        return Call(tuple(arguments), {**defaults, **given}, str(self._working_folder(run)), config)

    def _evaluation_settings(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """Return what evaluations and checkpoints need and the template does not decide."""
        own = () if self.options.config is None else config_file.flattened(self.options.config.set)
        decided = {key for key, _ in own} | {key for key, value in config_file.flattened(content) if value is not None}
        return {
            key: value
            for settings in self.preset.defaults
            if decided.isdisjoint(settings.unless)
            for key, value in settings.set.items()
        }

    def values(
        self,
        request: TrainingRequest,
        run: RunFolder,
        placement: Placement,
        ranks: RankGroup,
        checkpoint: str | None,
    ) -> dict[str, Scalar]:
        """Return the value of every placeholder that has one."""
        config, data = self.config, request.dataset
        built_in: dict[str, Scalar] = {
            **run.places,
            "seed": request.seed,
            "key": request.key,
            "cpus": max(1, int(placement.cpus)),
            "gpus": int(placement.gpus),
            "port": ranks.port,
            "processes": ranks.processes,
            "nodes": ranks.nodes,
            "node": ranks.node,
            "address": ranks.address,
        }
        optional: Mapping[str, str | None] = {
            "config": None if config is None else str(run.path / config.name),
            "checkpoint": checkpoint,
            "model": request.base_model or None,
            "train_file": data.train.path or None,
            "valid_file": data.valid.path or None,
        }
        given = {name: value for name, value in optional.items() if value is not None}
        return {**built_in, **given, **self.resolved(request)}

    def resolved(self, request: TrainingRequest) -> dict[str, Scalar]:
        """Return the hyperparameters of a request, and the defaults of those that it lacks."""
        declared = self.options.hyperparameters.items()
        defaults = {name: known.default for name, known in declared if known.default is not None}
        return {**defaults, **request.hyperparameters}

    def _default_environment(self, run: RunFolder, placement: Placement) -> dict[str, str]:
        environment = {
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": str(max(1, int(placement.cpus))),
            "FINESWEEP_OUTPUT": str(run.output),
            "FINESWEEP_METRICS": run.places["metrics_file"],
        }
        if any(source.type == "mlflow" for source in self.options.metrics):
            environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{run.path / 'mlflow.db'}"
        return environment

    def sources(self, run: RunFolder) -> list[LiveSource]:
        """Open the logs of a run, the best one first."""
        opened = []
        for source in self.source_options:
            patterns = (source.file,) if source.file else SOURCE_TYPES[source.type].patterns
            opened.append(open_source(source.type, [_pattern(pattern, run) for pattern in patterns]))
        return opened

    def checkpoint_pattern(self, run: RunFolder) -> str | None:
        """Return the pattern of a run's checkpoints."""
        return None if self.checkpoints is None else _pattern(self.checkpoints, run)


def _pattern(pattern: str, run: RunFolder) -> str:
    return filled(pattern, run.places) or pattern


def _user(message: str, detail: str) -> Failure:
    return Failure(FailureKind.USER, message, detail)
