"""The command line of the server: every mistake at once, and none of them by a traceback."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import click
import pytest

from sweeps.cli import serve, serve_settings
from sweeps.errors import UserInputError
from sweeps.server import serving, webhooks

pytestmark = pytest.mark.unit


def settings(**more: Any) -> Any:
    values: dict[str, Any] = {
        "root": Path("/somewhere"),
        "backend": "local",
        "models": (),
        "options": (),
        "keys": (),
        "webhook": None,
        "webhook_secrets": (),
        "max_jobs": None,
        "max_file_mb": 512,
        "faults": "",
    }
    return serve_settings.settings(**{**values, **more})


def test_without_a_word_the_built_in_model_is_offered() -> None:
    assert settings().models == {"tiny-lm": "builtin:tiny-lm"}
    assert settings(models=("a=b", "c=d=e"), options=("max_length=64", "device=cpu")).models == {"a": "b", "c": "d=e"}
    assert settings(options=("max_length=64", "device=cpu")).options == {"max_length": 64, "device": "cpu"}


def test_every_mistake_is_said_at_once() -> None:
    with pytest.raises(UserInputError) as raised:
        settings(
            models=("bad name=x", "nothing"),
            options=("oops",),
            webhook="ftp://x",
            webhook_secrets=("whsec_no base64!",),
        )
    said = str(raised.value)
    for each in ("'bad name'", "'nothing' is not NAME=VALUE", "ftp://x", "--set oops", "the webhook secret"):
        assert each in said
    assert "no base64!" not in said, "a secret is not repeated"


def test_an_unknown_backend_is_said_with_the_nearest_name() -> None:
    with pytest.raises(UserInputError) as raised:
        settings(backend="locel")
    (problem,) = raised.value.problems
    assert problem.place == "--backend"
    assert "local" in problem.message + problem.hint


def test_keys_and_settings_do_not_show_their_secrets() -> None:
    shown = repr(settings(keys=("key-of-ann",), webhook_secrets=("the-secret",)))
    assert "key-of-ann" not in shown
    assert "the-secret" not in shown


def test_secrets_come_from_variables_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys").write_text("c d\n")
    monkeypatch.setenv("KEYS", "a, b")
    monkeypatch.setenv("KEYS_FILE", str(tmp_path / "keys"))
    assert serve._secrets(("KEYS",), required=True) == ("a", "b", "c", "d")
    monkeypatch.setenv("KEYS_FILE", str(tmp_path / "absent"))
    with pytest.raises(UserInputError, match="cannot read .*: No such file"):
        serve._secrets(("KEYS",), required=True)
    with pytest.raises(UserInputError, match="is not set"):
        serve._secrets(("NO_SUCH_KEYS",), required=True)


def test_a_signature_is_that_of_the_standard() -> None:
    """The worked example of the Standard Webhooks specification."""
    secret, id_ = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek"
    body = '{"test": 2432232314}'
    assert webhooks.signature(secret, id_, "1614265330", body) == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_every_option_is_in_the_guide() -> None:
    guide = (Path(__file__).parents[3] / "docs" / "guide" / "serve.md").read_text(encoding="utf-8")
    options = [param for param in serve.serve.params if isinstance(param, click.Option)]
    names = [name for option in options for name in option.opts if name.startswith("--")]
    assert len(names) > 9
    assert [name for name in names if f"`{name}" not in guide] == []


def test_answers_are_not_held_back() -> None:
    """Asyncio turns Nagle's algorithm off where a socket is named by its protocol; else an answer takes 40 ms."""
    with serving._listening("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP
