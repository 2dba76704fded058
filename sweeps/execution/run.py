"""`sweep run` put together: plan, study, tracking, session and engine, from the first look to the last word."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import yaml

from backends.contract import Backend, BackendError, Event, Scalar
from backends.waiting import Waiting
from sweeps import tracking
from sweeps.errors import SweepError, SweepInterruptedError
from sweeps.execution import finals_scoring
from sweeps.execution.budget_ledger import SETTLEMENT_TIMEOUT_S
from sweeps.execution.session import End, Observer, Outcome, ProgressObserver, Session
from sweeps.planning.plan import KEPT_MODELS, SweepPlan, with_gpus
from sweeps.reports.page import page
from sweeps.reports.plots import learning_curve_png
from sweeps.spec.objective import Objective
from sweeps.study import state
from sweeps.study.champion_decision import ChampionDecision
from sweeps.study.finals import FinalsResult, winning_trial
from sweeps.study.steering import Change
from sweeps.study.study import Study
from sweeps.trials.budget import ledger
from sweeps.trials.trial import Trial, TrialState, leaderboard
from sweeps.workspace import Workspace

if TYPE_CHECKING:
    from sweeps.tracking.registry import Registry

PICTURE_FROM_S = 1.0
"""A trial that took less gets no picture of its curve: drawing one takes a fifth of a second of the CPU."""

CHATTY_LOGGERS = ("mlflow", "alembic", "optuna", "transformers", "peft", "datasets", "huggingface_hub", "py.warnings")


@dataclass(frozen=True)
class Environment:
    """What the command line read from the environment and its options: where to keep, record and run things."""

    workspace: Workspace
    tracking_uri: str
    storage: str | None = None
    ray_address: str | None = None

    def registry(self) -> Registry:
        """Connect to the registry of models. Raises SweepError where nothing answers."""
        from sweeps.tracking.registry import Registry

        return Registry(self.tracking_uri)


def open_study(plan: SweepPlan, environment: Environment, first_points: Sequence[Mapping[str, Scalar]] = ()) -> Study:
    """Open the study of the plan's sweep, or create it to try `first_points` first. Errors: see `Study.open`."""
    workspace = environment.workspace
    return Study.open(
        environment.storage or workspace.study(plan.spec.name),
        workspace.study_name(plan.spec.name),
        plan.fingerprint,
        plan.space,
        [each.objective for each in plan.spec.objectives],
        plan.spec.search,
        plan.base_model,
        first_points,
    )


def run(
    plan: SweepPlan,
    environment: Environment,
    progress: ProgressObserver,
    say: Callable[[str], None],
    *,
    fresh: bool = False,
    deadline: float | None = None,
    first_points: Sequence[Mapping[str, Scalar]] = (),
) -> Outcome:
    """Run the sweep, or go on with it where it was left. `say` takes a line about what is being prepared.

    With `fresh`, a study of the same name in a database is left alone and another one begun. `deadline` is the time by
    which it ends, in seconds since the Unix epoch; `first_points` are what a new study tries before all others.

    The caller has claimed the sweep's folder. Raises SweepInterruptedError after Ctrl-C, with everything recorded, and
    SweepError where something failed; in both cases running the same command again goes on.
    """
    from sweeps.execution import engine  # Ray is loaded only where trials are run

    workspace, name = environment.workspace, plan.spec.name
    log = _capture_chatter(workspace.log(name))
    if fresh:
        workspace.rename_study(name, f"{name}-{time.strftime('%Y%m%d-%H%M%S')}")
    study = open_study(plan, environment, first_points)
    if _is_complete(plan, study):
        say(f"sweep `{name}` is complete: raise search.trials to go on, or use --fresh to start anew")
        return outcome_of(
            plan, study, End.TRIALS, environment, None, (), _challenged_late(plan, study, environment, say)
        )
    tracker = tracking.Tracker.connect(
        environment.tracking_uri, plan.spec.tracking.experiment or name, workspace.artifacts
    )
    try:
        say("starting Ray and MLflow")
        engine.connect(environment.ray_address, log)  # meanwhile the tracker makes the tables of a new database
        run_id = _start_tracking(tracker, plan, study)
        workspace.run_table(name).write_text(tracker.table_path(), encoding="utf-8")
        plan = with_gpus(plan, engine.gpus())
        with closing(plan.open_backend()) as backend:
            housekeeper = _Housekeeper(plan, backend, _spared(plan, environment.tracking_uri))
            observers = [_Tracking(tracker, study), housekeeper, progress]
            session = Session(plan, study, observers, backend=backend, deadline=deadline)
            housekeeper.session = session
            progress.begin(session)
            try:
                engine.run(session)
            except BaseException:
                session.abort()
                raise
            finally:
                end = session.finish()
                progress.end()
            finals = decided(plan, study, backend, end, say)
            housekeeper.tidy(keep=selected_trial(study, plan.spec.objective))
            session.budget_ledger.settle(SETTLEMENT_TIMEOUT_S)
            _finish_tracking(tracker, plan, session, end, finals, _write_report(environment, name))
            decision = challenged(plan, study, backend, end, environment, say)
            if decision is not None:
                tracker.replace(run_id, "report.html", _write_report(environment, name))
    finally:
        engine.disconnect()
        tracker.close()
    if session.error is not None:
        raise session.error
    if end not in (End.INTERRUPTED, End.WINDOW) and not tracker.problems:
        study.store_finished()
    outcome = outcome_of(plan, study, end, environment, tracker.run_url(run_id), tracker.problems, decision)
    if end is End.INTERRUPTED:
        done = sum(each.state.ended for each in outcome.trials)
        raise SweepInterruptedError(
            f"stopped after {done} of {plan.spec.search.trials} trials; nothing is lost",
            "the same command goes on where it stopped",
        )
    return outcome


