"""Challenges night after night, with the real local backend and registry and with tiny models."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from mlflow_warnings import MLFLOW_WARNINGS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from backends import codec
from backends.contract import Finished
from backends.local import LocalBackend
from backends.testing import drain
from sweeps.champions import history
from sweeps.champions.challenge import run_challenge
from sweeps.champions.winner import SweepWinner
from sweeps.errors import SweepError, UserInputError
from sweeps.execution.tracked_sweep import SweepDescription
from sweeps.planning.plan import make_plan
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.spec.loading import load
from sweeps.study.champion_decision import ChampionDecision
from sweeps.tracking import Tracker, default_uri
from sweeps.tracking.registry import CHAMPION_ALIAS, Registry
from sweeps.trials.trial import Spend, Trial, TrialState
from sweeps.workspace import Workspace

pytestmark = [
    pytest.mark.integration,
    pytest.mark.trains,
    *MLFLOW_WARNINGS,
]

WORDS = ("yes", "no", "maybe")
FILE = """\
name: {name}
data: {{source: {data}, checks: quick,
       prompt: "{{first}} {{second}}##", separator: "##", completion: " {{label}}", stop: "|",
       validation: 0.1, test: 0.4}}
backend: {{type: local, model: {model}, device: cpu}}
space: {{n_epochs: 1, batch_size: 4, learning_rate: 0.01}}
objective: {{maximize: valid_accuracy}}
champion: {{model: answers{guards}}}
"""
FREE_TEXT_FILE = (
    FILE.replace('stop: "|",', 'stop: "|", task: generation,')
    .replace("valid_accuracy", "valid_exact_match")
    .replace(
        "champion:", "evaluation: {{metrics: [exact_match], generate: {{examples: 12, max_tokens: 8}}}}\nchampion:"
    )
)
STRONG = {"n_epochs": 6, "batch_size": 4, "learning_rate": 0.01}
WEAK = {"n_epochs": 1, "batch_size": 64, "learning_rate": 1e-6}


def build_model(directory: Path) -> None:
    characters = ["[PAD]", "[UNK]", "[END]", *"abcdefghijklmnopqrstuvwxyz0123456789#| \n"]
    tokenizer = Tokenizer(models.WordLevel({character: n for n, character in enumerate(characters)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    options = {"pad_token": "[PAD]", "unk_token": "[UNK]", "eos_token": "[END]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **options).save_pretrained(directory)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=len(characters), max_position_embeddings=96, initializer_range=0.2, **shape)
    LlamaForCausalLM(config).save_pretrained(directory)


@dataclasses.dataclass
class Nights:
    """A root folder with data, a base model, an MLflow database, and one trial for each night."""

    root: Path
    workspace: Workspace
    uri: str
    night: int = 0
    text: str = FILE

    @property
    def registry(self) -> Registry:
        return Registry(self.uri)

    def plan(self, guards: str = "", name: str = "answers") -> SweepPlan:
        file = self.root / f"{name}.yaml"
        data, model = self.root / "data.jsonl", self.root / "base"
        file.write_text(self.text.format(name=name, data=data, model=model, guards=guards), encoding="utf-8")
        return make_plan(load(file), self.workspace, estimate=False)

    def trained(self, plan: SweepPlan, backend: LocalBackend, point: dict[str, Any]) -> Trial:
        self.night += 1
        trial = Trial(self.night, f"key-{self.night}", plan.base_model, point, self.night)
        [*_, end] = drain(backend, backend.submit(plan.request(trial)), timeout_s=120)
        assert isinstance(end, Finished)
        tracker = Tracker.connect(self.uri, plan.spec.name, self.workspace.artifacts)
        dataset = SweepDescription.of(plan.to_json(), {}).dataset
        tracker.start(f"sweep-{self.night}", plan.spec.name, {}, {"backend": "local"}, dataset, {})
        tracker.trial_started(trial)
        tracker.finish("FINISHED", {}, {}, {}, None)
        assert tracker.problems == ()
        return dataclasses.replace(
            trial, state=TrialState.COMPLETE, model=end.model, values=(0.9,), spend=Spend(1.0, 100, None)
        )

    def challenge(
        self, point: dict[str, Any], guards: str = "", clock: float = 1_800_000_000.0
    ) -> tuple[ChampionDecision, Trial, list[str]]:
        plan = self.plan(guards)
        backend = LocalBackend.open(plan.spec.backend_options, plan.folder, plan.placement)
        said: list[str] = []
        try:
            trial = self.trained(plan, backend, point)
            at = clock + 86_400 * self.night
            winner = SweepWinner(plan, "sweep", trial)
            decision = run_challenge(winner, backend, self.registry, said.append, lambda: at)
        finally:
            backend.close()
        return decision, trial, said

    def repeat_challenge(self, trial: Trial) -> ChampionDecision:
        plan = self.plan()
        backend = LocalBackend.open(plan.spec.backend_options, plan.folder, plan.placement)
        try:
            return run_challenge(SweepWinner(plan, "sweep", trial), backend, self.registry, lambda _: None)
        finally:
            backend.close()

    def champion(self) -> str | None:
        champion = self.registry.champion("answers")
        return champion.number if champion else None


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Nights:
    root = tmp_path_factory.mktemp("nights")
    build_model(root / "base")
    with (root / "data.jsonl").open("w", encoding="utf-8") as file:
        for n in range(180):
            label = WORDS[n % 3]
            file.write(json.dumps({"first": f"a {n}", "second": f"is it {label}", "label": label}) + "\n")
    workspace = Workspace(root / ".sweep")
    return Nights(root, workspace, default_uri(workspace.root))


@pytest.fixture
def writing_nights(tmp_path: Path, nights: Nights) -> Nights:
    """The same data and base model, but the model writes its answers, without labels."""
    for name in ("base", "data.jsonl"):
        (tmp_path / name).symlink_to(nights.root / name)
    workspace = Workspace(tmp_path / ".sweep")
    return Nights(tmp_path, workspace, default_uri(workspace.root), text=FREE_TEXT_FILE)


def folder_of(nights: Nights, version: str) -> str:
    location = MlflowClient(nights.uri, nights.uri).get_model_version_download_uri("answers", version)
    assert location.startswith("file:///")
    return location.removeprefix("file://")


def test_a_winner_is_promoted_only_if_it_is_better_and_breaks_no_guard(nights: Nights) -> None:
    """Each night builds on the nights before: weak, guarded, strong, strong again, and weak
    again.
    """
    weak, _, _ = nights.challenge(WEAK)
    assert not weak.promoted
    assert "always predicting `" in weak.reason or "the base model" in weak.reason
    assert nights.champion() is None

    guarded, _, _ = nights.challenge(STRONG, ", max_latency_ms: 0.0001")
    assert not guarded.promoted
    assert "max_latency_ms is 0.0001" in guarded.reason
    assert guarded.difference_low is not None
    assert guarded.difference_low > 0, "it was better; only the guard prevented its promotion"
    assert nights.champion() is None

    first, trial, said = nights.challenge(STRONG, ", min_recall: 0.5")
    assert first.promoted, first.reason
    assert (first.model, first.version, nights.champion()) == ("answers", "3", "3")
    assert first.challenger_score is not None
    assert first.challenger_score > 0.7
    assert any("registering the winner" in message for message in said)

    same, _, _ = nights.challenge(STRONG)
    assert not same.promoted
    assert "the champion (version 3) has " in same.reason
    assert nights.champion() == "3"

    worse, _, _ = nights.challenge(WEAK)
    assert not worse.promoted
    assert ": worse, difference -" in worse.reason
    assert worse.champion_score == first.challenger_score, "the champion was scored again on the same examples"

    assert nights.repeat_challenge(trial) == first, "a trial was decided twice"
    assert [version.number for version in nights.registry.versions("answers")] == ["5", "4", "3", "2", "1"]


def test_models_that_write_free_text_are_compared_by_the_metric_of_their_texts(writing_nights: Nights) -> None:
    weak, _, _ = writing_nights.challenge(WEAK)
    assert not weak.promoted
    assert "the base model has " in weak.reason
    strong, trial, _ = writing_nights.challenge(STRONG)
    assert strong.promoted, strong.reason
    assert "has exact_match " in strong.reason
    assert strong.challenger_score is not None
    assert strong.challenger_score > 0.7
    again, _, _ = writing_nights.challenge(STRONG)
    assert not again.promoted
    assert again.champion_score == strong.challenger_score, "the champion wrote the same texts again"
    version = writing_nights.registry.champion("answers")
    assert version is not None
    assert float(version.tags["finesweep.test_exact_match"]) == pytest.approx(strong.challenger_score, abs=1e-5)
    assert "finesweep.recall" not in version.tags
    assert writing_nights.repeat_challenge(trial) == strong


def test_a_version_records_data_space_trial_scores_and_signature(nights: Nights) -> None:
    client = MlflowClient(nights.uri, nights.uri)
    version = client.get_model_version_by_alias("answers", CHAMPION_ALIAS)
    tags = version.tags
    plan = nights.plan()
    assert tags["finesweep.data"] == plan.data.fingerprint
    assert tags["finesweep.data.test"] == plan.data.digests["test"]
    assert tags["finesweep.space"] == plan.space.fingerprint
    assert tags["finesweep.base_model"] == plan.base_model
    assert (tags["finesweep.sweep"], tags["finesweep.trial"]) == ("answers", "3")
    assert float(tags["finesweep.test_accuracy"]) > 0.7
    assert float(tags["finesweep.latency_ms"]) > 0
    assert all(f"{word} " in tags["finesweep.recall"] for word in WORDS)
    run = client.get_run(version.run_id)
    assert run.data.tags["finesweep.trial_key"] == "key-3"

    import mlflow

    info = mlflow.models.get_model_info(folder_of(nights, "3"))
    assert [input.name for input in info.signature.inputs] == ["first", "second"]
    assert [output.name for output in info.signature.outputs][:2] == ["label", "probability"]
    assert info.saved_input_example_info is not None
    assert info.metadata["finesweep.data"] == plan.data.fingerprint


def test_the_next_process_moves_the_alias_if_one_died_before(nights: Nights) -> None:
    client = MlflowClient(nights.uri, nights.uri)
    client.delete_registered_model_alias("answers", CHAMPION_ALIAS)
    client.delete_model_version_tag("answers", "3", history.PROMOTED_TAG)
    trial = Trial(3, "key-3", str(nights.root / "base"), STRONG, 3)
    assert nights.repeat_challenge(trial).promoted
    assert nights.champion() == "3"
    client.set_registered_model_alias("answers", CHAMPION_ALIAS, "4")
    assert nights.repeat_challenge(trial).promoted
    assert nights.champion() == "4", "a later rollback was undone"
    client.set_registered_model_alias("answers", CHAMPION_ALIAS, "3")


def test_history_and_rollback(nights: Nights) -> None:
    registry = nights.registry
    better = next(version for version in registry.versions("answers") if version.number == "4")
    before = history.read(registry, "answers")
    assert [(entry.version, entry.decision and entry.decision.promoted) for entry in before] == [
        ("1", False),
        ("2", False),
        ("3", True),
        ("4", False),
        ("5", False),
    ]
    with pytest.raises(SweepError, match="it has no champion before version 3"):
        history.roll_back(registry, "answers", None, "ann", "", 1_900_000_000.0)
    with pytest.raises(SweepError, match="has no version 17"):
        history.roll_back(registry, "answers", "17", "ann", "", 1_900_000_000.0)
    with pytest.raises(SweepError, match="is the champion of `answers` already"):
        history.roll_back(registry, "answers", "3", "ann", "", 1_900_000_000.0)
    entry = history.roll_back(registry, "answers", better.number, "ann", "to see it", 1_900_000_000.0)
    assert (entry.version, entry.before, entry.by, entry.why) == ("4", "3", "ann", "to see it")
    assert nights.champion() == "4"
    after = history.read(registry, "answers")
    assert after[:-1] == before
    assert after[-1] == entry
    history.roll_back(registry, "answers", "3", "ann", "back", 1_900_000_001.0)
    assert nights.champion() == "3"
    with pytest.raises(SweepError, match="there is no registered model `nothing`"):
        history.read(registry, "nothing")


def test_a_champion_that_cannot_predict_stays_and_the_reason_says_so(nights: Nights) -> None:
    config = Path(folder_of(nights, "3")) / "artifacts/files/model/config.json"
    hidden = config.rename(config.with_suffix(".hidden"))
    try:
        decision, _, _ = nights.challenge(STRONG)
    finally:
        hidden.rename(config)
    assert not decision.promoted
    assert "the champion (version 3) could not predict the test examples" in decision.reason
    assert "sweep champion rollback answers --to" in decision.reason
    assert nights.champion() == "3"


PREDICT_WITHOUT_THIS_PRODUCT = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("sweeps", "backends", "search_spaces"):
            raise ImportError(f"{name} is not here")
sys.meta_path.insert(0, Hidden())
import json, mlflow, pandas
model = mlflow.pyfunc.load_model(sys.argv[1])
answers = model.predict(pandas.DataFrame(json.loads(sys.argv[2])))
print(answers.to_json(orient="records", double_precision=15))
"""


