"""An installed plugin is found, loaded and tested by the contract suite, which notices defects."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import backends
from backends.testing import BackendContract, MetricContract

pytestmark = pytest.mark.integration

PLUGIN = Path(__file__).parent / "plugin"
CHECKOUT = Path(backends.__file__).parents[1]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A directory with the plugin and its metadata, as an installer writes them."""
    site = tmp_path / "site"
    info = site / "coin_backend-0.3.dist-info"
    info.mkdir(parents=True)
    shutil.copy(PLUGIN / "coin_backend.py", site)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: coin-backend\nVersion: 0.3\n")
    (info / "entry_points.txt").write_text("[finesweep.backends]\ncoin = coin_backend:CoinBackend\n")
    return site


def python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=240, check=False
    )


def run_pytest(*arguments: str, paths: list[Path], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run pytest without our configuration, as in another project; warnings are errors too."""
    (cwd / "pytest.ini").write_text("[pytest]\n")
    search = " ".join(str(path) for path in [*paths, CHECKOUT])
    options = ["-q", "-rf", "--tb=short", "-W", "error", "-p", "no:cacheprovider", "-o", f"pythonpath={search}"]
    return python("-m", "pytest", "-c", str(cwd / "pytest.ini"), *options, *arguments, cwd=cwd)


def test_an_installed_plugin_is_found_and_loaded(site: Path, tmp_path: Path) -> None:
    script = (
        f"import sys; sys.path[:0] = [{str(site)!r}, {str(CHECKOUT)!r}]\n"
        "from backends import registry\n"
        "assert {'coin', 'fake', 'local'} <= set(registry.names()), registry.names()\n"
        "assert 'coin_backend' not in sys.modules\n"
        "(coin,) = (found for found in registry.registrations() if found.name == 'coin')\n"
        "assert (coin.distribution, coin.version) == ('coin-backend', '0.3'), coin\n"
        "assert registry.load('coin').__name__ == 'CoinBackend'\n"
        "assert registry.load('fake').__name__ == 'FakeBackend'\n"
    )
    done = python("-c", script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_plugin_passes_the_contract_suite(site: Path, tmp_path: Path) -> None:
    shutil.copy(PLUGIN / "suite_of_coin.py", tmp_path)
    done = run_pytest("suite_of_coin.py", paths=[site], cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) >= 25, "nearly the whole suite applies to a small backend"


def test_a_metric_of_a_plugin_passes_the_contract_suite(tmp_path: Path) -> None:
    shutil.copy(PLUGIN / "suite_of_word_count.py", tmp_path)
    done = run_pytest("suite_of_word_count.py", paths=[PLUGIN], cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert re.search(r"1\d passed", done.stdout), done.stdout


@pytest.mark.parametrize("suite", ["suite_of_defects.py", "suite_of_metric_defects.py"])
def test_the_suite_notices_defects(tmp_path: Path, suite: str) -> None:
    """For each promise there is a plug-in that breaks it, and the test of the promise fails."""
    shutil.copy(PLUGIN / suite, tmp_path)
    expected = re.findall(r'^class (Test\w+)\(.*\n    """(test_\w+)', (tmp_path / suite).read_text(), re.MULTILINE)
    done = run_pytest(*(f"{suite}::{name}::{test}" for name, test in expected), paths=[], cwd=tmp_path)
    failed = {tuple(match) for match in re.findall(r"^FAILED \S+::(\w+)::(\w+)", done.stdout, re.MULTILINE)}
    assert failed == set(expected), done.stdout
    assert " error" not in done.stdout.splitlines()[-1], "each defect makes a test fail, and none breaks a fixture"


@pytest.mark.parametrize(
    ("contract", "suite"), [(BackendContract, "suite_of_defects.py"), (MetricContract, "suite_of_metric_defects.py")]
)
def test_every_promise_has_a_defect(contract: type, suite: str) -> None:
    promises = {name for name in vars(contract) if name.startswith("test_")}
    covered = set(re.findall(r'^    """(test_\w+)', (PLUGIN / suite).read_text(), re.MULTILINE))
    assert covered == promises
