"""The built wheel with each set of extras, in an environment that holds only what the wheel
declares.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from email.parser import Parser
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import sweeps
from backends.extras import EXTRAS

pytestmark = pytest.mark.integration

CHECKOUT = Path(sweeps.__file__).parents[1]

SPACE = """\
name: small
data: {checks: quick, source: "builtin:nli", prompt: "{premise} {hypothesis}", completion: " {label}",
       train_examples: 60, valid_examples: 30, test_examples: 30}
backend: {type: BACKEND}
space: {n_epochs: recommended, batch_size: recommended, learning_rate_multiplier: recommended}
search: {trials: 2, scheduler: none}
objective: {maximize: valid_accuracy}
"""

HISTORY = "epoch,train_loss,valid_loss\n1,1.0,1.1\n2,0.6,0.8\n3,0.4,0.7\n4,0.3,0.69\n"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of the checkout."""
    source, target = tmp_path_factory.mktemp("source") / "finesweep", tmp_path_factory.mktemp("wheel")
    unneeded = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "tests", "benchmarks", "docs")
    shutil.copytree(CHECKOUT, source, ignore=unneeded)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "--wheel-dir", str(target), str(source)], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    [built] = target.glob("*.whl")
    return built


class Installation:
    """A virtual environment with the wheel and exactly the distributions that it declares for some
    extras.

    The distributions are links to those of the environment that runs the tests, so nothing is
    downloaded.
    """

    def __init__(self, wheel: Path, extras: tuple[str, ...], folder: Path) -> None:
        venv.create(folder, with_pip=False, symlinks=True)
        self.python = folder / "bin" / "python"
        [self.site] = folder.glob("lib/python*/site-packages")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(self.site)
        self.distributions = closure(self.site, extras)
        for distribution in self.distributions.values():
            for entry in {file.parts[0] for file in distribution.files or () if file.parts[0] != ".."}:
                if entry != "__pycache__" and not (self.site / entry).exists():
                    (self.site / entry).symlink_to(Path(str(distribution.locate_file(entry))).resolve())

    def sweep(self, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return subprocess.run(
            [str(self.python), "-m", "sweeps.cli", *arguments],
            cwd=folder,
            env={**environment, "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )


def closure(site: Path, extras: tuple[str, ...]) -> dict[str, metadata.Distribution]:
    """Return the distributions that the wheel in `site` needs with these extras, by name."""
    [information] = site.glob("finesweep-*.dist-info")
    declared = Parser().parsestr((information / "METADATA").read_text(encoding="utf-8"))
    pending = [(Requirement(text), extras) for text in declared.get_all("Requires-Dist", [])]
    found: dict[str, metadata.Distribution] = {}
    seen: set[tuple[str, tuple[str, ...]]] = set()
    while pending:
        requirement, active = pending.pop()
        if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in ("", *active)):
            continue
        name, wanted = canonicalize_name(requirement.name), tuple(sorted(requirement.extras))
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        if name == "finesweep":
            pending += [(Requirement(text), wanted) for text in declared.get_all("Requires-Dist", [])]
            continue
        distribution = metadata.distribution(name)
        assert requirement.specifier.contains(distribution.version, prereleases=True), f"{requirement} is not installed"
        found[name] = distribution
        pending += [(Requirement(text), wanted) for text in distribution.requires or ()]
    return found


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    for backend in ("local", "fake"):
        (folder / f"{backend}.yaml").write_text(SPACE.replace("BACKEND", backend))
    (folder / "history.csv").write_text(HISTORY)
    return folder


@pytest.fixture(scope="module")
def plain(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return Installation(wheel, (), tmp_path_factory.mktemp("plain"))


def test_a_plain_install_runs_a_sweep_and_judges_histories_without_torch(plain: Installation, workplace: Path) -> None:
    assert not {"torch", "transformers", "peft", "datasets"} & plain.distributions.keys()
    assert plain.sweep(workplace, "fit", "history.csv").returncode == 0
    ran = plain.sweep(workplace, "run", "fake.yaml")
    assert ran.returncode == 0, ran.stderr
    assert "best: " in ran.stdout
    assert plain.sweep(workplace, "status", "small", "--json").returncode == 0


@pytest.mark.parametrize("command", ["check", "plan", "run"])
def test_a_plain_install_names_the_extra_for_local_training(plain: Installation, workplace: Path, command: str) -> None:
    done = plain.sweep(workplace, command, "local.yaml")
    assert done.returncode == 1
    assert "pip install 'finesweep[local]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_sweep_serve_names_its_extra(plain: Installation, workplace: Path) -> None:
    for library in ("multipart", "python_multipart"):
        link = plain.site / library
        if link.is_symlink():
            link.unlink()
    done = plain.sweep(workplace, "serve", "--backend", "fake", "--model", "m=m", "--port", "0")
    assert done.returncode == 1
    assert "pip install 'finesweep[server]'" in done.stderr
    assert "python_multipart" in done.stderr


@pytest.mark.parametrize("extra", sorted(EXTRAS))
def test_an_extra_brings_its_libraries(wheel: Path, tmp_path: Path, extra: str) -> None:
    installed = Installation(wheel, (extra,), tmp_path / "installed")
    script = f"from backends.extras import missing_libraries; print(missing_libraries({extra!r}))"
    done = subprocess.run([str(installed.python), "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "()", done.stderr


def test_the_extra_local_plans_local_training(wheel: Path, tmp_path: Path, workplace: Path) -> None:
    done = Installation(wheel, ("local",), tmp_path / "installed").sweep(workplace, "plan", "local.yaml")
    assert done.returncode == 0, done.stderr


def test_all_holds_every_extra(wheel: Path, tmp_path: Path) -> None:
    everything = Installation(wheel, ("all",), tmp_path / "installed").distributions.keys()
    for extra in (*EXTRAS, "notify", "postgres"):
        assert Installation(wheel, (extra,), tmp_path / extra).distributions.keys() <= everything
