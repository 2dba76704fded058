"""Tests of whole sweeps again, with the studies in a real PostgreSQL server.

Every command of a test uses a database of this test alone. Left out are the tests that read or
damage the journal file itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from loaded_tests import load_tests
from user_environment import STORAGE_UNDER_TEST

from tests.integration import databases

ABOUT_THE_JOURNAL_FILE: dict[str, set[str]] = {
    "test_cli_run": set(),
    "test_control": {
        "test_a_sweep_is_steered_from_another_terminal_and_another_folder",
        "test_one_damaged_sweep_does_not_hide_the_others",
    },
    "test_changed_file": set(),
    "test_champion_cli": set(),
}

_numbers = itertools.count()

_MODULES = {name: load_tests(Path(__file__).with_name(f"{name}.py"), "on_postgres") for name in ABOUT_THE_JOURNAL_FILE}

pytestmark = [*_MODULES["test_cli_run"].pytestmark, pytest.mark.slow]


@pytest.fixture(scope="module")
def postgres() -> Iterator[databases.Server]:
    with databases.server() as server:
        yield server


@pytest.fixture(autouse=True)
def studies_in_a_new_database(postgres: databases.Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    name = f"test{next(_numbers)}"
    with psycopg.connect(postgres.url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
        for variable in ("SWEEP_STORAGE", STORAGE_UNDER_TEST):
            monkeypatch.setenv(variable, postgres.url.removesuffix("/postgres") + f"/{name}")
        yield


folder = _MODULES["test_cli_run"].folder
"""The fixture of that file."""

for _name, _module in _MODULES.items():
    for _test, _value in vars(_module).items():
        if _test.startswith("test_") and _test not in ABOUT_THE_JOURNAL_FILE[_name]:
            globals()[f"test_{_name.removeprefix('test_')}_{_test.removeprefix('test_')}"] = _value


def test_the_tests_left_out_exist() -> None:
    for name, module in _MODULES.items():
        assert not ABOUT_THE_JOURNAL_FILE[name] - set(vars(module))
