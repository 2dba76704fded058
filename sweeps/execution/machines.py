"""Which machines of a cluster may train the trials of a sweep, and why others may not. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sweeps.errors import SweepError


@dataclass(frozen=True)
class MachineReport:
    """What a look at a machine found.

    `node` is its identity in Ray. `version` is that of finesweep, None if it is not installed;
    `source` is a digest of its source files. `sees_folder` tells whether it sees the sweep's folder
    with the driver's files in it. `problem` is what its backend or the store said, if anything.
    `cpus` and `gpus` are all that it has.
    """

    node: str
    name: str
    address: str
    version: str | None = None
    source: str = ""
    sees_folder: bool = False
    problem: str = ""
    hint: str = ""
    cpus: float = 0.0
    gpus: float = 0.0

    @property
    def title(self) -> str:
        """The machine in words."""
        return f"machine {self.name} ({self.address})"


@dataclass(frozen=True)
class MachineNeeds:
    """What the sweep needs of a machine.

    `version` and `source` are those of the driver. `folder` is the sweep's folder, and `files` the
    store that takes its place, or None. `trains` tells whether workers train; otherwise they only
    wait for a service, and do so on the machine `driver_node`. `cpus` and `gpus` are what a trial
    occupies.
    """

    version: str
    source: str
    folder: str
    files: str | None
    trains: bool
    driver_node: str
    cpus: float = 0.0
    gpus: float = 0.0

    def fit(self, report: MachineReport) -> bool:
        """Return whether a trial fits on this machine. It does not on a head that only directs."""
        return not self.trains or (report.cpus >= self.cpus and report.gpus >= self.gpus)


@dataclass(frozen=True)
class Refusal:
    """Why a machine may not train, in one sentence, and the remedy.

    `ends_sweep`: the same holds for each machine but the driver's, so the sweep must not start.
    """

    report: MachineReport
    sentence: str
    hint: str
    ends_sweep: bool = False


@dataclass(frozen=True)
class Choice:
    """The machines that may train, and those that may not."""

    usable: tuple[MachineReport, ...]
    refused: tuple[Refusal, ...]


def refusal(report: MachineReport, needs: MachineNeeds) -> Refusal | None:
    """Return why this machine may not train trials of the sweep, or None if it may."""
    title = report.title
    install = f"install finesweep {needs.version} there: pip install finesweep=={needs.version}"
    if report.problem and report.version is None:
        return Refusal(report, f"{title} {report.problem}", report.hint)
    if report.version is None:
        return Refusal(report, f"{title} has no finesweep in the Python of its Ray", install)
    if report.version != needs.version:
        sentence = f"{title} has finesweep {report.version}, but this sweep runs with {needs.version}"
        return Refusal(report, sentence, install)
    if report.source != needs.source:
        sentence = f"{title} has other source files of finesweep {report.version} than this machine"
        return Refusal(report, sentence, "install the same build or commit on all machines")
    if needs.trains and needs.files is None and not report.sees_folder:
        sentence = f"{title} does not see the sweep's folder {needs.folder}, and no store for files is named"
        hint = "name a store, such as --files s3://bucket/path, or mount the folder there at the same path"
        return Refusal(report, sentence, hint, ends_sweep=True)
    if report.problem:
        return Refusal(report, f"{title}: {report.problem}", report.hint)
    return None


def choose(reports: Sequence[MachineReport], needs: MachineNeeds) -> Choice:
    """Return which machines may train.

    Trials that only wait for a service stay on the driver's machine if others do not see the
    sweep's folder, because the backend's journal is there. A machine on which no trial fits is
    neither usable nor refused.
    """
    usable, refused = [], []
    for report in reports:
        if not needs.fit(report):
            continue
        if not needs.trains and not report.sees_folder and report.node != needs.driver_node:
            continue
        found = refusal(report, needs)
        if found is None:
            usable.append(report)
        else:
            refused.append(found)
    return Choice(tuple(usable), tuple(refused))


def require_machines(choice: Choice) -> None:
    """Raise SweepError if the sweep cannot start with this choice."""
    decisive = next((refused for refused in choice.refused if refused.ends_sweep), None)
    if decisive is None and not choice.usable:
        decisive = next(iter(choice.refused), None)
        if decisive is None:
            message = "no machine of the cluster has the CPUs and GPUs that a trial needs"
            raise SweepError(
                message, "lower resources.cpus_per_trial or gpus_per_trial; `ray status` shows the machines"
            )
    if decisive is None:
        return
    others = len(choice.refused) - 1
    more = f" (and {others} more of its machines cannot run trials)" if others else ""
    raise SweepError(f"{decisive.sentence}{more}", decisive.hint)
