"""Progress of a running sweep: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console
from rich.control import strip_control_codes
from rich.live import Live
from rich.text import Text

from backends.contract import Event, Measured
from backends.waiting import Waiting
from sweeps.cli.live_screen import MAX_ROWS, VERDICT_STYLE, LiveScreen
from sweeps.execution.observers import ProgressObserver
from sweeps.execution.session import Session
from sweeps.reports.formatting import clock, in_words, moment
from sweeps.study.steering import Change
from sweeps.trials.point_name import point_name
from sweeps.trials.trial import Trial, TrialState

QUIET_S = 60.0
"""Without a terminal, a running trial with news gets a line at least this often."""

MIN_SHARE_FOR_ESTIMATE = 0.05
"""The share of its epochs after which a running trial predicts its own duration."""

MIN_TRIALS_FOR_PACE = 4
"""The ended trials for each that runs at a time after which a sweep has a pace."""

LEAST_SHOWN_USD = 0.005
"""A smaller reservation would be printed as $0.00."""

REPEAT_WAIT_S = 900.0
"""A waiting message is repeated once the end of the wait has moved by this much."""


class Progress(ProgressObserver):
    """Shows the running trials, the best trial, the verdicts, and the time spent and left.

    Writes only to the given console.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._session: Session | None = None
        self._live: Live | None = None
        self._latest: dict[int, str] = {}
        self._baseline_shown = False
        self._steering = ""
        self._wait = ""
        self._best: Trial | None = None
        self._earlier_best: Trial | None = None
        self._announced_waits: dict[str, float] = {}
        self._written_at = time.monotonic()

    def sweep_started(self, session: Session) -> None:
        """Start the display. Lines that others print to the console appear above the live table."""
        self._session = session
        if self._console.is_terminal:
            self._live = Live(get_renderable=self._screen, console=self._console, refresh_per_second=4, transient=True)
            self._live.start()

    def sweep_ended(self) -> None:
        """Stop the display."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def trial_started(self, trial: Trial) -> None:
        self._latest[trial.number] = "starting"
        again = f" (repeats trial {trial.repeat_of} with seed {trial.seed})" if trial.repeat_of is not None else ""
        self._line(f"trial {trial.number} starts{again}: {in_words(trial.hyperparameters)}")

    def events_received(self, trial: Trial, first: int, events: Sequence[Event]) -> None:
        objective = "" if self._session is None else self._session.objective.metric
        for event in events:
            if isinstance(event, Measured):
                numbers = _numbers(event, objective)
                self._latest[trial.number] = "trains"
                if event.scope == "evaluation":
                    if event.step > 0:
                        self._line(f"trial {trial.number} epoch {event.epoch:g}{_epochs_of(trial)}: {numbers}")
                    elif not self._baseline_shown:
                        self._baseline_shown = True
                        self._line(f"the base model before training: {numbers}")
                if time.monotonic() - self._written_at >= QUIET_S:
                    self._line(f"trial {trial.number} epoch {event.epoch:.2g}{_epochs_of(trial)}  {numbers}")
                    self._line(f"  {self._summary()}")

    def trial_waiting(self, trial: Trial, waiting: Waiting) -> None:
        until = f"until {moment(waiting.until, time.time())}"
        self._latest[trial.number] = "waits"
        self._wait = f"trial {trial.number} waits {until}: {waiting.reason}"
        # One limit can hold many trials back, and retries of an unreachable host come ever later:
        # say each reason once, and again only when the wait has become much longer.
        announced = self._announced_waits.get(waiting.reason)
        if announced is None or waiting.until >= announced + REPEAT_WAIT_S:
            self._announced_waits[waiting.reason] = waiting.until
            self._line(self._wait)

    def trial_ended(self, trial: Trial) -> None:
        self._latest.pop(trial.number, None)
        best = None if self._session is None else self._session.study.tally.best
        if best is not None and (self._best is None or best.number != self._best.number):
            self._earlier_best, self._best = self._best, best
        self._line(f"trial {trial.number} {ending(trial)}")
        self._line(f"  {self._summary()}")

    def space_steered(self, change: Change, *, applied: bool) -> None:
        self._steering = f"steering: {change.text}" if applied else f"`steering: act` would move {change.text}"
        self._line(self._steering)

    def _line(self, text: str) -> None:
        self._written_at = time.monotonic()
        if self._live is None:  # 5 lines a trial: not through Rich, which takes a millisecond for each
            print(strip_control_codes(text), file=self._console.file, flush=True)

    def _summary(self) -> str:
        assert self._session is not None
        session = self._session
        tally = session.study.tally
        parts = [f"{len(tally)} of {session.plan.spec.search.trials} trials"]
        if tally.best is not None and tally.best.values is not None:
            parts.append(f"best {session.objective.metric} {tally.best.values[0]:.4g} (trial {tally.best.number})")
        counts = [f"{count} {kind}" for kind, count in sorted(tally.verdicts.items()) if count]
        parts += [", ".join(counts)] if counts else []
        if session.study.repeats:
            # more than planned if the search continued after its finals
            repeats = session.study.repeats
            wanted = max(session.plan.final_trials, len(repeats))
            parts.append(f"finals: {sum(repeat.state.ended for repeat in repeats)} of {wanted}")
        parts += money(session)
        parts.append(f"{clock(session.seconds)} spent")
        left = seconds_left(session, time.time())
        parts.append("time left unknown" if left is None else f"about {clock(left)} left")
        return " · ".join(parts)

    def _screen(self) -> LiveScreen:
        assert self._session is not None
        session, tally = self._session, self._session.study.tally
        repeats = session.study.repeats
        trials, finals = session.plan.spec.search.trials, max(session.plan.final_trials, len(repeats))
        done, repeated = min(len(tally), trials), sum(repeat.state.ended for repeat in repeats)
        counted = f"{len(tally)} of {trials} trials" + (f", finals {repeated} of {finals}" if repeats else "")
        left = seconds_left(session, time.time())
        times = [clock(session.seconds), "time left unknown" if left is None else f"about {clock(left)} left"]
        return LiveScreen(
            name=session.plan.spec.name,
            done=done + repeated,
            total=trials + finals,
            progress=" · ".join((counted, *times)),
            best=self._best_line(),
            facts=[fact for fact in (self._verdicts(), self._costs(), *self._notices()) if fact],
            running=session.running,
            ended=tally.last_ended(MAX_ROWS)[::-1],
            doing=self._latest,
            objective=session.objective,
            searched=session.plan.space.searched,
        )

    def _best_line(self) -> Text:
        assert self._session is not None
        best, metric = self._session.study.tally.best, self._session.objective.metric
        if best is None or best.values is None:
            return Text("no trial has ended yet", style="dim")
        earlier = self._earlier_best
        change = ""
        if earlier is not None and earlier.values is not None and self._best is best:
            change = f", {best.values[0] - earlier.values[0]:+.4f} on trial {earlier.number}"
        value = (f"best {metric} {best.values[0]:.4g}", "bold")
        point = point_name(best.hyperparameters, self._session.plan.space.searched)
        return Text.assemble(value, f" (trial {best.number}{change}): {point}")

    def _verdicts(self) -> Text:
        assert self._session is not None
        counts = sorted(self._session.study.tally.verdicts.items())
        words = [Text(f"{count} {kind}", style=VERDICT_STYLE[kind]) for kind, count in counts if count]
        return Text(" · ").join(words)

    def _costs(self) -> Text:
        assert self._session is not None
        tokens = self._session.study.ledger.ledger.spent.tokens
        return Text(" · ".join((*money(self._session), *([f"{tokens:,} tokens trained"] if tokens else []))))

    def _notices(self) -> list[Text]:
        waits = any(doing == "waits" for doing in self._latest.values())
        return [Text(notice, style="cyan") for notice in (self._wait if waits else "", self._steering) if notice]


def seconds_left(session: Session, now: float) -> float | None:
    """Estimate the wall seconds until all trials are done; None while there is nothing to go by.

    The estimate uses the training time of the trials that have ended. Before the first one ends, it
    uses the progress of the running trials. Short trials wait longer for a worker than they train,
    so it is never less than the pace of the whole sweep promises, once that has a pace.
    """
    running, tally = session.running, session.study.tally
    if tally.timed:
        trial_seconds = tally.seconds / tally.timed
    else:
        took = [
            (now - (trial.started_at or now)) / share
            for trial in running
            if (share := _share_done(trial)) >= MIN_SHARE_FOR_ESTIMATE
        ]
        if not took:
            return None
        trial_seconds = sum(took) / len(took)
    waiting = max(0, session.plan.spec.search.trials - session.study.search_trial_count)
    waiting += max(0, session.plan.final_trials - len(session.study.repeats))
    begun = sum(max(0.0, trial_seconds - (now - (trial.started_at or now))) for trial in running)
    left = (waiting * trial_seconds + begun) / session.plan.concurrency
    if tally.timed >= MIN_TRIALS_FOR_PACE * session.plan.concurrency:
        left = max(left, waiting * session.seconds / tally.timed)
    hours = session.plan.spec.budget.hours
    return left if hours is None else max(0.0, min(left, hours * 3600 - session.seconds))


def _share_done(trial: Trial) -> float:
    heard = (*trial.curve, *trial.loop_reports)
    return (
        max(measurement.epoch for measurement in heard) / trial.planned_epochs
        if heard and trial.planned_epochs
        else 0.0
    )


def money(session: Session) -> list[str]:
    """Say what is spent, what is reserved for running trials, and what is left.

    Empty without prices.
    """
    if not session.plan.spec.capabilities.priced:
        return []
    ledger = session.budget_ledger.ledger
    parts = [f"${ledger.spent.usd:,.2f} spent"]
    if ledger.reserved.usd >= LEAST_SHOWN_USD:
        parts[0] += f", ${ledger.reserved.usd:,.2f} reserved"
    left = ledger.usd_left(session.plan.spec.budget)
    return parts if left is None else [f"{parts[0]}, ${left:,.2f} left"]


def ending(trial: Trial) -> str:
    """Say how a trial ended, with its verdict and the evidence."""
    verdict = f" - {trial.verdict.evidence}" if trial.verdict else ""
    return _short_ending(trial) + (f" ({trial.reason})" if trial.state is not TrialState.COMPLETE else "") + verdict


def _short_ending(trial: Trial) -> str:
    value = "no value" if trial.values is None else f"{trial.values[0]:.4g} at epoch {trial.best_epoch:g}"
    kind = f" {trial.verdict.kind}" if trial.verdict else ""
    return f"{trial.state}{kind}: {value}"


def _epochs_of(trial: Trial) -> str:
    epochs = trial.hyperparameters.get("n_epochs", trial.resolved.get("n_epochs"))
    return f"/{epochs}" if epochs is not None else ""


def _numbers(measured: Measured, objective: str) -> str:
    shown: tuple[str, ...] = ("batch_loss",)
    if measured.scope == "evaluation":
        shown = tuple(dict.fromkeys(("train_loss", "valid_loss", "train_accuracy", "valid_accuracy", objective)))
    return ", ".join(f"{name} {measured.values[name]:.4g}" for name in shown if name in measured.values)