class _Tracking(Observer):
    """Projects the trials to MLflow."""

    def __init__(self, tracker: tracking.Tracker, study: Study) -> None:
        """Show at once what earlier runs of the sweep left unsaid: their processes died, or MLflow was away."""
        self._tracker = tracker
        self._changes = [f"made: {each.text}" for each in study.steering]
        for trial in study.trials:
            begun = trial.handle is not None or trial.state is TrialState.FAILED
            if trial.state.ended and begun and trial.duplicate_of is None and not tracker.shows_end_of(trial):
                tracker.trial_started(trial)
                tracker.observed_before(trial)
                self.trial_ended(trial)

    def trial_started(self, trial: Trial) -> None:
        self._tracker.trial_started(trial)

    def observed(self, trial: Trial, first: int, events: Sequence[Event]) -> None:
        self._tracker.observed(trial.key, first, events)

    def steered(self, change: Change, *, made: bool) -> None:
        self._changes.append(f"{'made' if made else 'advised'}: {change.text}")
        self._tracker.tag_sweep({"steering": "\n".join(self._changes)})

    def waits(self, trial: Trial, waiting: Waiting) -> None:
        pass

    def trial_ended(self, trial: Trial) -> None:
        worth_a_picture = trial.spend.seconds >= PICTURE_FROM_S
        self._tracker.trial_ended(
            trial, (lambda: learning_curve_png(trial, f"trial {trial.number}")) if worth_a_picture else None
        )


class _Housekeeper(Observer):
    """Keeps the disk bounded: the models of trials that cannot win any more are deleted as the sweep goes."""

    session: Session

    def __init__(self, plan: SweepPlan, backend: Backend, spared: Collection[str]) -> None:
        """`spared` are the keys of trials whose models stay whatever becomes of the sweep."""
        self._plan, self._spared = plan, spared
        self._backend = backend
        self._discarded: set[int] = set()

    def trial_started(self, trial: Trial) -> None:
        # Not at the end of a trial: its worker may still be writing. By the start of the next one it is not.
        self._delete(self._beaten())

    def observed(self, trial: Trial, first: int, events: Sequence[Event]) -> None:
        pass

    def trial_ended(self, trial: Trial) -> None:
        pass

    def steered(self, change: Change, *, made: bool) -> None:
        pass

    def waits(self, trial: Trial, waiting: Waiting) -> None:
        pass

    def tidy(self, keep: Trial | None) -> None:
        """Stop what the sweep's end cut off and delete what is not among the best. All workers are at rest.

        After the finals only the repetition `keep` is kept of them.
        """
        study = self.session.study
        self._discarded.clear()
        for trial in (*study.trained, *study.repeats):
            if trial.state is TrialState.STOPPED and trial.handle is not None:
                self._backend.stop(trial.handle)
        beaten = self._beaten()
        if study.finals is not None:
            beaten += [each for each in study.repeats if keep is None or each.number != keep.number]
        self._delete(beaten)
        study.forget_models(each for each in beaten if each.state.ended and each.key not in self._spared)

    def _beaten(self) -> list[Trial]:
        """Return the trials of the search that are not among the best; one that can go on keeps everything."""
        trained = self.session.study.trained
        ranked = [each.number for each in leaderboard(trained, self.session.objective) if each.model]
        return [each for each in trained if each.number not in ranked[:KEPT_MODELS]]

    def _delete(self, trials: Iterable[Trial]) -> None:
        for trial in trials:
            if trial.key in self._spared:
                continue
            if trial.state.ended and trial.handle is not None and trial.number not in self._discarded:
                try:
                    self._backend.discard(trial.handle)
                except BackendError as error:
                    logging.getLogger("sweeps").warning("trial %d was not tidied: %s", trial.number, error)
                self._discarded.add(trial.number)


def _spared(plan: SweepPlan, uri: str) -> Collection[str]:
    """Return the keys of trials that were made champions: where a sweep goes on, its first winner may stand for one.

    Raises SweepError where the registry cannot be asked and the sweep file says that it is used.
    """
    from sweeps.execution.cleanup import registered

    try:
        versions = registered(uri)
    except SweepError as error:
        if plan.spec.champion is not None:
            raise
        logging.getLogger("sweeps").warning("no champion is spared: %s", error.message)
        return ()
    return {*versions.champions, *versions.earlier}


def selected_trial(study: Study, objective: Objective) -> Trial | None:
    """Return the trial whose model the sweep hands over; see `finals.champion`."""
    winner = study.finals["winner"] if study.finals is not None else None
    return winning_trial(study.trained, study.repeats, winner, objective)


def decided(
    plan: SweepPlan, study: Study, backend: Backend, end: End, say: Callable[[str], None]
) -> FinalsResult | None:
    """Decide the finals where the search came to its own end, and store who won."""
    if plan.spec.finals is None:
        return None
    paid_out = end is End.BUDGET and sum(each.state.ended for each in study.repeats) == plan.final_trials
    if end not in (End.TRIALS, End.EXHAUSTED) and not paid_out:
        if end is not End.INTERRUPTED:
            say(f"no finals: {end}")
        return None
    stored = FinalsResult.from_json(study.finals) if study.finals is not None else None
    if stored is not None and stored.is_of(study.repeats):
        return stored
    say("comparing the finalists on the validation set, and scoring the winner once on the test split")
    try:
        result = finals_scoring.decide(plan, study.trained, study.repeats, backend)
    except BackendError as error:
        raise SweepError(
            f"the finalists cannot be compared: {error.failure.message}",
            error.failure.detail or "every trial is recorded; the same command compares them again",
        ) from error
    if result is not None:
        study.store_finals(result.to_json())
    return result


def challenged(
    plan: SweepPlan, study: Study, backend: Backend, end: End, environment: Environment, say: Callable[[str], None]
) -> ChampionDecision | None:
    """Let the winner challenge the champion, where the sweep file asks for it and the sweep has a winner.

    That is the one of the finals where there are finals. Raises SweepError where it cannot be done; running the same
    command again tries it again.
    """
    if plan.spec.champion is None or end in (End.INTERRUPTED, End.FAILED, End.WINDOW):
        return None
    winner = selected_trial(study, plan.spec.objective)
    if winner is None or (plan.spec.finals is not None and study.finals is None):
        say("no champion is challenged: the sweep has no winner" + ("" if winner is None else " before its finals"))
        return None
    from sweeps.champions import challenge

    try:
        decision = challenge.hold(plan, study.sweep_id, winner, backend, environment.registry(), say)
        study.store_champion(decision.to_json())
        return decision
    except SweepError as error:
        hint = f"{error.hint}; " if error.hint else ""
        again = "every trial is recorded, and the same command challenges again"
        raise SweepError(f"the champion was not challenged: {error.message}", hint + again) from error


def _challenged_late(
    plan: SweepPlan, study: Study, environment: Environment, say: Callable[[str], None]
) -> ChampionDecision | None:
    """Do what an earlier run of the sweep may have left undone after its trials."""
    if plan.spec.champion is None:
        return None
    with closing(plan.open_backend()) as backend:
        decision = challenged(plan, study, backend, End.TRIALS, environment, say)
    if decision is not None:
        _write_report(environment, plan.spec.name)
    return decision


def _is_complete(plan: SweepPlan, study: Study) -> bool:
    ended = [each for each in study.trained if each.state.ended]
    decided = plan.spec.finals is None or study.finals is not None
    return decided and study.is_finished and not study.has_interrupted and len(ended) >= plan.spec.search.trials


