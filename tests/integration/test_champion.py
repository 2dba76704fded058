"""Nights of champion and challenger with the real local backend and the real registry; the models are tiny."""

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
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from backends.contract import Finished
from backends.local import LocalBackend
from backends.testing import drain
from sweeps.champions import challenge as contest
from sweeps.champions import history
from sweeps.errors import SweepError, UserInputError
from sweeps.planning.plan import make_plan
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.spec.loading import load
from sweeps.study.champion_decision import ChampionDecision
from sweeps.tracking import TrackedDataset, Tracker, default_uri
from sweeps.tracking.registry import CHAMPION_ALIAS, Registry
from sweeps.trials.trial import Spend, Trial, TrialState
from sweeps.workspace import Workspace

pytestmark = [
    pytest.mark.integration,
    pytest.mark.trains,
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

WORDS = ("yes", "no", "maybe")
FILE = """\
name: {name}
data: {{source: {data}, prompt: "{{first}} {{second}}##", separator: "##", completion: " {{label}}", stop: "|",
       validation: 0.1, test: 0.4}}
backend: {{type: local, model: {model}, device: cpu}}
space: {{n_epochs: 1, batch_size: 4, learning_rate: 0.01}}
objective: {{maximize: valid_accuracy}}
champion: {{model: answers{guards}}}
"""
STRONG = {"n_epochs": 6, "batch_size": 4, "learning_rate": 0.01}
WEAK = {"n_epochs": 1, "batch_size": 64, "learning_rate": 1e-6}


def build_model(directory: Path) -> None:
    characters = ["[PAD]", "[UNK]", "[END]", *"abcdefghijklmnopqrstuvwxyz0123456789#| \n"]
    tokenizer = Tokenizer(models.WordLevel({each: n for n, each in enumerate(characters)}, unk_token="[UNK]"))
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
    """A root folder with data, a base model, an MLflow database, and one trial a night."""

    root: Path
    workspace: Workspace
    uri: str
    night: int = 0

    @property
    def registry(self) -> Registry:
        return Registry(self.uri)

    def plan(self, guards: str = "", name: str = "answers") -> SweepPlan:
        file = self.root / f"{name}.yaml"
        data, model = self.root / "data.jsonl", self.root / "base"
        file.write_text(FILE.format(name=name, data=data, model=model, guards=guards), encoding="utf-8")
        return make_plan(load(file), self.workspace, estimate=False)

    def trained(self, plan: SweepPlan, backend: LocalBackend, point: dict[str, Any]) -> Trial:
        self.night += 1
        trial = Trial(self.night, f"key-{self.night}", plan.base_model, point, self.night)
        [*_, end] = drain(backend, backend.submit(plan.request(trial)), timeout_s=120)
        assert isinstance(end, Finished)
        tracker = Tracker.connect(self.uri, plan.spec.name, self.workspace.artifacts)
        dataset = TrackedDataset.of(plan.data)
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
            decision = contest.hold(plan, "sweep", trial, backend, self.registry, said.append, lambda: at)
        finally:
            backend.close()
        return decision, trial, said

    def again(self, trial: Trial) -> ChampionDecision:
        plan = self.plan()
        backend = LocalBackend.open(plan.spec.backend_options, plan.folder, plan.placement)
        try:
            return contest.hold(plan, "sweep", trial, backend, self.registry, lambda _: None)
        finally:
            backend.close()

    def champion(self) -> str | None:
        found = self.registry.champion("answers")
        return found.number if found else None


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


def folder_of(nights: Nights, version: str) -> str:
    where = MlflowClient(nights.uri, nights.uri).get_model_version_download_uri("answers", version)
    assert where.startswith("file:///")
    return where.removeprefix("file://")


def test_nights_of_challenges(nights: Nights) -> None:
    """One story, as each night builds on those before: weak, strong, strong again, weak with an alias to keep."""
    weak, _, _ = nights.challenge(WEAK)
    assert not weak.promoted
    assert "always `" in weak.reason or "the base model" in weak.reason
    assert nights.champion() is None

    guarded, _, _ = nights.challenge(STRONG, ", max_latency_ms: 0.0001")
    assert not guarded.promoted
    assert "max_latency_ms is 0.0001" in guarded.reason
    assert guarded.difference_low is not None
    assert guarded.difference_low > 0, "it was better, and the guard alone kept it out"
    assert nights.champion() is None

    first, trial, said = nights.challenge(STRONG, ", min_recall: 0.5")
    assert first.promoted, first.reason
    assert (first.model, first.version, nights.champion()) == ("answers", "3", "3")
    assert first.challenger_score is not None
    assert first.challenger_score > 0.7
    assert any("registering the winner" in each for each in said)

    same, _, _ = nights.challenge(STRONG)
    assert not same.promoted
    assert "the champion, version 3," in same.reason
    assert nights.champion() == "3"

    worse, _, _ = nights.challenge(WEAK)
    assert not worse.promoted
    assert ": worse," in worse.reason
    assert worse.champion_score == first.challenger_score, "the champion was asked anew, and the examples are the same"

    assert nights.again(trial) == first, "a trial is decided once"
    assert [version.number for version in nights.registry.versions("answers")] == ["5", "4", "3", "2", "1"]


def test_what_is_recorded_of_a_version(nights: Nights) -> None:
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
    assert all(f"{each} " in tags["finesweep.recall"] for each in WORDS)
    run = client.get_run(version.run_id)
    assert run.data.tags["finesweep.trial_key"] == "key-3"

    import mlflow

    info = mlflow.models.get_model_info(folder_of(nights, "3"))
    assert [input.name for input in info.signature.inputs] == ["first", "second"]
    assert [output.name for output in info.signature.outputs][:2] == ["label", "probability"]
    assert info.saved_input_example_info is not None
    assert info.metadata["finesweep.data"] == plan.data.fingerprint


def test_history_and_rollback(nights: Nights) -> None:
    registry = nights.registry
    better = next(version for version in registry.versions("answers") if version.number == "4")
    before = [each.to_json() for each in history.read(registry, "answers")]
    assert [(each["version"], each["decision"]["promoted"]) for each in before] == [
        ("1", False), ("2", False), ("3", True), ("4", False), ("5", False),
    ]  # fmt: skip
    with pytest.raises(SweepError, match="there was none before it"):
        history.roll_back(registry, "answers", None, "ann", "", 1_900_000_000.0)
    with pytest.raises(SweepError, match="has no version 17"):
        history.roll_back(registry, "answers", "17", "ann", "", 1_900_000_000.0)
    with pytest.raises(SweepError, match="is the champion of `answers` already"):
        history.roll_back(registry, "answers", "3", "ann", "", 1_900_000_000.0)
    entry = history.roll_back(registry, "answers", better.number, "ann", "to see it", 1_900_000_000.0)
    assert (entry.version, entry.before, entry.by, entry.why) == ("4", "3", "ann", "to see it")
    assert nights.champion() == "4"
    after = history.read(registry, "answers")
    assert [each.to_json() for each in after[:-1]] == before
    assert after[-1] == entry
    history.roll_back(registry, "answers", "3", "ann", "back", 1_900_000_001.0)
    assert nights.champion() == "3"
    with pytest.raises(SweepError, match="there is no registered model `nothing`"):
        history.read(registry, "nothing")


def test_a_process_that_died_before_the_alias_moved_is_caught_up(nights: Nights) -> None:
    client = MlflowClient(nights.uri, nights.uri)
    client.delete_registered_model_alias("answers", CHAMPION_ALIAS)
    client.delete_model_version_tag("answers", "3", history.APPLIED)
    trial = Trial(3, "key-3", str(nights.root / "base"), STRONG, 3)
    assert nights.again(trial).promoted
    assert nights.champion() == "3"
    client.set_registered_model_alias("answers", CHAMPION_ALIAS, "4")
    assert nights.again(trial).promoted
    assert nights.champion() == "4", "what was moved by hand since is left alone"
    client.set_registered_model_alias("answers", CHAMPION_ALIAS, "3")


def test_a_champion_that_cannot_be_asked_stays_and_the_reason_says_so(nights: Nights) -> None:
    of_champion = Path(folder_of(nights, "3")) / "artifacts/files/model/config.json"
    hidden = of_champion.rename(of_champion.with_suffix(".hidden"))
    try:
        decision, _, _ = nights.challenge(STRONG)
    finally:
        hidden.rename(of_champion)
    assert not decision.promoted
    assert "version 3, could not be asked" in decision.reason
    assert "sweep champion rollback answers --to" in decision.reason
    assert nights.champion() == "3"


HIDDEN = """
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


def test_a_registered_model_answers_in_a_fresh_process_without_this_product(nights: Nights, tmp_path: Path) -> None:
    where = folder_of(nights, "3")
    rows = [{"first": f"b {n}", "second": f"is it {WORDS[n % 3]}"} for n in range(9)]
    command = [sys.executable, "-I", "-W", "ignore", "-c", HIDDEN, where, json.dumps(rows)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)

    plan = nights.plan()
    backend = LocalBackend.open(plan.spec.backend_options, plan.folder, plan.placement)
    from backends.contract import PredictOptions
    from sweeps.tracking.served_card import ServedCard

    card, data = ServedCard.of(plan.data.dataset, plan.data.prompt, plan.data.separator), plan.data.dataset
    model = next(iter((plan.folder / "jobs").glob("key-3*/model")))
    options = PredictOptions(labels=data.labels, stop=data.stop)
    expected = backend.predict(str(model), [card.line(row) for row in rows], options)
    backend.close()
    for answer, each in zip(answers, expected, strict=True):
        assert each.label_logprobs is not None
        assert answer["label"] == card.names[data.labels.index(each.text)]
        shares = torch.tensor(each.label_logprobs, dtype=torch.float64).softmax(0).tolist()
        assert [answer[f"probability.{name}"] for name in card.names] == pytest.approx(shares, abs=1e-5)
        assert answer["probability"] == pytest.approx(max(shares), abs=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("test: 0.4", "is decided on a test split, but this data set has none"),
        ('completion: " {label}"', "compares predicted labels, but this data set has no labels"),
        ("{model: answers}", "unknown key `champion.modell`"),
        ("{model: answers} ", "write a number"),
    ],
)
def test_what_keeps_a_champion_from_being_challenged_is_told_by_the_plan(
    change: str, message: str, nights: Nights, tmp_path: Path
) -> None:
    text = FILE.format(name="x", data=nights.root / "data.jsonl", model=nights.root / "base", guards="")
    changed = {
        "test: 0.4": "test: 0",
        'completion: " {label}"': 'task: generation, completion: " {label}"',
        "{model: answers}": "{modell: answers}",
        "{model: answers} ": "{model: answers, min_recall: lots}",
    }[change]
    file = tmp_path / "x.yaml"
    file.write_text(text.replace(change.strip(), changed))
    with pytest.raises(UserInputError) as caught:
        make_plan(load(file), Workspace(tmp_path / "root"), estimate=False)
    assert any(message in f"{problem.message} {problem.hint}" for problem in caught.value.problems), caught.value.problems
    if "modell" in changed:
        assert any("did you mean `model`?" in problem.hint for problem in caught.value.problems)


def test_an_empty_section_is_all_defaults_and_none_registers_nothing(nights: Nights, tmp_path: Path) -> None:
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
    """`mlflow models serve` with the champion's URI, in a folder and an environment that know nothing of us."""
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
            while not answers(f"{base}/ping"):
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
                found = json.load(answer)["predictions"]
            loaded = nights.registry.champion("answers")
            assert loaded is not None
            expected = nights.registry.load(loaded).predict(rows)
            assert [each["label"] for each in found] == [each["label"] for each in expected]
            assert [each["probability"] for each in found] == pytest.approx([e["probability"] for e in expected])
            bad = urllib.request.Request(
                f"{base}/invocations",
                json.dumps({"dataframe_records": [{"first": "a"}]}).encode(),
                {"Content-Type": "application/json"},
            )
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(bad, timeout=60)
            with refused.value:
                assert refused.value.code == 400
                assert "second" in refused.value.read().decode(), "the signature says which column is missing"
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(timeout=30)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.mark.skipif("SWEEP_TEST_INSTALL" not in os.environ, reason="installs 1 GB: set SWEEP_TEST_INSTALL=1")
@pytest.mark.timeout(1800)
def test_a_registered_model_needs_only_what_it_declares(nights: Nights, tmp_path: Path) -> None:
    """An environment with the declared requirements and nothing else, from the package registry."""
    where = Path(folder_of(nights, "3"))
    declared = (where / "requirements.txt").read_text(encoding="utf-8").split()
    assert {each.partition("==")[0] for each in declared} == {"mlflow", "pandas", "torch", "transformers"}
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True, timeout=300)
    python = tmp_path / "env/bin/python"
    install = [python, "-m", "pip", "install", "--quiet", "--requirement", where / "requirements.txt"]
    subprocess.run(install, check=True, timeout=1500)
    rows = [{"first": f"b {n}", "second": f"is it {WORDS[n % 3]}"} for n in range(3)]
    command = [python, "-I", "-W", "ignore", "-c", HIDDEN, str(where), json.dumps(rows)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    champion = next(version for version in nights.registry.versions("answers") if version.number == "3")
    expected = nights.registry.load(champion).predict(rows)
    for found, each in zip(json.loads(done.stdout), expected, strict=True):
        assert found["label"] == each["label"]
        assert found["probability"] == pytest.approx(each["probability"], abs=1e-5)


class Racing(Registry):
    """A registry in which somebody else moves the alias while a challenge is decided, so many times."""

    races = 0

    def champion(self, model: str) -> Any:
        found = super().champion(model)
        if Racing.races:
            Racing.races -= 1
            self.promote(next(version for version in self.versions(model) if found is None or version.number != found.number))
        return found


@pytest.mark.parametrize("races", [1, 1000])
def test_a_champion_that_changes_meanwhile_is_compared_with_anew(nights: Nights, races: int) -> None:
    plan = nights.plan()
    backend = LocalBackend.open(plan.spec.backend_options, plan.folder, plan.placement)
    trial = nights.trained(plan, backend, STRONG)
    said: list[str] = []
    Racing.races = races
    try:
        if races == 1:
            decision = contest.hold(plan, "sweep", trial, backend, Racing(nights.uri), said.append)
            asked = [each for each in said if each.startswith("the champion, version")]
            assert len(asked) == 2
            assert f"version {nights.champion()}" in decision.reason, "decided against who is the champion now"
        else:
            with pytest.raises(SweepError, match="other sweeps moved the champion"):
                contest.hold(plan, "sweep", trial, backend, Racing(nights.uri), said.append)
            Racing.races = 0
            assert nights.again(trial).version is not None, "the same call goes on where it was"
    finally:
        Racing.races = 0
        backend.close()
        found = next(version for version in nights.registry.versions("answers") if version.number == "3")
        nights.registry.promote(found)
