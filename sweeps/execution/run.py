"""`sweep run`, step by step: study, tracking, trials, finals, report and challenge."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from backends.contract import Scalar
from sweeps import tracking
from sweeps.errors import SweepInterruptedError
from sweeps.execution.budget_ledger import SETTLEMENT_TIMEOUT_S
from sweeps.execution.catch_up import catch_up
from sweeps.execution.champion_challenge import challenge_champion
from sweeps.execution.environment import Environment, fetch_best_model, open_study, opened_backend, store_of_sweep
from sweeps.execution.finals_decision import decide_finals
from sweeps.execution.generated_texts import TextRecord
from sweeps.execution.library_logs import redirect_library_logs
from sweeps.execution.model_retention import ModelRetention, protected_trial_keys
from sweeps.execution.observers import ProgressObserver
from sweeps.execution.outcome import Outcome, SweepEnd, outcome_of, selected_trial
from sweeps.execution.session import Session
from sweeps.execution.tracked_sweep import SentRecord
from sweeps.execution.tracking_observer import TrackingObserver, finish_tracking, start_tracking
from sweeps.planning.placement import with_gpus
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.reports.page import page
from sweeps.spec.sweep_file import FinalsSpec
from sweeps.study import state
from sweeps.study.lease import leased
from sweeps.study.study import Study
from sweeps.workspace import write_text


def run(
    plan: SweepPlan,
    environment: Environment,
    progress: ProgressObserver,
    say: Callable[[str], None],
    *,
    fresh: bool = False,
    deadline: float | None = None,
    first_points: Sequence[Mapping[str, Scalar]] = (),
    study_opened: Callable[[Study], None] = lambda study: None,
    lasting_ray: Path | None = None,
) -> Outcome:
    """Run the sweep, or resume it where it stopped. `say` receives messages about each step.

    With `fresh` the sweep starts a new study; a study of the same name in a database stays
    untouched. The sweep ends by `deadline`, in seconds since the Unix epoch. A new study tries
    `first_points` before all other points. `study_opened` is called once the study exists, before
    anything is spent. `lasting_ray` is the record file of a Ray that outlives this run: it is
    started where there is none, and the caller ends it.

    The caller holds the lock of the sweep's folder. Raises SweepInterruptedError after Ctrl-C and
    SweepError after a failure. Everything is recorded in both cases, and running the same command
    again resumes the sweep.
    """
    workspace, name = environment.workspace, plan.spec.name
    if fresh or workspace.is_study_name_taken(name):
        workspace.set_study_name(name, f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}")
    objectives = [spec.objective for spec in plan.spec.objectives]
    location = environment.storage or workspace.study_file(name)
    with leased(location, workspace.study_name(name), objectives, say):
        return _run_alone(plan, environment, progress, say, deadline, first_points, study_opened, lasting_ray)


def _run_alone(
    plan: SweepPlan,
    environment: Environment,
    progress: ProgressObserver,
    say: Callable[[str], None],
    deadline: float | None,
    first_points: Sequence[Mapping[str, Scalar]],
    study_opened: Callable[[Study], None],
    lasting_ray: Path | None,
) -> Outcome:
    from sweeps.execution import engine  # imports Ray, so only commands that run trials load it

    workspace, name = environment.workspace, plan.spec.name
    log_handler = redirect_library_logs(workspace.log_file(name))
    files = store_of_sweep(environment, name)
    study = open_study(plan, environment, first_points)
    study_opened(study)
    if (ended := sum(trial.state.ended for trial in study.search_trials)) > 0:
        say(f"{ended} of {plan.spec.search.trials} trials are done")
    if _is_complete(plan, study):
        say(f"sweep `{name}` is complete. Raise search.trials to add trials, or use --fresh to start again.")
        return _complete(plan, study, environment, files, say)
    experiment = plan.spec.tracking.experiment or name
    tracker = tracking.Tracker.connect(environment.tracking_uri, experiment, workspace.artifacts, say)
    ray_record = lasting_ray or workspace.sweep_folder(name) / engine.RAY_RECORD
    try:
        say("starting Ray and MLflow")
        # Meanwhile the tracker creates the tables of a new database.
        engine.connect(environment.ray_address, log_handler, record=ray_record, say=say)
        has_sent_all = SentRecord.read(plan.folder).is_complete
        run_id = start_tracking(tracker, plan, study)
        write_text(workspace.run_table_file(name), tracker.table_path())
        plan = with_gpus(plan, engine.gpus())
        with opened_backend(plan, study, files) as backend:
            protected_keys = protected_trial_keys(plan, environment.tracking_uri)
            model_retention = ModelRetention(plan, study, backend, protected_keys)
            tracking_observer = TrackingObserver(tracker, study, plan.folder, is_complete=has_sent_all)
            observers = [TextRecord(plan.folder), tracking_observer, model_retention, progress]
            session = Session(plan, study, observers, backend=backend, deadline=deadline)
            end = _run_trials(session, progress, environment.ray_address, files, say)
            decide_finals(plan, study, backend, end, say)
            for number, reason in model_retention.finish(selected_trial(study, plan.spec.objective)).items():
                say(f"the run of trial {number} was not stopped and may go on: {reason}")
            fetch_best_model(backend, selected_trial(study, plan.spec.objective), say)
            session.budget_ledger.settle(SETTLEMENT_TIMEOUT_S)
            tracking_observer.costs_settled(study.trials)
            finish_tracking(tracker, plan, session, end, _write_report(environment, name))
            decision = challenge_champion(plan, study, backend, end, environment, say)
            if decision is not None:
                tracker.replace(run_id, "report.html", _write_report(environment, name))
    finally:
        if lasting_ray is None:
            engine.disconnect(ray_record)
        tracker.close()
    if session.error is not None:
        raise session.error
    if end not in (SweepEnd.INTERRUPTED, SweepEnd.DEADLINE):
        study.store_finished()
    outcome = outcome_of(
        plan, study, end, environment, tracker.run_url(run_id), tracker.problems, decision, tracker.lacking
    )
    if end is SweepEnd.INTERRUPTED:
        ended = sum(trial.state.ended for trial in outcome.trials)
        raise SweepInterruptedError(
            f"stopped after {ended} of {plan.spec.search.trials} trials; every result is saved",
            f"run the same command again: {_what_resumes(plan)}",
        )
    return outcome


def _what_resumes(plan: SweepPlan) -> str:
    if plan.spec.capabilities.keeps_progress:
        return "running trials resume where they stopped"
    return "trials that had not ended train again from their beginning"


def _run_trials(
    session: Session, progress: ProgressObserver, ray_address: str | None, files: str | None, say: Callable[[str], None]
) -> SweepEnd:
    from sweeps.execution import cluster as clusters
    from sweeps.execution import engine

    cluster = None
    if ray_address is not None or files is not None:
        say("examining the machines of the cluster")
        cluster = clusters.join_cluster(session.plan, session.study.sweep_id, files, say)
    progress.sweep_started(session)
    try:
        engine.run(session, cluster, say)
    except BaseException:
        session.abort()
        raise
    finally:
        if cluster is not None:
            cluster.close()
        end = session.finish()
        progress.sweep_ended()
    return end


def _is_complete(plan: SweepPlan, study: Study) -> bool:
    ended = sum(trial.state.ended for trial in study.search_trials)
    finals = plan.spec.finals
    # Without a trial that has a value there is no finalist.
    is_decided = study.finals is not None or not study.tally.ranking
    finals_decided = finals is None or (is_decided and _has_all_repetitions(study, finals))
    return finals_decided and study.is_finished and not study.has_interrupted and ended >= plan.spec.search.trials


def _has_all_repetitions(study: Study, finals: FinalsSpec) -> bool:
    """Return whether every finalist has as many repetitions as the file asks for now."""
    repetitions = Counter(repeat.repeat_of for repeat in study.repeats if repeat.state.ended)
    return all(repetitions[number] >= finals.seeds for number in study.tally.ranking[: finals.candidates])


def _complete(
    plan: SweepPlan, study: Study, environment: Environment, files: str | None, say: Callable[[str], None]
) -> Outcome:
    """Return the outcome of a complete sweep.

    Runs the challenge first if an earlier run left it undone, and sends what MLflow lacks.
    """
    decision = None
    if plan.spec.champion is not None:
        with opened_backend(plan, study, files) as backend:
            decision = challenge_champion(plan, study, backend, SweepEnd.TRIALS, environment, say)
        if decision is not None:
            _write_report(environment, plan.spec.name)
    if not SentRecord.read(plan.folder).is_complete:
        say("MLflow does not show all of this sweep yet; sending the rest")
        catch_up(plan.spec.name, environment, say)
    return outcome_of(plan, study, SweepEnd.TRIALS, environment, None, (), decision)


def _write_report(environment: Environment, name: str) -> str:
    """Write the HTML report of the sweep as it is now, and return it."""
    report = page(state.read_state(environment.workspace, name, environment.storage), datetime.now())
    write_text(environment.workspace.report_file(name), report)
    return report
