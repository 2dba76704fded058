"""Asks the Hugging Face hub for the current commit of a model."""

from __future__ import annotations

import threading

TIMEOUT_S = 10.0


def model_commit(name: str, pinned: str | None) -> str | None:
    """Return the commit at the hub, else that of the cached copy; None if neither is known.

    `pinned` is a branch, tag or commit; None means the default branch.
    """
    answers: list[str | None] = []
    # The client retries for half a minute if there is no network, so a thread bounds the wait.
    request = threading.Thread(target=lambda: answers.append(_hub_commit(name, pinned)), daemon=True)
    request.start()
    request.join(TIMEOUT_S)
    return next(iter(answers), None) or _cached_commit(name, pinned)


def _hub_commit(name: str, pinned: str | None) -> str | None:
    from huggingface_hub import HfApi, errors

    unreachable: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]  # of the client's HTTP library
    try:
        return HfApi().model_info(name, revision=pinned, timeout=TIMEOUT_S / 2).sha
    except (unreachable, errors.HfHubHTTPError, errors.OfflineModeIsEnabled, OSError, ValueError, TypeError):
        return None


def _cached_commit(name: str, pinned: str | None) -> str | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        file = try_to_load_from_cache(name, "config.json", revision=pinned)
    except HFValidationError:
        return None
    if not isinstance(file, str):
        return None
    _, _, after = file.rpartition("/snapshots/")
    return after.split("/")[0] or None