def test_a_registered_model_predicts_in_a_fresh_process_without_this_product(nights: Nights, tmp_path: Path) -> None:
    folder = folder_of(nights, "3")
    rows = [{"first": f"b {n}", "second": f"is it {WORDS[n % 3]}"} for n in range(9)]
    command = [sys.executable, "-I", "-W", "ignore", "-c", PREDICT_WITHOUT_THIS_PRODUCT, folder, json.dumps(rows)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)

    plan = nights.plan()
    backend = LocalBackend.open(plan.spec.backend_options, plan.folder, plan.placement)
    from backends.contract import PredictOptions
    from sweeps.tracking.served_card import ServedCard

    card, data = ServedCard.for_dataset(plan.data.dataset, plan.data.prompt, plan.data.separator), plan.data.dataset
    model = next(iter((plan.folder / "jobs").glob("key-3*/model")))
    options = PredictOptions(labels=data.labels, stop=data.stop)
    expected = backend.predict(str(model), [card.line_of_row(row) for row in rows], options)
    backend.close()
    for answer, prediction in zip(answers, expected, strict=True):
        assert prediction.label_logprobs is not None
        assert answer["label"] == card.label_names[data.labels.index(prediction.text)]
        probabilities = torch.tensor(prediction.label_logprobs, dtype=torch.float64).softmax(0).tolist()
        assert [answer[f"probability.{name}"] for name in card.label_names] == pytest.approx(probabilities, abs=1e-5)
        assert answer["probability"] == pytest.approx(max(probabilities), abs=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("test: 0.4", "is decided on a test split, but this data set has none"),
        (
            'completion: " {label}"',
            "compares answers, but this data set has no labels, and no free metric scores a text",
        ),
        ("valid_accuracy", "the registered model would choose labels, but `exact_match` scores texts"),
        ("{model: answers}", "unknown key `champion.modell`"),
        ("{model: answers} ", "write a number"),
    ],
)
def test_the_plan_reports_what_prevents_a_challenge(change: str, message: str, nights: Nights, tmp_path: Path) -> None:
    text = FILE.format(name="x", data=nights.root / "data.jsonl", model=nights.root / "base", guards="")
    changed = {
        "test: 0.4": "test: 0",
        'completion: " {label}"': 'task: generation, completion: " {label}"',
        "valid_accuracy": "valid_exact_match}\nevaluation: {metrics: [exact_match]",
        "{model: answers}": "{modell: answers}",
        "{model: answers} ": "{model: answers, min_recall: lots}",
    }[change]
    file = tmp_path / "x.yaml"
    file.write_text(text.replace(change.strip(), changed))
    with pytest.raises(UserInputError) as caught:
        make_plan(load(file), Workspace(tmp_path / "root"), estimate=False)
    assert any(message in f"{problem.message} {problem.hint}" for problem in caught.value.problems), (
        caught.value.problems
    )
    if "modell" in changed:
        assert any("did you mean `model`?" in problem.hint for problem in caught.value.problems)


