"""The name of a night's sweep: the name in the sweep file, or that name with the night's date."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from sweeps.errors import SweepError
from sweeps.execution.environment import Environment
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.spec.yaml_source import with_overrides
from sweeps.study.stored_study import stored_fingerprint
from sweeps.workspace import Workspace

_MAX_LENGTH = 100
_SUFFIX_RESERVE = 5
"""Characters that stay free for a number, as in `.1234`."""


def free_name(plan: SweepPlan, tz: str, planned_at: int, environment: Environment) -> str:
    """Return the name in the sweep file, or a free name if another sweep has it.

    The free name is the name in the sweep file with the night's local date, and with a number if
    that is taken, too.
    """
    base = plan.spec.name
    if not _is_taken(environment, base, plan.fingerprint):
        return base
    date = datetime.fromtimestamp(planned_at, UTC).astimezone(ZoneInfo(tz)).date().isoformat()
    dated = f"{base[: _MAX_LENGTH - len(date) - _SUFFIX_RESERVE]}-{date}"
    name, number = dated, 1
    while _is_taken(environment, name, plan.fingerprint):
        number += 1
        name = f"{dated}.{number}"
    return name


def renamed(plan: SweepPlan, name: str, workspace: Workspace) -> SweepPlan:
    """Return the plan under another name.

    The MLflow experiment and the registered model keep the name in the sweep file.
    """
    spec, base = plan.spec, plan.spec.name
    if name == base:
        return plan
    overrides = [f"name={json.dumps(name)}"]
    if spec.tracking.experiment is None:
        spec = spec.with_sections(tracking=spec.tracking.model_copy(update={"experiment": base}))
        overrides.append(f"tracking.experiment={json.dumps(base)}")
    if spec.champion is not None and spec.champion.model is None:
        spec = spec.with_sections(champion=spec.champion.model_copy(update={"model": base}))
        overrides.append(f"champion.model={json.dumps(base)}")
    spec = replace(spec.with_sections(name=name), document=with_overrides(spec.document, overrides))
    return replace(plan, spec=spec, folder=workspace.sweep_folder(name))


def folder_has_other_sweep(workspace: Workspace, name: str, fingerprint: str) -> bool:
    """Return whether the folder of this name holds a sweep of another plan than this fingerprint's.

    A process that died before it wrote its plan has left a study, which has the fingerprint too.
    """
    try:
        stored = json.loads((workspace.sweep_folder(name) / "plan.json").read_text(encoding="utf-8"))["fingerprint"]
    except (OSError, ValueError, KeyError):
        try:
            stored = stored_fingerprint(workspace.study_file(name), workspace.study_name(name))
        except SweepError:
            return True
    return stored not in (None, fingerprint)


def _is_taken(environment: Environment, name: str, fingerprint: str) -> bool:
    """Return whether another sweep has the name, in this workspace or in the database.

    The database also has the sweeps of other machines.
    """
    if folder_has_other_sweep(environment.workspace, name, fingerprint):
        return True
    if environment.storage is None:
        return False
    return stored_fingerprint(environment.storage, environment.workspace.study_name(name)) not in (None, fingerprint)
