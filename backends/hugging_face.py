"""Whether the Hugging Face hub has a model or a data set, asked with a time limit.

The hub's own libraries try again for minutes if nobody answers.
"""

from __future__ import annotations

import threading
from typing import Literal

from backends.notices import notice

PROBE_S = 4.0
"""Time limit for the hub to answer."""
ANNOUNCED_AFTER_S = 2.0

_NAMES = {"dataset": "data set", "model": "model"}


def why_unavailable(
    kind: Literal["dataset", "model"],
    repository: str,
    timeout_s: float = PROBE_S,
    endpoint: str | None = None,
    revision: str | None = None,
) -> str | None:
    """Ask the hub for a repository. Return None, or the reason why it is unavailable.

    Returns within `timeout_s`, and tells the person who waits if that takes long. Name resolution
    has no time limit of its own, so a thread asks; it may outlive this call.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    unreachable = http_error()
    what, answer = _NAMES[kind], list[str | None]()

    def ask() -> None:
        try:
            api = HfApi(endpoint=endpoint)
            (api.dataset_info if kind == "dataset" else api.model_info)(
                repository, revision=revision, timeout=2 * timeout_s
            )
            answer.append(None)
        except HFValidationError:
            answer.append(f"{repository!r} is not the name of a {what} (owner/name)")
        except OfflineModeIsEnabled:
            answer.append("the Hugging Face libraries are set to offline mode")
        except HfHubHTTPError as refusal:
            status = refusal.response.status_code
            unknown = f"the hub has no {what} {repository!r}, or it is private (HTTP {status})"
            answer.append(unknown if status in (401, 403, 404) else f"the hub refused the request (HTTP {status})")
        except (unreachable, OSError) as failure:
            answer.append(f"the hub is unreachable: {one_line(failure)}")
        except (ValueError, TypeError):
            answer.append("the answer did not come from the hub")

    thread = threading.Thread(target=ask, name="hub-probe", daemon=True)
    thread.start()
    thread.join(min(timeout_s, ANNOUNCED_AFTER_S))
    if not answer and timeout_s > ANNOUNCED_AFTER_S:
        notice(f"waiting for {endpoint or constants.ENDPOINT} ({repository})")
        thread.join(timeout_s - ANNOUNCED_AFTER_S)
    return answer[0] if answer else f"the hub did not answer within {timeout_s:g} s"


def http_error() -> type[Exception]:
    """Return the base class of the HTTP errors that the installed huggingface_hub raises."""
    from huggingface_hub import errors

    return errors.HTTPError  # type: ignore[attr-defined]


def one_line(failure: BaseException) -> str:
    """Return the text of an error on one line, cut if it is long."""
    text = " ".join(str(failure).split()) or type(failure).__name__
    return text if len(text) <= 200 else text[:197] + "..."
