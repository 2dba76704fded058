"""The machines of a Ray cluster: examined before their first trial, and watched from then on."""

from __future__ import annotations

import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sweeps.errors import SweepError
from sweeps.execution import worker_checks
from sweeps.execution.isolation import CUT_OFF_S
from sweeps.execution.machines import Choice, MachineNeeds, MachineReport, choose, refusal, require_machines
from sweeps.execution.worker_files import FilesSettings
from sweeps.file_store.data_files import put_data
from sweeps.file_store.store import FileStore
from sweeps.planning.sweep_plan import SweepPlan

EXAMINATION_TIMEOUT_S = 60.0
"""A machine that has not answered for this long is refused."""

WATCH_INTERVAL_S = 2.0

MAX_LOSSES = 3
"""A trial may lose this many machines before it counts as failed."""

SERVICE_TRIAL_BYTES = 2**20
"""What a trial that only waits for a service reserves; Ray cannot place one without anything."""

SILENCE_S = 5.0
"""After this long without an answer of a machine that trains, the user hears of it."""


@dataclass
class Cluster:
    """The machines that may train, and the trials that are on them.

    `files` are the settings of the store, or None if the workspace is shared. Only the methods that
    say so may be called from another thread.
    """

    plan: SweepPlan
    needs: MachineNeeds
    files: FilesSettings | None
    say: Callable[[str], None]
    machines: dict[str, MachineReport] = field(default_factory=dict)
    _trials: dict[int, str] = field(default_factory=dict)
    _losses: dict[int, int] = field(default_factory=dict)
    _seen: set[str] = field(default_factory=set)
    _alive: set[str] = field(default_factory=set)
    _watch: _Watch | None = None

    def examine(self) -> None:
        """Examine all machines at once, and begin to watch them.

        Raises SweepError if the sweep cannot start; says which machines it does without.
        """
        nodes = _alive_nodes()
        choice = self._choice(nodes)
        require_machines(choice)
        for refused in choice.refused:
            self.say(f"{refused.sentence}; it gets no trials: {refused.hint}")
        self.machines = {report.node: report for report in choice.usable}
        self._seen = {node["NodeID"] for node in nodes}
        self._alive = set(self._seen)
        self._watch = _Watch(self)
        self._watch.start()

    def close(self) -> None:
        """Stop watching. Idempotent."""
        if self._watch is not None:
            self._watch.stop()
            self._watch = None

    @property
    def usable_nodes(self) -> tuple[str, ...]:
        """The machines on which a trial may start now, as Ray calls them."""
        return tuple(sorted(node for node in self.machines if node in self._alive))

    def is_stranded(self, nodes: Sequence[str]) -> bool:
        """Return whether a trial that waits for one of these machines would wait for ever.

        They are all lost, and there are others.
        """
        usable = self.usable_nodes
        return bool(usable) and not set(nodes) & set(usable)

    def resources(self, resources: Mapping[str, float]) -> dict[str, float]:
        """Return what a trial occupies, given what it needs.

        A trial that only waits for a service must also fit on a machine that trains nothing, as the
        head of a cluster often is.
        """
        if self.needs.trains:
            return dict(resources)
        return {"memory": SERVICE_TRIAL_BYTES}

    def trial_is_on(self, number: int, node: str, resumed_from: str | None) -> None:
        """Remember where a trial trains, and say so where it continues the work of another."""
        if self._trials.get(number) == node:
            return
        self._trials[number] = node
        if resumed_from is not None:
            self.say(f"trial {number} continues on {self.name(node)}, from the last checkpoint of {resumed_from}")

    def trial_ended(self, number: int) -> None:
        """Forget where a trial was."""
        self._trials.pop(number, None)

    def is_lost(self, number: int, error: str) -> bool:
        """Return whether the trial's machine was lost, so that another one continues the trial.

        `error` is the error of the worker. It names the machine if the trial never reported. A
        trial that has lost `MAX_LOSSES` machines counts as the cause.
        """
        node = self._trials.get(number) or next((node for node in self._seen if node in error), None)
        if node is None or not _is_gone(node):
            return False
        self._losses[number] = self._losses.get(number, 0) + 1
        if self._losses[number] > MAX_LOSSES:
            return False
        point = "from the start" if self.files is None else "from its last checkpoint"
        self.say(f"trial {number} has lost {self.name(node)}; it goes on {point} on the next free machine")
        return True

    def name(self, node: str) -> str:
        """Return a machine in words."""
        report = self.machines.get(node)
        return report.title if report is not None else f"machine {node[:8]}"

    # --------------------------------------------------------------- on the thread of the watch
    def observe_nodes(self, nodes: Sequence[dict[str, Any]]) -> None:
        """Take note of the machines that Ray has now: examine new ones, name those that left."""
        alive = {str(node["NodeID"]) for node in nodes}
        gone, self._alive = self._alive - alive, self._alive & alive
        for node in gone:
            self.say(f"{self.name(node)} is gone")
            if not self.usable_nodes:
                self.say("no machine is left; the sweep waits for one to join (Ctrl-C stops it)")
        new = [node for node in nodes if node["NodeID"] not in self._seen]
        if not new:
            return
        choice = self._choice(new)
        for refused in choice.refused:
            self.say(f"{refused.sentence}; it gets no trials: {refused.hint}")
        for report in choice.usable:
            self.machines[report.node] = report
            self.say(f"{report.title} has joined")
        self._seen |= {str(node["NodeID"]) for node in new}
        self._alive |= {report.node for report in choice.usable}

    def training_nodes(self) -> set[str]:
        """Return the machines that train a trial now and that Ray believes alive."""
        return set(self._trials.values()) & self._alive

    def _choice(self, nodes: Sequence[dict[str, Any]]) -> Choice:
        return choose(_examine(nodes, self.plan, self.needs), self.needs)


