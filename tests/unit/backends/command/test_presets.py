"""The presets as data files, and what they put into the configuration of a trial."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from backends.command import presets
from backends.command.launchers import RankGroup
from backends.command.options import CommandOptions
from backends.command.placeholders import BUILT_IN, is_placeholder_name, placeholders_in
from backends.command.program import Program
from backends.command.run_folder import RunFolder
from backends.contract import BackendError, DataFile, Dataset, Placement, TrainingRequest
from backends.training_logs.live_sources import SOURCE_TYPES

pytestmark = pytest.mark.unit

EXPECTED = ("axolotl", "hf-trainer", "keras", "lightning", "llamafactory", "plain", "torchtune", "trl", "unsloth")
WITH_CONFIG = [name for name in EXPECTED if presets.load(name).run]


def test_there_is_a_preset_for_each_known_program() -> None:
    assert presets.names() == EXPECTED


def test_an_unknown_preset_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(BackendError) as caught:
        presets.load("axolotle")
    assert "Did you mean axolotl?" in caught.value.failure.detail


@pytest.mark.parametrize("name", EXPECTED)
def test_a_preset_uses_known_logs_and_placeholders(name: str) -> None:
    preset = presets.load(name)
    assert set(preset.metrics) <= set(SOURCE_TYPES)
    written = [preset.run, preset.checkpoints or "", dict(preset.set), dict(preset.environment)]
    assert set(placeholders_in(written)) <= set(BUILT_IN) - {"checkpoint"}
    assert set(placeholders_in(preset.resume or "")) <= {"checkpoint"}
    assert all(is_placeholder_name(ours) and ours not in set(BUILT_IN) - {"seed"} for ours in preset.keys)
    assert len(set(preset.keys.values())) == len(preset.keys)
    assert preset.tried


def config_of(name: str, template: dict[str, Any], folder: Path, **own: Any) -> Any:
    file = folder / "template.yml"
    file.write_text(json.dumps(template), encoding="utf-8")  # JSON is YAML
    options = CommandOptions.model_validate({"preset": name, "config": {"template": str(file), "set": own}})
    part = DataFile("", 0, "")
    request = TrainingRequest("key", "", Dataset(part, part, "completion"), {}, 0)
    call = Program.of(options).call(request, RunFolder(folder, "run"), Placement(), RankGroup())
    return YAML(typ="safe").load(call.config)


@pytest.mark.parametrize("name", WITH_CONFIG)
def test_a_configuration_gets_the_folder_of_the_trial(name: str, tmp_path: Path) -> None:
    content = config_of(name, {"output_dir": "elsewhere", "learning_rate": 0.1}, tmp_path)
    assert content["output_dir"] == str(tmp_path / "run" / "output")
    assert content["learning_rate"] == 0.1


@pytest.mark.parametrize("name", [name for name in EXPECTED if presets.load(name).defaults])
def test_evaluations_and_checkpoints_are_added_where_the_template_has_none(name: str, tmp_path: Path) -> None:
    for settings in presets.load(name).defaults:
        added = config_of(name, {"a": 1}, tmp_path)
        assert {key: added[key] for key in settings.set} == settings.set
        for key in settings.unless:
            unset = config_of(name, {key: None}, tmp_path)
            assert {other: unset[other] for other in settings.set} == settings.set
            for content in (config_of(name, {key: 7}, tmp_path), config_of(name, {}, tmp_path, **{key: 7})):
                assert content[key] == 7
                assert not set(settings.set) - {key} & set(content)


def test_the_logger_of_torchtune_gets_what_it_takes_and_its_lines_are_read(tmp_path: Path) -> None:
    template = {"metric_logger": {"_component_": "x.WandBLogger", "log_dir": "${output_dir}/logs", "project": "p"}}
    logger = config_of("torchtune", template, tmp_path)["metric_logger"]
    assert logger["_component_"].endswith(".DiskLogger"), "StdoutLogger takes no `log_dir`"
    log = Path(logger["log_dir"], logger["filename"])
    log.parent.mkdir(parents=True)
    log.write_text("Step 1 | loss:2.5 lr:0.0002 \nStep 1 | val_loss:2.25 \n")
    program = Program.of(CommandOptions(preset="torchtune"))
    first = program.sources(RunFolder(tmp_path, "run"))[0]
    rows = [row for row in first.rows() if "val_loss" in row]
    assert [(float(row["step"]), float(row["val_loss"])) for row in rows] == [(1.0, 2.25)]
