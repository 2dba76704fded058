"""Nights of a schedule that are killed at a chosen durable write, and tried again.

A night is everything that `sweep schedule run-now` or `sweep scheduler` does: the claim, the plan,
the sweep, the challenge to the champion, the outcome, and the notification. `python -m
tests.chaos.kill_points night` kills at each of its writes.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import IO, Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parent))

import inline_engine
import optuna
from durable_writes import DurableWrites, KillPoint
from forked_process import ChildEnd, run_in_child
from killed_sweep import create_mlflow, leftovers, recorded_submissions, registrable_fake_models, service_runs
from killed_sweep import submissions as recorded
from mlflow_equality import mlflow_differences
from sweep_invariants import Expectation, SweepFacts, seen_events, violations

from backends.contract import Charged
from sweeps.champions import history
from sweeps.cli import main as command_line
from sweeps.cli import nights as _imported_before_the_fork  # noqa: F401
from sweeps.cli.nights import notify, open_store
from sweeps.execution import run as _and_this  # noqa: F401
from sweeps.planning.plan import plan_file
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.scheduling import night_run as _and_that  # noqa: F401
from sweeps.scheduling import notifications, summary
from sweeps.scheduling.daemon import Daemon
from sweeps.scheduling.monthly_budget import monthly_spend
from sweeps.scheduling.night import Night, NightState, nights_folder
from sweeps.scheduling.night_process import NightLauncher
from sweeps.scheduling.schedule import NotificationSettings, Schedule
from sweeps.scheduling.store import ScheduleStore
from sweeps.scheduling.sweep_naming import renamed
from sweeps.study import attributes
from sweeps.study.storage import close_storage, open_storage
from sweeps.tracking.registry import Registry
from sweeps.workspace import Workspace

NAME, MODEL, TRIALS, MONTHLY_USD = "nightly", "answers", 3, 2.0

FILE = f"""\
name: pairs
data: {{checks: quick, source: pairs.csv, prompt: "{{text}}", completion: " {{label}}", validation: 0.2, test: 0.1}}
backend: {{type: fake, model: fake-small, events_per_poll: 4, price_usd_per_token: 0.00001}}
space:
  n_epochs: [1, 2]
  learning_rate_multiplier: {{low: 0.01, high: 0.4, log: true}}
