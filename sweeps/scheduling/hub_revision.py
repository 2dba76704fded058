"""Asks the Hugging Face hub which commit a model's name stands for."""

from __future__ import annotations

import threading

PROBE_S = 10.0


def model_commit(name: str, pinned: str | None) -> str | None:
    """Return the commit at the hub, else of the copy that is on this machine; None where neither is known."""
    found: list[str | None] = []
    # The client retries for half a minute where there is no network.
    asking = threading.Thread(target=lambda: found.append(_asked(name, pinned)), daemon=True)
    asking.start()
    asking.join(PROBE_S)
    return next(iter(found), None) or _cached(name, pinned)


def _asked(name: str, pinned: str | None) -> str | None:
    from huggingface_hub import HfApi, errors

    unreachable: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]  # of the client's HTTP library
    try:
        return HfApi().model_info(name, revision=pinned, timeout=PROBE_S / 2).sha
    except (unreachable, errors.HfHubHTTPError, errors.OfflineModeIsEnabled, OSError, ValueError, TypeError):
        return None


def _cached(name: str, pinned: str | None) -> str | None:
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