def test_an_empty_section_means_all_defaults_and_no_section_registers_nothing(nights: Nights, tmp_path: Path) -> None:
    text = FILE.format(name="x", data=nights.root / "data.jsonl", model=nights.root / "base", guards="")
    file = tmp_path / "x.yaml"
    file.write_text(text.replace("champion: {model: answers}", "champion:"))
    plan = make_plan(load(file), Workspace(tmp_path / "root"), estimate=False)
    assert plan.spec.registered_model == "x"
    assert plan.to_json()["champion"]["model"] == "x"
    file.write_text(text.replace("champion: {model: answers}", ""))
    assert make_plan(load(file), Workspace(tmp_path / "root"), estimate=False).to_json()["champion"] is None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_registered_model_is_served_over_http(nights: Nights, tmp_path: Path) -> None:
    """`mlflow models serve` works in a folder and an environment without this product."""
    port = free_port()
    command = [str(Path(sys.executable).with_name("mlflow")), "models", "serve", "-m", "models:/answers@champion"]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"MLFLOW_TRACKING_URI": nights.uri, "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment |= {"PATH": f"{Path(sys.executable).parent}:{environment.get('PATH', '')}"}
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            base = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 120
            while not is_ready(f"{base}/ping"):
                assert server.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline, (tmp_path / "log").read_text()
                time.sleep(0.3)
            rows = [{"first": f"b {n}", "second": f"is it {WORDS[n % 3]}"} for n in range(3)]
            request = urllib.request.Request(
                f"{base}/invocations",
                json.dumps({"dataframe_records": rows}).encode(),
                {"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=60) as answer:
                predictions = json.load(answer)["predictions"]
            champion = nights.registry.champion("answers")
            assert champion is not None
            expected = nights.registry.load(champion).predict(rows)
            assert [row["label"] for row in predictions] == [row["label"] for row in expected]
            probabilities = [row["probability"] for row in expected]
            assert [row["probability"] for row in predictions] == pytest.approx(probabilities)
            bad = urllib.request.Request(
                f"{base}/invocations",
                json.dumps({"dataframe_records": [{"first": "a"}]}).encode(),
                {"Content-Type": "application/json"},
            )
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(bad, timeout=60)
            with refused.value:
                assert refused.value.code == 400
                assert "second" in refused.value.read().decode(), "the message does not name the missing column"
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(timeout=30)


def is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.mark.skipif("SWEEP_TEST_INSTALL" not in os.environ, reason="installs 1 GB: set SWEEP_TEST_INSTALL=1")
@pytest.mark.timeout(1800)
def test_a_registered_model_needs_only_its_declared_requirements(nights: Nights, tmp_path: Path) -> None:
    """It predicts in an environment with these requirements and nothing else."""
    folder = Path(folder_of(nights, "3"))
    declared = (folder / "requirements.txt").read_text(encoding="utf-8").split()
    assert {requirement.partition("==")[0] for requirement in declared} == {"mlflow", "pandas", "torch", "transformers"}
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True, timeout=300)
    python = tmp_path / "env/bin/python"
    install = [python, "-m", "pip", "install", "--quiet", "--requirement", folder / "requirements.txt"]
    subprocess.run(install, check=True, timeout=1500)
    rows = [{"first": f"b {n}", "second": f"is it {WORDS[n % 3]}"} for n in range(3)]
    command = [python, "-I", "-W", "ignore", "-c", PREDICT_WITHOUT_THIS_PRODUCT, str(folder), json.dumps(rows)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    champion = next(version for version in nights.registry.versions("answers") if version.number == "3")
    expected = nights.registry.load(champion).predict(rows)
    for prediction, wanted in zip(json.loads(done.stdout), expected, strict=True):
        assert prediction["label"] == wanted["label"]
        assert prediction["probability"] == pytest.approx(wanted["probability"], abs=1e-5)


class Racing(Registry):
    """A registry in which another sweep moves the alias `races` times during challenges."""

    races = 0

    def champion(self, model: str) -> Any:
        champion = super().champion(model)
        if Racing.races:
            Racing.races -= 1
            versions = self.versions(model)
            others = [version for version in versions if champion is None or version.number != champion.number]
            self.promote(others[0])
        return champion


@pytest.mark.parametrize("races", [1, 1000])
def test_a_challenge_is_decided_again_if_the_champion_changes_in_the_meantime(nights: Nights, races: int) -> None:
    plan = nights.plan()
    backend = LocalBackend.open(plan.spec.backend_options, plan.folder, plan.placement)
    trial = nights.trained(plan, backend, STRONG)
    winner = SweepWinner(plan, "sweep", trial)
    said: list[str] = []
    Racing.races = races
    try:
        if races == 1:
            decision = run_challenge(winner, backend, Racing(nights.uri), said.append)
            scored = [message for message in said if message.startswith("the champion (version ")]
            assert len(scored) == 2
            assert f"version {nights.champion()}" in decision.reason, "it was decided against a former champion"
        else:
            with pytest.raises(SweepError, match="other sweeps moved the champion"):
                run_challenge(winner, backend, Racing(nights.uri), said.append)
            Racing.races = 0
            assert nights.repeat_challenge(trial).version is not None, "the same call does not continue"
    finally:
        Racing.races = 0
        backend.close()
        third = next(version for version in nights.registry.versions("answers") if version.number == "3")
        nights.registry.promote(third)


def test_a_promotion_that_was_overtaken_is_decided_again(nights: Nights) -> None:
    """The process of a weak winner died before the alias moved; meanwhile a strong one won."""
    client = MlflowClient(nights.uri, nights.uri)
    weak = next(version for version in nights.registry.versions("answers") if version.number == "5")
    decided = history.challenge_entry(weak)
    assert decided is not None
    assert decided.decision is not None
    won = dataclasses.replace(decided, before=None, decision=dataclasses.replace(decided.decision, promoted=True))
    client.set_model_version_tag("answers", "5", history.DECISION_TAG, json.dumps(codec.to_json(won)))
    trial = Trial(5, "key-5", str(nights.root / "base"), WEAK, 5)
    assert not nights.repeat_challenge(trial).promoted
    assert nights.champion() == "3"