search: {{sampler: random, scheduler: none, trials: {TRIALS}, concurrency: 2}}
objective: {{maximize: valid_accuracy}}
budget: {{monthly_usd: {MONTHLY_USD}}}
champion: {{model: {MODEL}}}
"""

MAX_KILLS = 2
"""The third attempt at a night is its last one."""

SECOND_KILL_SHARE = 0.3
"""The share of the nights that are killed once more, at a random write."""


@dataclass(frozen=True)
class NightScenario:
    """How a night starts, and whether it is the first one of its schedule.

    `starter` is `hand` (the schedule is added, exported, and run by hand), `cron` or `scheduler`. A
    night that is not the first one finds changed data, a champion and points for a warm start.
    """

    name: str
    starter: str
    first: bool


NIGHTS = {
    scenario.name: scenario
    for scenario in (
        NightScenario("night", "hand", first=True),
        NightScenario("night-scheduler", "scheduler", first=True),
        NightScenario("night-cron", "cron", first=False),
    )
}


@dataclass
class KilledNight:
    """A night in a folder that is the same for every case: MLflow stores absolute paths."""

    scenario: NightScenario
    folder: Path

    # ---------------------------------------------------------------------------------------- cases
    @cached_property
    def writes(self) -> DurableWrites:
        """The durable writes of a night that nothing disturbs. It must itself be without fault."""
        self._begin()
        end = self._attempt()
        assert end.exit_code == 0, f"the undisturbed night ended with {end}"
        listing = json.loads((self.root / "writes.json").read_text())
        self._undisturbed = self._nights()[-1]
        found = self.violations()
        assert not found, f"the undisturbed night: {found}"
        return DurableWrites(self.root, names=listing["names"], tearable=listing["tearable"])

    def case(self, kill_at: KillPoint, seed: int) -> list[str]:
        """Kill a night at this point, try it again until it has ended, and return what is wrong."""
        count = len(self.writes.names)
        self._begin()
        choice = random.Random(f"{self.scenario.name} {kill_at} {seed}")
        kills, end = 0, self._attempt(kill_at)
        while end.killed:
            kills += 1
            self._let_leases_expire()
            again = None
            if kills < MAX_KILLS and choice.random() < SECOND_KILL_SHARE:
                again = KillPoint(choice.randrange(count), choice.choice(("before", "after")))
            end = self._attempt(again)
        if end.exit_code != 0:
            return [f"the night ended with {end}"]
        return self.violations()

    # -------------------------------------------------------------------------------------- folders
    @property
    def root(self) -> Path:
        """The folder of the user: the sweep file, the data and the workspace."""
        return self.folder / "root"

    @property
    def workspace(self) -> Workspace:
        """The workspace of the schedule."""
        return Workspace(self.root / "workspace")

    def _begin(self) -> None:
        """Put the folder into the state before the night."""
        before = self._before_the_night
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(before, self.root)

    @cached_property
    def _before_the_night(self) -> Path:
        self.workspace.root.mkdir(parents=True)
        (self.root / "pairs.yaml").write_text(FILE)
        write_data(self.root / "pairs.csv", "old")
        database = self.workspace.root / "mlflow.db"
        end = run_in_child(lambda: create_mlflow(database), self.root / "mlflow.txt")
        assert end.exit_code == 0, end
        now = datetime.now(UTC)
        if not self.scenario.first:
            self._schedule(now - timedelta(days=1))
            end = self._attempt()
            assert end.exit_code == 0, f"the night before ended with {end}"
            write_data(self.root / "pairs.csv", "new")
        if self.scenario.starter != "hand":
            self._schedule(now)
        before = self.folder / "before"
        shutil.copytree(self.root, before)
        return before

    def _schedule(self, due: datetime) -> None:
        """Let a night be due that was planned at `due`, once a year."""
        cron = f"{due.minute} {due.hour} {due.day} {due.month} *"
        created_at = due.timestamp() - 70
        notified = NotificationSettings(("TEAM",), (), "always")
        schedule = Schedule(
            NAME, str(self.root / "pairs.yaml"), cron, "UTC", created_at, notify=notified, folder=str(self.root)
        )
        with self._store() as store:
            (store.replace if store.all() else store.add)(schedule)

    def _let_leases_expire(self) -> None:
        """Do what two minutes do."""
        file = self.workspace.root / "schedules.db"
        with contextlib.suppress(sqlite3.OperationalError), closing(sqlite3.connect(file)) as connection, connection:
            connection.execute("UPDATE finesweep_schedules SET held_until = 1 WHERE held_until IS NOT NULL")
            connection.execute("UPDATE finesweep_nights SET telling_until = 1 WHERE telling_until IS NOT NULL")

    # ------------------------------------------------------------------------------------- attempts
    def _attempt(self, kill_at: KillPoint | None = None) -> ChildEnd:
        """Start the night in a child, without Ray."""
        output = self.root / "output.txt"
        output.unlink(missing_ok=True)
        return run_in_child(lambda: self._run(kill_at), output, timeout_s=150.0)

    def _run(self, kill_at: KillPoint | None) -> None:
        for name in ("SWEEP_STORAGE", "MLFLOW_TRACKING_URI", "RAY_ADDRESS", "SWEEP_ROOT", "SWEEP_FILES"):
            os.environ.pop(name, None)
        os.environ["TEAM"] = "json://127.0.0.1:1/"
        os.environ["TMPDIR"] = tempfile.tempdir = str(self.root)
        os.chdir(self.root)
        writes = DurableWrites(self.workspace.root, kill_at)
        with ExitStack() as stack:
            stack.enter_context(inline_engine.instead_of_ray())
            stack.enter_context(patch("sweeps.execution.run.page", lambda state, now: "the report"))
            stack.enter_context(recorded_submissions(self.root / "submissions.jsonl"))
            stack.enter_context(registrable_fake_models())
            stack.enter_context(patch.object(notifications, "send", self._recording_sender(writes)))
            writes.install()
            {"hand": self._by_hand, "cron": self._by_cron, "scheduler": self._by_scheduler}[self.scenario.starter]()
        listing = {"names": writes.names, "tearable": writes.tearable}
        (self.root / "writes.json").write_text(json.dumps(listing))

    def _by_hand(self) -> None:
        with self._store() as store:
            is_known = bool(store.all())
        if not is_known:
            once_a_year = ("--cron", "0 0 1 1 *", "--tz", "UTC", "--notify-env", "TEAM", "--notify-when", "always")
            _command(self.workspace, "schedule", "add", "pairs.yaml", "--name", NAME, *once_a_year)
        exported = str(self.workspace.root / "exported")
        _command(self.workspace, "schedule", "export", NAME, "--format", "systemd", "--out", exported)
        _command(self.workspace, "schedule", "run-now", NAME)

    def _by_cron(self) -> None:
        _command(self.workspace, "schedule", "run-now", NAME, "--planned")

    def _by_scheduler(self) -> None:
        """Make the rounds of `sweep scheduler`; the process of the night is this one."""
        workspace = self.workspace

        def start(command: Sequence[str], output: IO[bytes]) -> _EndedProcess:
            _command(workspace, *command)
            return _EndedProcess()

        def log_file(night: Night) -> Path:
            return nights_folder(workspace, NAME) / f"{night.file_name}.log"

        launcher = NightLauncher(lambda claim: ("schedule", "run-now", NAME, "--claim", claim.holder), log_file, start)
        store = open_store(workspace)
        daemon = Daemon(store, launcher, print, lambda schedule, night: notify(workspace, schedule, night))
        for _ in range(3):
            daemon.tick()
        store.close()

    def _recording_sender(self, writes: DurableWrites) -> Any:
        file = self.root / "notifications.jsonl"

        def send(addresses: Sequence[object], title: str, html: str, *, failure: bool) -> list[str]:
            def act() -> None:
                with file.open("a") as written:
                    written.write(json.dumps({"title": title, "failure": failure}) + "\n")

            writes.write("send", act)
            return []

        return send

    # --------------------------------------------------------------------------------------- checks
    def violations(self) -> list[str]:
        """Return what is wrong with the night, its sweep, its champion and its notifications.

        A child looks: MLflow keeps connections to a database, and the next case replaces the file.
        """
        file = self.folder / "violations.json"
        file.unlink(missing_ok=True)
        end = run_in_child(lambda: _write_json(file, self._violations()), self.folder / "violations.txt")
        if end.exit_code != 0:
            return [f"the night cannot be examined: {end}"]
        found: list[str] = json.loads(file.read_text())
        return found

    def _violations(self) -> list[str]:
        nights = self._nights()
        found = [*self._wrong_nights(nights)]
        if found:
            return found
        done = next(night for night in nights if night.state is NightState.DONE)
        plan = self._plan(done.sweep or "")
        found += self._wrong_sweep(plan, done)
        found += self._wrong_registry(plan, done)
        found += self._wrong_money(nights)
        found += self._wrong_notifications(nights)
        found += leftovers(self.root)
        found += self._wrong_export()
        found += self._wrong_commands(plan)
        return found

    def _nights(self) -> list[Night]:
        """Return the nights since the beginning of the case."""
        with self._store() as store:
            nights = store.nights(NAME) if store.all() else []
        return nights if self.scenario.first else nights[1:]

    def _wrong_nights(self, nights: Sequence[Night]) -> Iterator[str]:
        states = [night.state.value for night in nights]
        if states.count(NightState.DONE) != 1:
            yield f"the nights are {states}"
            return
        done = states.index(NightState.DONE)
        if set(states[:done]) - {NightState.LOST} or set(states[done + 1 :]) - {NightState.UNCHANGED}:
            yield f"the nights are {states}"
        if self.scenario.starter != "hand" and len({night.planned_at for night in nights}) != 1:
            yield f"the night was planned at {[night.label for night in nights]}"
        names = {night.sweep for night in nights if night.sweep}
        if len(names) != 1:
            yield f"the attempts had the sweeps {sorted(names)}"
        expected = {"pairs"} | ({str(nights[done].sweep)} if not self.scenario.first else set())
        if set(self.workspace.sweep_names()) != expected:
            yield f"the workspace has the sweeps {self.workspace.sweep_names()}"
        lacking = self._undisturbed.results.keys() - nights[done].results.keys() - {"drift"}
        if lacking and nights[done].results["worth"] == self._undisturbed.results["worth"]:
            yield f"the night's results lack {sorted(lacking)}"
        for night in nights:
            for report in filter(None, [(night.results.get("drift") or {}).get("report")]):
                text = Path(report).read_text()
                if not text.startswith("# Data drift") or not text.endswith("\n"):
                    yield f"the drift report of {night.label} is torn"
                json.loads(Path(report).with_suffix(".json").read_text())
        drifts = [night for night in nights if night.results.get("drift")]
        if len(drifts) != (0 if self.scenario.first else 1):
            yield f"{len(drifts)} nights report drift"

    def _plan(self, sweep: str) -> SweepPlan:
        with registrable_fake_models(), contextlib.chdir(self.root):
            plan = plan_file(self.root / "pairs.yaml", (), self.workspace, estimate=False)
        return renamed(plan, sweep, self.workspace)

    def _study(self, sweep: str) -> optuna.Study:
        storage = open_storage(self.workspace.study_file(sweep))
        try:
            return optuna.load_study(study_name=self.workspace.study_name(sweep), storage=storage)
        finally:
            close_storage(storage)

    def _wrong_sweep(self, plan: SweepPlan, done: Night) -> Iterator[str]:
        study = self._study(plan.spec.name)
        facts = SweepFacts(plan, study, service_runs(plan.folder), self._submissions(plan.folder), knows_runs=True)
        points = [] if self.scenario.first else self._undisturbed.results["first_points"]
        if not self.scenario.first and not points:
            yield "this scenario has no warm start"
        yield from violations(facts, Expectation(TRIALS, points=points))
        yield from mlflow_differences(self.workspace.root, plan.spec.name)
        if done.results["trials_of_the_sweep"] != TRIALS:
            yield f"the night says {done.results['trials_of_the_sweep']} trials"
        if Path(done.results["report"]).read_text() != "the report":
            yield "the report is torn"
        decision = study.user_attrs.get(attributes.CHAMPION)
        if decision is None or done.results["champion"] != decision:
            yield f"the night says {done.results['champion']}, the study {decision}"

    def _submissions(self, folder: Path) -> Any:
        keys = {run.key for run in service_runs(folder)}
        return [request for request in recorded(self.root / "submissions.jsonl") if request.key in keys]

    def _wrong_registry(self, plan: SweepPlan, done: Night) -> Iterator[str]:
        registry = Registry(f"sqlite:///{self.workspace.root / 'mlflow.db'}")
        champion, versions = registry.champion(MODEL), registry.versions(MODEL)
        decision = done.results["champion"]
        if not decision["promoted"]:
            yield f"the winner was not promoted: {decision}"
        if champion is None or champion.number != decision["version"]:
            yield f"the champion is {champion}, the night says version {decision['version']}"
        if len(versions) != (1 if self.scenario.first else 2):
            yield f"there are {len(versions)} versions"
        promotions = Counter(entry.version for entry in history.read(registry, MODEL) if entry.moved_alias)
        if set(promotions.values()) != {1} or len(promotions) != len(versions):
            yield f"the history of promotions is {dict(promotions)}"
        if any(history.PROMOTED_TAG not in version.tags for version in versions):
            yield "a promotion is not confirmed"

    def _wrong_export(self) -> Iterator[str]:
        for unit in ("service", "timer") if self.scenario.starter == "hand" else ():
            text = (self.workspace.root / "exported" / f"finesweep-{NAME}.{unit}").read_text()
            if not text.startswith("[Unit]") or not text.endswith("\n"):
                yield f"the exported {unit} is torn"

    def _wrong_money(self, nights: Sequence[Night]) -> Iterator[str]:
        """The month holds what the services charged, neither less nor more."""
        with self._store() as store:
            month = monthly_spend(store.nights(NAME), "UTC", MONTHLY_USD, datetime.now(UTC).timestamp())
        charged = 0.0
        for sweep in self.workspace.sweep_names():
            runs = service_runs(self.workspace.sweep_folder(sweep))
            charged += sum(event.usd or 0.0 for run in runs for event in seen_events(run) if isinstance(event, Charged))
        if charged <= 0:
            yield "this scenario costs nothing"
        if abs(month.cost_bound_usd - charged) > 1e-6:
            yield f"the month says ${month.cost_bound_usd}, the service charged ${charged}"

    def _wrong_notifications(self, nights: Sequence[Night]) -> Iterator[str]:
        with self._store() as store:
            schedule = store.get(NAME)
        file = self.root / "notifications.jsonl"
        titles = Counter(json.loads(line)["title"] for line in file.read_text().splitlines())
        for night in nights:
            if not titles[summary.title(schedule, night)]:
                yield f"nobody was told: {summary.title(schedule, night)}"
            page = nights_folder(self.workspace, NAME) / f"{night.file_name}.md"
            if not page.exists() or page.read_text() != summary.markdown(schedule, night):
                yield f"{page.name} is not the summary of the night"
            elif page.with_suffix(".html").read_text() != summary.html(schedule, night):
                yield f"{page.stem}.html is not the summary of the night"
        with closing(sqlite3.connect(self.workspace.root / "schedules.db")) as connection:
            query = "SELECT COUNT(*) FROM finesweep_nights WHERE telling_until IS NOT NULL"
            if (waiting := connection.execute(query).fetchone()[0]) > 0:
                yield f"{waiting} notifications still wait"

    def _wrong_commands(self, plan: SweepPlan) -> Iterator[str]:
        """Yield what is wrong with the commands that a user types the next morning."""
        for command in (
            ("schedule", "list"),
            ("schedule", "history", NAME),
            ("status",),
            ("status", plan.spec.name),
            ("schedule", "run-now", NAME),
        ):
            end = run_in_child(lambda command=command: self._morning(command), self.root / "morning.txt")  # type: ignore[misc]
            if end.exit_code != 0 or "Traceback" in end.output:
                yield f"sweep {' '.join(command)} ended with {end}"
        with self._store() as store:
            last = store.nights(NAME)[-1]
        if last.state is not NightState.UNCHANGED:
            yield f"the next night is {last.state.value}: {last.reason}"

    def _morning(self, command: Sequence[str]) -> None:
        for name in ("SWEEP_STORAGE", "MLFLOW_TRACKING_URI", "RAY_ADDRESS", "SWEEP_ROOT", "SWEEP_FILES"):
            os.environ.pop(name, None)
        os.environ["TEAM"] = ""
        os.chdir(self.root)
        with registrable_fake_models():
            _command(self.workspace, *command)

    @contextlib.contextmanager
    def _store(self) -> Iterator[ScheduleStore]:
        store = ScheduleStore.open(self.workspace, None)
        try:
            yield store
        finally:
            store.close()


@dataclass
class _EndedProcess:
    """A process that has already ended; see `night_process.Process`."""

    pid: int = 0

    def poll(self) -> int:
        return 0

    def wait(self, timeout: float | None = None) -> int:
        return 0

    def send_signal(self, sig: int) -> None:
        pass

    def kill(self) -> None:
        pass


def write_data(file: Path, word: str) -> None:
    """Write labelled examples in which `word` occurs."""
    lines = [f"{word} sentence {row} of {row % 7} words,{('yes', 'no', 'maybe')[row % 3]}" for row in range(300)]
    file.write_text("text,label\n" + "\n".join(lines) + "\n")


def _write_json(file: Path, content: list[str]) -> None:
    file.write_text(json.dumps(content))


def _command(workspace: Workspace, *arguments: str) -> None:
    """Run `sweep` with these arguments in this process. Raises SystemExit if it fails."""
    with patch.object(sys, "argv", ["sweep", "--root", str(workspace.root), *arguments]):
        try:
            command_line.main()
        except SystemExit as end:
            if end.code:
                raise
