"""The options of `sweep serve`: all mistakes together, and no secret in any message."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import click
import pytest

from sweeps.cli import serve
from sweeps.cli.serve_settings import ServeOptions, server_settings
from sweeps.errors import UserInputError
from sweeps.server import serving, webhooks
from sweeps.server.settings import ServerSettings

pytestmark = pytest.mark.unit


def settings(**options: Any) -> ServerSettings:
    return server_settings(ServeOptions(root=Path("/somewhere"), **options))


def test_without_options_the_server_offers_the_built_in_model() -> None:
    assert settings().models == {"tiny-lm": "builtin:tiny-lm"}


def test_models_and_backend_options_are_parsed() -> None:
    parsed = settings(models=("a=b", "c=d=e"), backend_options=("max_length=64", "device=cpu"))
    assert parsed.models == {"a": "b", "c": "d=e"}
    assert parsed.options == {"max_length": 64, "device": "cpu"}


def test_all_mistakes_are_reported_together() -> None:
    with pytest.raises(UserInputError) as raised:
        settings(
            models=("bad name=x", "nothing"),
            backend_options=("oops",),
            webhook="ftp://x",
            webhook_secrets=("whsec_no base64!",),
        )
    report = str(raised.value)
    for mistake in ("'bad name'", "'nothing' is not NAME=DIR", "ftp://x", "--set oops", "the webhook secret"):
        assert mistake in report
    assert "no base64!" not in report, "the report must not repeat a secret"


def test_an_unknown_backend_is_reported_with_the_nearest_name() -> None:
    with pytest.raises(UserInputError) as raised:
        settings(backend="locel")
    (problem,) = raised.value.problems
    assert problem.place == "--backend"
    assert "local" in problem.message + problem.hint


def test_the_texts_of_options_and_settings_do_not_contain_secrets() -> None:
    options = ServeOptions(root=Path("/somewhere"), keys=("key-of-ann",), webhook_secrets=("the-secret",))
    for text in (repr(options), repr(server_settings(options))):
        assert "key-of-ann" not in text
        assert "the-secret" not in text


def test_secrets_come_from_variables_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys").write_text("c d\n")
    monkeypatch.setenv("KEYS", "a, b")
    monkeypatch.setenv("KEYS_FILE", str(tmp_path / "keys"))
    assert serve._secrets(("KEYS",), required=True) == ("a", "b", "c", "d")
    monkeypatch.setenv("KEYS_FILE", str(tmp_path / "absent"))
    with pytest.raises(UserInputError, match=r"cannot read .*: No such file"):
        serve._secrets(("KEYS",), required=True)
    with pytest.raises(UserInputError, match="is not set"):
        serve._secrets(("NO_SUCH_KEYS",), required=True)


def test_a_webhook_signature_is_the_one_of_the_standard() -> None:
    """The worked example of the Standard Webhooks specification."""
    secret, webhook_id = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek"
    body = '{"test": 2432232314}'
    signature = webhooks.signature(secret, webhook_id, "1614265330", body)
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_guide_describes_every_option() -> None:
    guide = (Path(__file__).parents[3] / "docs" / "guide" / "serve.md").read_text(encoding="utf-8")
    options = [param for param in serve.serve.params if isinstance(param, click.Option)]
    names = [name for option in options for name in option.opts if name.startswith("--")]
    assert len(names) > 9
    assert [name for name in names if f"`{name}" not in guide] == []


def test_nagles_algorithm_does_not_delay_answers() -> None:
    """Asyncio turns it off only for a socket with an explicit protocol.

    Otherwise an answer takes 40 ms.
    """
    with serving._listening("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP
