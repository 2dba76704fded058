"""Runs the year: the product's daemon, store, calendar, night, session, study, finals, contest and books; see README.

Only three parts are stand-ins: the clock, the training service (the fake backend with models of known quality) and
what feeds the session (a loop in this process in place of Ray; the registry is in memory in place of MLflow's).
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
from benchmarks.year.world import Quality, Team, World, events, local_day, outages
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
from sweeps.scheduling.calendar import moments
from sweeps.scheduling.daemon import Daemon
from sweeps.scheduling.monthly_budget import name_of
from sweeps.scheduling.night import run_night
from sweeps.scheduling.schedule import Night, Notify, Schedule
from sweeps.scheduling.store import LEASE_S, Claim, Schedules
from sweeps.scheduling.summary import is_telling
from sweeps.trials.trial import Trial, leaderboard
from sweeps.workspace import Workspace

STEP_S = 300.0
"""So much time passes between two looks at the runs."""


@dataclass
class Challenge:
    """A promotion, or a challenge that changed nothing: how good both were on the truth of the day."""

    promoted: bool
    champion: float
    challenger: float

    @property
    def false(self) -> bool:
        """Whether the champion became worse."""
        return self.promoted and self.challenger < self.champion


@dataclass
class Rule:
    """What a rule of promotion did over the year; `served` are its champion's truths, one a day."""

    name: str
    champion: Quality | None = None
    score: float = -1.0
    challenges: list[Challenge] = field(default_factory=list)
    served: list[float] = field(default_factory=list)

    def offer(self, world: World, challenger: Quality, *, promote: bool) -> None:
        """Note a challenge, and follow it."""
        if self.champion is not None:
            self.challenges.append(Challenge(promote, world.truth(self.champion), world.truth(challenger)))
        if promote or self.champion is None:
            self.champion = challenger


@dataclass
class Year:
    """What came of it, by team."""

    nights: dict[str, list[Night]]
    planned: dict[str, list[int]]
    spent: dict[str, dict[str, float]]
    rules: dict[str, list[Rule]]
    told: dict[str, list[Night]]

    def outcomes(self, team: str) -> dict[int, Night]:
        """Return by its planned time what became of each night in the end: its last attempt."""
        return {each.planned_at: each for each in sorted(self.nights[team], key=lambda night: night.attempt)}


class _Killed(BaseException):
    """The process of the night is gone."""


class _Dying:
    """The schedules as a process has them that is killed: how the night ended is never stored."""

    def __init__(self, schedules: Schedules) -> None:
        self._schedules = schedules

    def __getattr__(self, name: str) -> Any:
        return getattr(self._schedules, name)

    def finish(self, claim: Claim, night: Night) -> bool:
        return False


@dataclass
class _Ended:
    """A process that has ended already; see `daemon.Process`."""

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
class _Here(Environment):
    """An environment whose registry is in memory."""

    memory: MemoryRegistry | None = None

    def registry(self) -> Any:
        return self.memory