def join_cluster(plan: SweepPlan, sweep_id: str, files: str | None, say: Callable[[str], None]) -> Cluster:
    """Put the data into the store, if there is one, and examine the machines of the cluster.

    Ray must be connected. Raises SweepError in one sentence if the sweep cannot start.
    """
    trains = plan.spec.capabilities.trains_on_worker
    settings = None
    if files is not None and plan.spec.capabilities.in_process:
        store = FileStore(files)
        store.check()
        put_data(store, plan.data.dataset, sweep_id)
        settings = FilesSettings(files, sweep_id, str(plan.folder))
    here = look_at_machine()("", "")
    needs = MachineNeeds(
        version=str(here["version"]),
        source=str(here["source"]),
        folder=str(plan.folder),
        files=None if settings is None else files,
        trains=trains,
        driver_node=str(ray.get_runtime_context().get_node_id()),
        cpus=plan.placement.cpus,
        gpus=plan.placement.gpus,
    )
    cluster = Cluster(plan, needs, settings, say)
    cluster.examine()
    return cluster


# ------------------------------------------------------------------------------------- examination
def look_at_machine() -> Callable[[str, str], dict[str, Any]]:
    """Return a function that describes the machine on which it runs.

    The function uses only the standard library, and Ray sends it by value, so that it also runs
    where finesweep is missing or another version.
    """

    def look(marker: str, content: str) -> dict[str, Any]:
        import hashlib
        import importlib.metadata
        import importlib.util
        import socket
        from pathlib import Path

        try:
            version: str | None = importlib.metadata.version("finesweep")
        except importlib.metadata.PackageNotFoundError:
            version = None
        source = hashlib.sha256()
        for package in ("backends", "search_spaces", "sweeps"):
            spec = importlib.util.find_spec(package)
            for folder in (spec.submodule_search_locations or []) if spec is not None else []:
                root = Path(folder)
                for file in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).parts):
                    source.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes())
        try:
            sees_folder = bool(marker) and Path(marker).read_text() == content
        except OSError:
            sees_folder = False
        return {
            "name": socket.gethostname(),
            "version": version,
            "source": source.hexdigest(),
            "sees_folder": sees_folder,
        }

    return look


def _examine(nodes: Sequence[dict[str, Any]], plan: SweepPlan, needs: MachineNeeds) -> list[MachineReport]:
    """Look at machines, and ask those with the right version whether the backend works there."""
    content = uuid.uuid4().hex
    marker = Path(needs.folder) / f".seen-{content[:8]}"
    marker.write_text(content, encoding="utf-8")
    try:
        looks = _on_each(look_at_machine(), nodes, str(marker), content)
    finally:
        marker.unlink(missing_ok=True)
    reports = [_report(node, answer) for node, answer in zip(nodes, looks, strict=True)]
    fit = [report for report in reports if needs.fit(report) and refusal(report, needs) is None]
    by_node = {str(node["NodeID"]): node for node in nodes}
    folders = sorted({name for name in _base_models(plan) if Path(name).is_absolute() and Path(name).is_dir()})
    answers = _on_each(
        worker_checks.problem_on_this_machine,
        [by_node[report.node] for report in fit],
        plan.spec.backend_type,
        plan.spec.backend_options.model_dump_json(),
        folders,
        needs.files,
    )
    problems = {}
    for report, answer in zip(fit, answers, strict=True):
        problem, hint = (str(answer), "read Ray's log there") if isinstance(answer, Exception) else answer
        problems[report.node] = (problem, hint)
    return [
        replace(report, problem=problems[report.node][0], hint=problems[report.node][1])
        if report.node in problems
        else report
        for report in reports
    ]