def outcome_of(
    plan: SweepPlan,
    study: Study,
    end: End,
    environment: Environment,
    url: str | None,
    problems: Sequence[str],
    decision: ChampionDecision | None,
) -> Outcome:
    """Return how a sweep ended, as its study has it. `url` is its MLflow run, `problems` what tracking met."""
    finals = FinalsResult.from_json(study.finals) if study.finals is not None else None
    return Outcome(
        plan=plan,
        trials=tuple(each for each in study.trained if each.state.ended or each.handle),  # not what was only staged
        repeats=tuple(each for each in study.repeats if each.state.ended),
        changes=tuple(study.steering),
        best=selected_trial(study, plan.spec.objective),
        finals=finals,
        end=end,
        seconds=study.seconds_used,
        ledger=ledger(study.trials),
        tracking_uri=environment.tracking_uri,
        run_url=url,
        report=environment.workspace.report(plan.spec.name),
        problems=tuple(problems),
        champion=decision,
    )


def _write_report(environment: Environment, name: str) -> str:
    """Write the report of the sweep as it is now, and return it."""
    report = page(state.read(environment.workspace, name, environment.storage), datetime.now())
    environment.workspace.report(name).write_text(report, encoding="utf-8")
    return report


def _start_tracking(tracker: tracking.Tracker, plan: SweepPlan, study: Study) -> str:
    data, spec = plan.data, plan.spec
    searched: Mapping[str, str] = {f"space.{each.name}": each.text for each in plan.space.parameters}
    params = {
        "sampler": spec.search.sampler,
        "scheduler": spec.search.scheduler.type,
        "trials": str(spec.search.trials),
        "seed": str(spec.search.seed),
        "objective": f"{spec.objective.direction} {spec.objective.metric}",
        **searched,
    }
    tags = {
        "backend": spec.backend_type,
        "model": plan.base_model,
        "data": data.name,
        "data.source": data.source,
        **({"data.fallback_from": data.fallback_from} if data.fallback_from else {}),
        **({"mlflow.note.content": spec.description} if spec.description else {}),
    }
    written = yaml.safe_dump(spec.document.value, sort_keys=False, allow_unicode=True)
    plan_text = json.dumps(plan.to_json(), indent=2, default=str)
    (plan.folder / "sweep.yaml").write_text(written, encoding="utf-8")
    (plan.folder / "plan.json").write_text(plan_text, encoding="utf-8")
    dataset = tracking.TrackedDataset.of(data)
    return tracker.start(
        study.sweep_id, spec.name, params, tags, dataset, {"sweep.yaml": written, "plan.json": plan_text}
    )


def _finish_tracking(
    tracker: tracking.Tracker, plan: SweepPlan, session: Session, end: End, finals: FinalsResult | None, report: str
) -> None:
    best = selected_trial(session.study, plan.spec.objective)
    status: Literal["FINISHED", "KILLED", "FAILED"] = "FINISHED"
    if end in (End.INTERRUPTED, End.FAILED, End.WINDOW):
        status = "FAILED" if end is End.FAILED else "KILLED"
    metrics, tags = {}, {"end": end.value}
    if best is not None and best.values is not None:
        metrics = {plan.spec.objective.metric: best.values[0], "trials": float(len(session.study.trained))}
        tags |= {"best.trial": str(best.number), "best.hyperparameters": json.dumps(dict(best.hyperparameters))}
    if finals is not None:
        won = next(each for each in finals.standings if each.number == finals.winner)
        metrics |= {"finals.mean": won.mean, "finals.low": won.low, "finals.high": won.high}
        tags |= {"finals.winner": str(finals.winner), "finals.reason": finals.reason}
        if finals.test is not None:
            metrics |= dict(zip(("test_accuracy", "test_accuracy.low", "test_accuracy.high"), finals.test, strict=True))
    spent = session.budget_ledger.ledger.spent
    metrics |= {"tokens": float(spent.tokens)} | ({"usd": spent.usd} if plan.spec.capabilities.priced else {})
    model = Path(best.model) if best is not None and best.model and Path(best.model).is_dir() else None
    tracker.finish(status, metrics, tags, {"report.html": report}, model if status != "KILLED" else None)


def _capture_chatter(path: Path) -> logging.Handler:
    """Send what the libraries have to say to a file instead of the screen. Returns the file's handler."""
    handler = logging.FileHandler(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.captureWarnings(True)
    for name in (*CHATTY_LOGGERS, "sweeps"):
        logger = logging.getLogger(name)
        logger.handlers[:], logger.propagate = [handler], False
    return handler