class Simulation:
    """One year of two teams under one scheduler."""

    def __init__(
        self, root: Path, seed: int, days: int = 365, changing: float = 0.3, second: str = "30 22 * * *"
    ) -> None:
        """`changing` is the share of days with new data, `second` when the second team's nights are."""
        self.root, self.days = root, days
        teams = {
            "berlin": Team("berlin", "Europe/Berlin", "30 2 * * *", "06:00", root),
            "stjohns": Team("stjohns", "America/St_Johns", second, "04:00", root),
        }
        self.first_day = datetime(2027, 1, 1)
        start = min(self.first_day.replace(tzinfo=ZoneInfo(each.tz)).timestamp() for each in teams.values())
        self.world = World(seed, start, teams, outages(seed, start, days))
        self.happens = {each: events(seed * 10 + number, days, changing) for number, each in enumerate(teams)}
        self.rules = {each: [Rule("ours"), Rule("best single run"), Rule("latest single run")] for each in teams}
        self.told: dict[str, list[Night]] = {each: [] for each in teams}
        self.registry = MemoryRegistry(self.world)
        self.workspace = Workspace(root / ".sweep")
        self.environment = _Here(self.workspace, "memory", memory=self.registry)
        YearBackend.world = self.world
        for each in teams.values():
            each.write()
        self.schedules = Schedules.open(self.workspace, None)
        quiet = Notify(("SOMEONE",), (), "changes")
        for each in teams.values():
            born = self.first_day.replace(tzinfo=ZoneInfo(each.tz)).timestamp() - 1
            self.schedules.add(Schedule(each.name, str(each.file), each.cron, each.tz, born, each.until, notify=quiet))

    def run(self) -> Year:
        """Live through the year and return what came of it."""
        daemon = self._daemon()
        for moment in self._moments():
            self.world.now = max(self.world.now, moment)
            self._happen()
            if self._scheduler_is_away():
                continue
            daemon.tick()
            if self.world.kill_at == -1.0:  # the scheduler died with the night: another one finds it lost
                self.world.kill_at = None
                daemon = self._daemon()
                self.world.now += LEASE_S + 5.0
                daemon.tick()
        return self._found()

    # --------- what happens
    def _moments(self) -> Iterator[float]:
        """Yield when the scheduler looks: some seconds after each planned time, and at once a day beside."""
        looks = set()
        for each in self.world.teams.values():
            looks |= {moment.timestamp() + 10.0 for moment in self._planned(each)}
        start = self.world.now
        looks |= {start + 86400.0 * each for each in range(self.days + 3)}
        last = max(self._planned(each)[-1].timestamp() for each in self.world.teams.values())
        yield from sorted(each for each in looks if each < last + 2 * 86400.0)  # the last night has its look, too

    def _planned(self, team: Team) -> list[datetime]:
        zone = ZoneInfo(team.tz)
        first = self.first_day.replace(tzinfo=zone) - timedelta(seconds=1)
        last = (self.first_day + timedelta(days=self.days)).replace(tzinfo=zone)
        return list(itertools.takewhile(lambda each: each < last, moments(team.cron, team.tz, first)))

    def _happen(self) -> None:
        """Let the day's changes happen, each once, in the hours before the night."""
        for name, team in self.world.teams.items():
            day = int((self.world.now - self.first_day.replace(tzinfo=ZoneInfo(team.tz)).timestamp()) // 86400)
            rules = self.rules[name]
            while len(rules[0].served) <= min(day, self.days - 1):
                today, happens = len(rules[0].served), self.happens[name]
                if today in happens.data_changes and today > 0:
                    team.examples += 4
                    team.shifts += today in happens.shifts
                team.price = happens.prices.get(today, team.price)
                if today in happens.data_changes or today in happens.prices:
                    team.write()
                for each in rules:
                    each.served.append(self.world.truth(each.champion) if each.champion is not None else float("nan"))

    def _scheduler_is_away(self) -> bool:
        return local_day(self.world.teams["berlin"], self.world.now) in self.happens["berlin"].scheduler_away

    # --------- the product's part
    def _daemon(self) -> Daemon:
        return Daemon(
            self.schedules,
            command=lambda claim: (claim.night.schedule, claim.holder),
            logs=lambda night: self.root / "log.txt",
            say=lambda _: None,
            tell=self._tell,
            clock=self.world.moment,
            start=self._start,
        )

    def _tell(self, schedule: Schedule, night: Night) -> bool:
        self.told[schedule.name].append(night)
        return True

    def _start(self, command: Sequence[str], output: IO[bytes], environment: Mapping[str, str] | None) -> _Ended:
        """Run a night here and now, as `sweep schedule run-now --claim` does in a process of its own."""
        name, holder = command
        claim = self.schedules.claim_of(name, holder, self.world.moment())
        assert claim is not None
        day = local_day(self.world.teams[name], claim.night.planned_at)
        dies = day in self.happens[name].deaths and claim.night.attempt == 1
        schedules = cast(Schedules, _Dying(self.schedules)) if dies else self.schedules
        self.world.kill_at = self.world.now + 1500.0 if dies else None
        try:
            kept = self.schedules.get(name)
            night = run_night(
                kept, claim, schedules, self.environment, ProgressObserver(),
                lambda _: None, search=self._search, clock=self.world.clock,
            )  # fmt: skip
        except _Killed:
            self.world.kill_at = -1.0 if day % 2 else None
            if day % 2:  # and the scheduler with it: a process that nobody waits for any more
                return cast(_Ended, _Gone())
            return _Ended(-9)
        self.world.kill_at = None
        if is_telling(kept, night):
            self.told[name].append(night)
        self.schedules.told([night])
        return _Ended(0)

    def _search(
        self,
        plan: SweepPlan,
        environment: Environment,
        progress: ProgressObserver,
        say: Callable[[str], None],
        *,
        deadline: float | None,
        first_points: Sequence[Mapping[str, Any]],
    ) -> Outcome:
        """Do what `run.run` does, without Ray and MLflow."""
        study = open_study(plan, environment, first_points)
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
        """Let the rules that people use today decide on the same night."""
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

    # --------- what was found
    def _found(self) -> Year:
        planned = {name: [int(at.timestamp()) for at in self._planned(team)] for name, team in self.world.teams.items()}
        spent: dict[str, dict[str, float]] = {each: {} for each in self.world.teams}
        for file in (self.workspace.root / "sweeps").glob("*/fake-service.sqlite"):
            name = file.parent.name.partition("-")[0]
            for moment, usd in charges(file, self.world.now):
                month = name_of(self.world.teams[name].tz, moment)
                if month.startswith(f"{self.first_day.year}-"):  # looks go on for two days after the year
                    spent[name][month] = spent[name].get(month, 0.0) + usd

        def of_the_year(team: str, nights: Iterable[Night]) -> list[Night]:
            return [night for night in nights if night.planned_at <= planned[team][-1]]

        return Year(
            nights={each: of_the_year(each, self.schedules.nights(each)) for each in self.world.teams},
            planned=planned,
            spent=spent,
            rules=self.rules,
            told={each: of_the_year(each, told) for each, told in self.told.items()},
        )


class _Gone(_Ended):
    """A process that nobody waits for."""

    def __init__(self) -> None:
        super().__init__(0)

    def poll(self) -> int | None:
        return None


def drive(session: Session, backend: Backend, world: World) -> None:
    """Feed a session as the engine does: start what it asks for, pass on what is told, stop what is to stop."""
    active: dict[int, tuple[Handle, int]] = {}
    while True:
        while isinstance(asked := session.next_trial(), Trial):
            try:
                active[asked.number] = (backend.submit(session.plan.request(asked)), 0)
                session.trial_started(asked.number)
            except BackendError as error:
                session.observe(asked.number, None, 0, [Failed(error.failure)])
                session.trial_ended(asked.number, TrialEnd.ITSELF)
        if not active:
            return
        world.now += STEP_S
        if world.kill_at is not None and 0 < world.kill_at <= world.now:
            raise _Killed
        for number, (handle, cursor) in list(active.items()):
            try:
                told: Sequence[Event] = backend.events(handle, cursor)
            except BackendError as error:
                told = [Failed(error.failure)]
            session.observe(number, handle, cursor, told)
            active[number] = (handle, cursor + len(told))
            if told and isinstance(told[-1], TERMINAL_EVENTS):
                session.trial_ended(number, TrialEnd.ITSELF)
                del active[number]
        if session.should_end():
            for number in active:
                session.trial_ended(number, TrialEnd.SWEEP)
            return


@contextmanager
def installed(folder: Path) -> Iterator[None]:
    """Let the backend `year` be found, as a plugin's is: by the metadata of an installed distribution."""
    info = folder / "year_backend-1.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: year-backend\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[finesweep.backends]\nyear = benchmarks.year.service:YearBackend\n")
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