def _on_each(function: Callable[..., Any], nodes: Sequence[dict[str, Any]], *arguments: object) -> list[Any]:
    """Call a function on each machine at once. A call that failed answers with the exception."""
    task = ray.remote(num_cpus=0, max_retries=0)(function)
    calls = [
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(*arguments)
        for node in nodes
    ]
    ready, late = ray.wait(calls, num_returns=len(calls), timeout=EXAMINATION_TIMEOUT_S) if calls else ([], [])
    for call in late:
        ray.cancel(call, force=True)
    answers: list[Any] = []
    for call in calls:
        if call not in ready:
            answers.append(TimeoutError(f"did not answer within {EXAMINATION_TIMEOUT_S:.0f} s"))
            continue
        try:
            answers.append(ray.get(call))
        except Exception as error:  # noqa: BLE001 - what another machine raises can be anything, and is one answer of many
            answers.append(SweepError(f"cannot run tasks: {(str(error).strip().splitlines() or ['?'])[-1]}"))
    return answers


def _report(node: dict[str, Any], answer: Any) -> MachineReport:
    report = MachineReport(
        str(node["NodeID"]),
        str(node["NodeManagerHostname"]),
        str(node["NodeManagerAddress"]),
        cpus=float(node["Resources"].get("CPU", 0.0)),
        gpus=float(node["Resources"].get("GPU", 0.0)),
    )
    if isinstance(answer, Exception):
        return replace(report, problem=str(answer), hint="read Ray's log there, or remove it from the cluster")
    return replace(report, **answer)


def _base_models(plan: SweepPlan) -> set[str]:
    choices = plan.space.parameter("base_model")
    names = {plan.base_model}
    if choices is not None:
        options = getattr(choices.distribution, "choices", None) or (choices.fixed,)
        names |= {str(name) for name in options if name is not None}
    return {plan.spec.absolute_model(name) for name in names}


def _alive_nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


# ------------------------------------------------------------------------------------------- watch
class _Watch(threading.Thread):
    """Looks every `WATCH_INTERVAL_S` which machines there are, and whether they answer."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(name="cluster-watch", daemon=True)
        self._cluster = cluster
        self._ended = threading.Event()
        self._answered_at: dict[str, float] = {}
        self._silent: set[str] = set()

    def stop(self) -> None:
        self._ended.set()
        self.join(timeout=EXAMINATION_TIMEOUT_S)

    def run(self) -> None:
        while not self._ended.wait(WATCH_INTERVAL_S):
            try:
                nodes = _alive_nodes()
                self._cluster.observe_nodes(nodes)
                self._look_for_silence(nodes)
            except (ray.exceptions.RayError, OSError, RuntimeError):  # Ray is gone, which the engine reports
                continue

    def _look_for_silence(self, nodes: Sequence[dict[str, Any]]) -> None:
        now = time.monotonic()
        for node in nodes:
            name = str(node["NodeID"])
            if name not in self._cluster.training_nodes():
                self._answered_at.pop(name, None)
                continue
            if _contact(node) is Contact.ANSWERS:
                self._answered_at[name] = now
                if name in self._silent:
                    self._silent.discard(name)
                    self._cluster.say(f"{self._cluster.name(name)} answers again")
            elif now - self._answered_at.setdefault(name, now) >= SILENCE_S and name not in self._silent:
                self._silent.add(name)
                words = "does not answer; its trials resume on another machine once Ray gives it up"
                self._cluster.say(f"{self._cluster.name(name)} {words}")


class Contact(Enum):
    """What a try to reach a machine's Ray process came to."""

    ANSWERS = "answers"
    REFUSED = "refused"
    SILENT = "silent"


def _contact(node: Mapping[str, Any]) -> Contact:
    place = (str(node["NodeManagerAddress"]), int(node["NodeManagerPort"]))
    try:
        with socket.create_connection(place, timeout=1.0):
            return Contact.ANSWERS
    except ConnectionRefusedError:
        return Contact.REFUSED
    except OSError:
        return Contact.SILENT


def _is_gone(node: str) -> bool:
    """Return whether the workers of a machine have certainly ended with it.

    Ray may still believe it alive. If its process refuses a connection, that process has ended, and
    its workers with it. If nobody answers, they may live until they notice that they are cut off.
    """
    waited_until = time.monotonic() + CUT_OFF_S + SILENCE_S
    while True:
        known = next((alive for alive in _alive_nodes() if alive["NodeID"] == node), None)
        contact = _contact(known) if known is not None else Contact.REFUSED
        if contact is not Contact.SILENT:
            return contact is Contact.REFUSED
        if time.monotonic() > waited_until:
            return True
        time.sleep(1.0)
