"""The registry finds backends by entry points, lazily, and names the distribution of a bad one."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from backends import plugins, registry
from backends.contract import Backend
from backends.fake import FakeBackend

pytestmark = pytest.mark.unit

METHODS = ["describe", "open", "check", "estimate", "submit", "events", "stop", "predict", "discard", "close"]


def install(directory: Path, distribution: str, entry_points: dict[str, str], version: str = "1.2.3") -> None:
    """Write the metadata of an installed distribution."""
    info = directory / f"{distribution.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    lines = "".join(f"{name} = {target}\n" for name, target in entry_points.items())
    (info / "entry_points.txt").write_text(f"[{registry.BACKENDS.group}]\n{lines}")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory on the import path, like site-packages."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_built_in_backends_are_entry_points() -> None:
    assert {"fake", "local"} <= set(registry.names())
    assert registry.load("fake") is FakeBackend
    (fake,) = (registration for registration in registry.registrations() if registration.name == "fake")
    assert (fake.distribution, fake.target) == ("finesweep", "backends.fake:FakeBackend")
    assert fake.version


def test_a_plugin_is_listed_and_loaded(site: Path) -> None:
    install(site, "far-away", {"remote": "far_away:Remote"})
    (site / "far_away.py").write_text("from backends.fake import FakeBackend\nclass Remote(FakeBackend): ...\n")
    assert "remote" in registry.names()
    assert registry.Registration("remote", "far_away:Remote", "far-away", "1.2.3") in registry.registrations()
    assert "far_away" not in sys.modules
    assert issubclass(registry.load("remote"), FakeBackend)


def test_the_error_for_an_unknown_name_suggests_the_nearest_name() -> None:
    with pytest.raises(plugins.UnknownPluginError) as raised:
        registry.load("fke")
    assert "'fke'" in raised.value.message
    assert "Did you mean 'fake'?" in raised.value.hint
    assert "local" in raised.value.hint


def test_the_error_for_an_unknown_name_without_a_near_one_lists_all_names() -> None:
    with pytest.raises(plugins.UnknownPluginError, match=r"there is no backend 'xyzzy'\. Installed: .*fake.*local"):
        registry.load("xyzzy")


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("import no_such_module_at_all", "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
        ("raise RuntimeError('wrong driver')", "RuntimeError: wrong driver"),
        ("def broken(:", "SyntaxError"),
        ("", "AttributeError"),
    ],
)
def test_the_error_for_a_failing_import_names_the_plugin_and_affects_no_other(
    site: Path, source: str, error: str
) -> None:
    module = f"broken_{site.name}"
    install(site, "broken-plugin", {"broken": f"{module}:Backend"})
    (site / f"{module}.py").write_text(source)
    with pytest.raises(plugins.BrokenPluginError) as raised:
        registry.load("broken")
    assert "broken-plugin 1.2.3" in raised.value.message
    assert error in raised.value.message
    assert raised.value.__cause__ is not None
    assert registry.load("fake") is FakeBackend


def test_a_class_that_lacks_members_is_refused(site: Path) -> None:
    install(site, "half-done", {"half": "half_done:Half"})
    (site / "half_done.py").write_text(
        "class Half:\n"
        "    options_model = dict\n"
        "    def submit(self, request): ...\n"
        "    def events(self, handle, after): ...\n"
        "    stop = 'no method'\n"
    )
    with pytest.raises(
        plugins.BrokenPluginError, match=r"half-done 1\.2\.3 .*lacks options_model, describe, open, check, es"
    ):
        registry.load("half")


def test_missing_members() -> None:
    assert registry.missing_members(FakeBackend) == []
    assert registry.missing_members(object) == ["options_model", *METHODS]
    assert registry.missing_members(object.__new__(FakeBackend)) == ["options_model", *METHODS]
    assert set(METHODS) == {name for name in vars(Backend) if not name.startswith("_")}


def test_the_error_for_a_name_of_two_distributions_names_both(site: Path) -> None:
    install(site, "second-fake", {"fake": "elsewhere:Fake"}, version="9.0")
    with pytest.raises(plugins.AmbiguousPluginError) as raised:
        registry.load("fake")
    assert "finesweep" in raised.value.message
    assert "second-fake 9.0 (elsewhere:Fake)" in raised.value.message
    assert registry.names().count("fake") == 1
    assert [found.distribution for found in registry.registrations() if found.name == "fake"] == [
        "finesweep",
        "second-fake",
    ]


def test_errors_survive_pickling() -> None:
    with pytest.raises(plugins.UnknownPluginError) as raised:
        registry.load("fke")
    copy = pickle.loads(pickle.dumps(raised.value))
    assert type(copy) is plugins.UnknownPluginError
    assert (copy.message, copy.hint) == (raised.value.message, raised.value.hint)


def test_listing_imports_no_backend_and_loading_imports_only_one(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from backends import registry\n"
        "registry.names(); registry.registrations()\n"
        "assert not {'backends.fake', 'backends.local'} & set(sys.modules)\n"
        "registry.load('fake')\n"
        "assert not {'backends.local', 'torch', 'ray', 'mlflow', 'transformers'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}\n{script}"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
