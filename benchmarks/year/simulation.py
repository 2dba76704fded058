"""Simulation of one year with the product's own scheduling, sweeps, challenges and ledger.

Four parts are stand-ins: the clock, the training service (the fake backend with models of known
quality), the loop that feeds the session (in this process instead of Ray), and the registry (in
memory instead of MLflow's).
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Any, cast
from zoneinfo import ZoneInfo

from backends.contract import TERMINAL_EVENTS, Backend, BackendError, Event, Failed, Handle
from benchmarks.year.registry import MemoryRegistry
from benchmarks.year.service import YearBackend, charges
from benchmarks.year.world import Quality, Team, World, draw_events, draw_outages, local_day
from sweeps.errors import SweepInterruptedError
from sweeps.execution.budget_ledger import SETTLEMENT_TIMEOUT_S
from sweeps.execution.champion_challenge import challenge_champion
from sweeps.execution.environment import Environment, open_study
from sweeps.execution.finals_decision import decide_finals
from sweeps.execution.observers import ProgressObserver
from sweeps.execution.outcome import Outcome, SweepEnd, outcome_of
from sweeps.execution.running_trial import TrialEnd
from sweeps.execution.session import Session
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.scheduling.calendar import planned_times
from sweeps.scheduling.claims import LEASE_S, Claim, Claims
from sweeps.scheduling.daemon import Daemon
from sweeps.scheduling.database import Database
from sweeps.scheduling.monthly_budget import month_name
from sweeps.scheduling.night import Night
from sweeps.scheduling.night_context import NightContext
from sweeps.scheduling.night_process import NightLauncher
from sweeps.scheduling.night_run import run_night
from sweeps.scheduling.schedule import NotificationSettings, Schedule
from sweeps.scheduling.store import ScheduleStore
from sweeps.scheduling.summary import should_notify
from sweeps.study.study import Study
from sweeps.trials.trial import Trial, leaderboard
from sweeps.workspace import Workspace

STEP_S = 300.0
"""The simulated seconds between two polls of the runs."""


@dataclass
class Challenge:
    """A challenge, with or without promotion, and the true quality of both models on that day."""

    promoted: bool
    champion: float
    challenger: float

    @property
    def false(self) -> bool:
        """Whether the promotion made the champion worse."""
        return self.promoted and self.challenger < self.champion


@dataclass
class PromotionRule:
    """The decisions of a promotion rule over the year.

    `served` holds its champion's true quality for each day.
    """

    name: str
    champion: Quality | None = None
    score: float = -1.0
    challenges: list[Challenge] = field(default_factory=list)
    served: list[float] = field(default_factory=list)

    def offer(self, world: World, challenger: Quality, *, promote: bool) -> None:
        """Record a challenge and follow the decision `promote`."""
        if self.champion is not None:
            self.challenges.append(
                Challenge(promote, world.true_quality(self.champion), world.true_quality(challenger))
            )
        if promote or self.champion is None:
            self.champion = challenger


@dataclass
class Year:
    """The results of a year by team: nights, planned times, USD spent per month, rules, and nights
    notified about.
    """

    nights: dict[str, list[Night]]
    planned: dict[str, list[int]]
    spent: dict[str, dict[str, float]]
    rules: dict[str, list[PromotionRule]]
    notified: dict[str, list[Night]]

    def outcomes(self, team: str) -> dict[int, Night]:
        """Return the last attempt of each night by its planned time."""
        return {night.planned_at: night for night in sorted(self.nights[team], key=lambda night: night.attempt)}


class _Killed(BaseException):
    """The process of the night was killed."""


class _ClaimsOfKilledProcess(Claims):
    """The claims of a process that is killed: it never stores how the night ended."""

    def finish(self, claim: Claim, night: Night) -> bool:
        return False


@dataclass
class _EndedProcess:
    """A process that has already ended; see `night_process.Process`."""

    code: int
    pid: int = 0

    def poll(self) -> int | None:
        return self.code

    def wait(self, timeout: float | None = None) -> int:
        return self.code

    def send_signal(self, sig: int) -> None:
        pass

    def kill(self) -> None:
        pass


@dataclass(frozen=True)
class _MemoryEnvironment(Environment):
    """An environment whose registry is in memory."""

    memory: MemoryRegistry | None = None

    def registry(self) -> Any:
        return self.memory


class Simulation:
    """One year of two teams under one scheduler."""

    def __init__(
        self, root: Path, seed: int, days: int = 365, changing: float = 0.3, second: str = "30 22 * * *"
    ) -> None:
        """`changing` is the share of days with new data, `second` the cron expression of the second
        team.
        """
        self.root, self.days = root, days
        teams = {
            "berlin": Team("berlin", "Europe/Berlin", "30 2 * * *", "06:00", root),
            "stjohns": Team("stjohns", "America/St_Johns", second, "04:00", root),
        }
        self.first_day = datetime(2027, 1, 1)
        start = min(self.first_day.replace(tzinfo=ZoneInfo(team.tz)).timestamp() for team in teams.values())
        self.world = World(seed, start, teams, draw_outages(seed, start, days))
        self.events = {team: draw_events(seed * 10 + number, days, changing) for number, team in enumerate(teams)}
        self.rules = {
            team: [PromotionRule(name) for name in ("ours", "best single run", "latest single run")] for team in teams
        }
        self.notified: dict[str, list[Night]] = {team: [] for team in teams}
        self.registry = MemoryRegistry(self.world)
        self.workspace = Workspace(root / ".sweep")
        self.environment = _MemoryEnvironment(self.workspace, "memory", memory=self.registry)
        YearBackend.world = self.world
        for team in teams.values():
            team.write()
        self.database = Database.open(self.workspace, None)
        self.store = ScheduleStore(self.database)
        quiet = NotificationSettings(("SOMEONE",), (), "changes")
        for team in teams.values():
            born = self.first_day.replace(tzinfo=ZoneInfo(team.tz)).timestamp() - 1
            self.store.add(Schedule(team.name, str(team.file), team.cron, team.tz, born, team.until, notify=quiet))

    def run(self) -> Year:
        """Simulate the year and return its results."""
        daemon = self._daemon()
        for moment in self._moments():
            self.world.now = max(self.world.now, moment)
            self._apply_events()
            if self._scheduler_is_down():
                continue
            daemon.tick()
            # the scheduler was killed with the night; the next one marks the night as lost
            if self.world.kill_at == -1.0:
                self.world.kill_at = None
                daemon = self._daemon()
                self.world.now += LEASE_S + 5.0
                daemon.tick()
        return self._results()

    # --------- events
    def _moments(self) -> Iterator[float]:
        """Yield the times of the scheduler's ticks: shortly after each planned time, and once a day
        in addition.
        """
        ticks = set()
        for team in self.world.teams.values():
            ticks |= {moment.timestamp() + 10.0 for moment in self._planned(team)}
        start = self.world.now
        ticks |= {start + 86400.0 * day for day in range(self.days + 3)}
        last = max(self._planned(team)[-1].timestamp() for team in self.world.teams.values())
        # include a tick for the last night
        yield from sorted(tick for tick in ticks if tick < last + 2 * 86400.0)

    def _planned(self, team: Team) -> list[datetime]:
        zone = ZoneInfo(team.tz)
        first = self.first_day.replace(tzinfo=zone) - timedelta(seconds=1)
        last = (self.first_day + timedelta(days=self.days)).replace(tzinfo=zone)
        return list(itertools.takewhile(lambda planned: planned < last, planned_times(team.cron, team.tz, first)))

    def _apply_events(self) -> None:
        """Apply each day's events once, in the hours before the night."""
        for name, team in self.world.teams.items():
            day = int((self.world.now - self.first_day.replace(tzinfo=ZoneInfo(team.tz)).timestamp()) // 86400)
            rules = self.rules[name]
            while len(rules[0].served) <= min(day, self.days - 1):
                today, events = len(rules[0].served), self.events[name]
                if today in events.data_changes and today > 0:
                    team.examples += 4
                    team.shifts += today in events.shifts
                team.price = events.prices.get(today, team.price)
                if today in events.data_changes or today in events.prices:
                    team.write()
                for rule in rules:
                    rule.served.append(
                        self.world.true_quality(rule.champion) if rule.champion is not None else float("nan")
                    )

    def _scheduler_is_down(self) -> bool:
        return local_day(self.world.teams["berlin"], self.world.now) in self.events["berlin"].days_without_scheduler

    # --------- the product's parts
    def _daemon(self) -> Daemon:
        return Daemon(
            self.store,
            NightLauncher(
                command=lambda claim: (claim.night.schedule, claim.holder),
                log_file=lambda night: self.root / "log.txt",
                start=self._start,
            ),
            say=lambda _: None,
            notify=self._notify,
            clock=self.world.moment,
        )

    def _notify(self, schedule: Schedule, night: Night) -> bool:
        self.notified[schedule.name].append(night)
        return True

    def _start(self, command: Sequence[str], output: IO[bytes]) -> _EndedProcess:
        """Run a night in this process, as `sweep schedule run-now --claim` does in a separate
        one.
        """
        name, holder = command
        claim = self.store.claims.take_over(name, holder, self.world.moment())
        assert claim is not None
        day = local_day(self.world.teams[name], claim.night.planned_at)
        is_killed = day in self.events[name].killed_nights and claim.night.attempt == 1
        store = ScheduleStore(self.database)
        if is_killed:
            store.claims = _ClaimsOfKilledProcess(self.database)
        self.world.kill_at = self.world.now + 1500.0 if is_killed else None
        try:
            schedule = self.store.get(name)
            context = NightContext(schedule, claim, store, self.environment, lambda _: None, self.world.clock)
            night = run_night(context, ProgressObserver(), self._run_sweep)
        except _Killed:
            self.world.kill_at = -1.0 if day % 2 else None
            if day % 2:  # the scheduler is killed, too, so that nobody waits for the process
                return cast(_EndedProcess, _AbandonedProcess())
            return _EndedProcess(-9)
        self.world.kill_at = None
        if should_notify(schedule, night):
            self.notified[name].append(night)
        self.store.notifications.confirm([night])
        return _EndedProcess(0)

    def _run_sweep(
        self,
        plan: SweepPlan,
        environment: Environment,
        progress: ProgressObserver,
        say: Callable[[str], None],
        *,
        deadline: float | None,
        first_points: Sequence[Mapping[str, Any]],
        study_opened: Callable[[Study], None],
    ) -> Outcome:
        """Do the work of `execution.run.run` without Ray and MLflow."""
        study = open_study(plan, environment, first_points)
        study_opened(study)
        plan.folder.mkdir(parents=True, exist_ok=True)
        (plan.folder / "plan.json").write_text(json.dumps(plan.to_json(), default=str))
        with closing(plan.open_backend()) as backend:
            session = Session(plan, study, [progress], self.world.clock, backend, deadline, self._sleep)
            try:
                drive(session, backend, self.world)
            finally:
                end = session.finish()
            decide_finals(plan, study, backend, end, say)
            session.budget_ledger.settle(SETTLEMENT_TIMEOUT_S)
            decision = challenge_champion(plan, study, backend, end, environment, say)
            if session.error is not None:
                raise session.error
            if decision is not None and decision.version is not None:
                self._compare(plan, study.search_trials, backend, decision.version, promoted=decision.promoted)
        if end is SweepEnd.INTERRUPTED:
            raise SweepInterruptedError("stopped", "")
        return outcome_of(plan, study, end, environment, None, (), decision)

    def _compare(
        self, plan: SweepPlan, trials: Sequence[Trial], backend: Backend, version: str, *, promoted: bool
    ) -> None:
        """Let today's common rules decide on the same night."""
        team = plan.spec.registered_model
        ours, best, latest = self.rules[team]
        ours.offer(self.world, self.registry.quality(team, version), promote=promoted)
        if ours.champion is not None and not promoted and self.registry.champion_quality(team) is None:
            ours.champion = None
        first = next(iter(leaderboard(trials, plan.spec.objective)), None)
        if first is None or first.model is None or first.values is None:
            return
        assert isinstance(backend, YearBackend)
        single = backend.quality(first.model, "")
        best.offer(self.world, single, promote=first.values[0] > best.score)
        best.score = max(best.score, first.values[0])
        latest.offer(self.world, single, promote=True)

    def _sleep(self, seconds: float) -> None:
        self.world.now += seconds

    # --------- results
    def _results(self) -> Year:
        planned = {name: [int(at.timestamp()) for at in self._planned(team)] for name, team in self.world.teams.items()}
        spent: dict[str, dict[str, float]] = {team: {} for team in self.world.teams}
        for file in (self.workspace.root / "sweeps").glob("*/fake-service.sqlite"):
            name = file.parent.name.partition("-")[0]
            for moment, usd in charges(file, self.world.now):
                month = month_name(self.world.teams[name].tz, moment)
                # ticks continue for two days after the year
                if month.startswith(f"{self.first_day.year}-"):
                    spent[name][month] = spent[name].get(month, 0.0) + usd

        def of_the_year(team: str, nights: Iterable[Night]) -> list[Night]:
            return [night for night in nights if night.planned_at <= planned[team][-1]]

        return Year(
            nights={team: of_the_year(team, self.store.nights(team)) for team in self.world.teams},
            planned=planned,
            spent=spent,
            rules=self.rules,
            notified={team: of_the_year(team, nights) for team, nights in self.notified.items()},
        )


class _AbandonedProcess(_EndedProcess):
    """A process that seems to run, because nobody waits for it."""

    def __init__(self) -> None:
        super().__init__(0)

    def poll(self) -> int | None:
        return None


def drive(session: Session, backend: Backend, world: World) -> None:
    """Feed a session as the engine does: start its trials, pass on their events, and stop them when
    it ends.
    """
    active: dict[int, tuple[Handle, int]] = {}
    while True:
        while isinstance(trial := session.next_trial(), Trial):
            try:
                active[trial.number] = (backend.submit(session.plan.request(trial)), 0)
                session.trial_started(trial.number)
            except BackendError as error:
                session.observe(trial.number, None, 0, [Failed(error.failure)])
                session.trial_ended(trial.number, TrialEnd.ITSELF)
        if not active:
            return
        world.now += STEP_S
        if world.kill_at is not None and 0 < world.kill_at <= world.now:
            raise _Killed
        for number, (handle, cursor) in list(active.items()):
            try:
                events: Sequence[Event] = backend.events(handle, cursor)
            except BackendError as error:
                events = [Failed(error.failure)]
            session.observe(number, handle, cursor, events)
            active[number] = (handle, cursor + len(events))
            if events and isinstance(events[-1], TERMINAL_EVENTS):
                session.trial_ended(number, TrialEnd.ITSELF)
                del active[number]
        if session.should_end():
            for number in active:
                session.trial_ended(number, TrialEnd.SWEEP)
            return


@contextmanager
def backend_installed(folder: Path) -> Iterator[None]:
    """Make the backend `year` discoverable as a plugin: by the metadata of an installed
    distribution.
    """
    info = folder / "year_backend-1.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: year-backend\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[finesweep.backends]\nyear = benchmarks.year.service:YearBackend\n")
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
