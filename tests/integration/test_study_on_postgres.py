"""The tests of the study again, with a real PostgreSQL server in place of the journal file.

Each journal path of a test stands for a database of its own. Left out are the tests that read the
journal file itself, and those of Hypothesis, which would need a database for each example.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import psycopg
import pytest
from loaded_tests import load_tests

from sweeps.study.storage import open_storage
from tests.integration import databases

pytestmark = pytest.mark.integration

_UNIT = Path(__file__).resolve().parents[1] / "unit" / "study"


_STUDY, _RECORDS = (
    load_tests(_UNIT / "test_study.py", "on_postgres"),
    load_tests(_UNIT / "test_records.py", "on_postgres"),
)

ABOUT_THE_JOURNAL_FILE = {
    "test_study": set[str](),
    "test_records": {
        "test_the_bytes_of_an_evaluation_do_not_depend_on_how_many_there_were",
        "test_every_evaluation_is_stored_once_and_read_by_a_reader_and_by_the_next_process",
        "test_a_record_that_has_not_changed_is_not_written_again",
        "test_an_adopted_run_that_reports_its_events_again_writes_no_evaluation_twice",
        "test_a_trial_that_version_0_1_left_running_is_adopted_with_its_curve",
    },
}
"""The tests that read or write the file itself."""


class _Databases:
    """A database for each path."""

    def __init__(self, server: databases.Server) -> None:
        self._server = server
        self._by_path: dict[str, str] = {}

    def url(self, location: object) -> str:
        """Return the URL of the database that stands for a path; a URL stands for itself."""
        if isinstance(location, str):
            return location
        if str(location) not in self._by_path:
            name = f"study{len(self._by_path)}"
            address = f"host=127.0.0.1 port={self._server.port} user=postgres dbname=postgres"
            with psycopg.connect(address, autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {name}")
            self._by_path[str(location)] = self._server.url.removesuffix("/postgres") + f"/{name}"
        return self._by_path[str(location)]


@pytest.fixture(scope="module")
def on_postgres() -> Iterator[_Databases]:
    with databases.server() as server:
        yield _Databases(server)


@pytest.fixture(autouse=True)
def journal_paths_stand_for_databases(on_postgres: _Databases, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (_STUDY, _RECORDS):
        original_open, original_read = module.Study.open, module.read_study

        class Redirected(module.Study):  # type: ignore[name-defined,misc]
            open = staticmethod(
                lambda location, definition, open_=original_open: open_(on_postgres.url(location), definition)
            )

        def read(location: Any, *more: Any, read_: Any = original_read, **options: Any) -> Any:
            return read_(on_postgres.url(location), *more, **options)

        monkeypatch.setattr(module, "Study", Redirected)
        monkeypatch.setattr(module, "read_study", read)

    def in_optuna(location: Path) -> list[optuna.trial.FrozenTrial]:
        return optuna.load_study(study_name="s", storage=open_storage(on_postgres.url(location))).get_trials()

    monkeypatch.setattr(_STUDY, "in_optuna", in_optuna)
    monkeypatch.setattr(
        _RECORDS, "stored_attributes", lambda location, number: dict(in_optuna(location)[number].user_attrs)
    )


for _module, _name in ((_STUDY, "test_study"), (_RECORDS, "test_records")):
    for _test, _function in vars(_module).items():
        is_test = _test.startswith("test_") and _test not in ABOUT_THE_JOURNAL_FILE[_name]
        if is_test and not hasattr(_function, "hypothesis"):
            globals()[f"test_{_name.removeprefix('test_')}_{_test.removeprefix('test_')}"] = _function


def test_the_tests_left_out_exist() -> None:
    for module, name in ((_STUDY, "test_study"), (_RECORDS, "test_records")):
        assert not ABOUT_THE_JOURNAL_FILE[name] - set(vars(module))
