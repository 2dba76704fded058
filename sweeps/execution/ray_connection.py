"""Starts Ray on this machine or joins a cluster, says what it has, and leaves it again."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import ray
import ray._private.services
import ray.autoscaler.sdk
import ray.experimental.internal_kv

from sweeps.errors import SweepError
from sweeps.execution import ray_processes
from sweeps.execution.ray_processes import RayRecord
from sweeps.execution.ray_start import ends_without_head

OBJECT_STORE_BYTES = 200 * 2**20
"""A small object store is enough: workers read models and data from disk, so nothing large passes
between processes."""

MIN_FREE_BYTES = 2**20
"""With less free space for its session folder, Ray would try for a minute and then fail."""

LOW_FREE_BYTES = 300 * 2**20
"""If Ray does not start with less free space than this, the space is the likely reason."""

SHUTDOWN_TIMEOUT_S = 30.0
"""A Ray that has lost its processes may never answer; its processes are then killed."""

RECONNECT_TIMEOUT_S = 3600
"""How long Ray's own code waits for a lost head before it ends this process without a word. The
watch of the engine ends the sweep long before that."""

RAY_RECORD = "ray.json"
"""The file of a sweep's folder that names the processes of the Ray which its run has started."""

TRIAL_SLOT = "sweep_trial"
"""A custom resource of a Ray started here. Each trial takes a share of it, which limits how many
run at once."""

# Ray reads these variables when it is imported or starts. Values that the user has set win.
RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a relative path in the sweep file means the same in a worker
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_gcs_rpc_server_reconnect_timeout_s": str(RECONNECT_TIMEOUT_S),
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "20",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    # The session limits the waiting trials. With Tune's limit of 1, workers would start in turn.
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_THRESHOLD_S": "30",
}

AUTHENTICATION_MODE = "RAY_AUTH_MODE"
"""The variable that says whether Ray sends and demands a token."""

START_ATTEMPTS = 2
LISTENER_ATTEMPTS = 3
LISTENER_TIMEOUT_S = 5.0

AUTOSCALER_STATUS = "__autoscaling_status"
UNSCALED_TYPE = "node_"
"""How Ray begins the name of a type of machine where no autoscaler is configured."""

_LOG = logging.getLogger("sweeps")


def connect(
    address: str | None,
    log_handler: logging.Handler,
    *,
    record: Path | None = None,
    say: Callable[[str], None] = lambda message: None,
) -> None:
    """Start Ray on this machine, or join the cluster at `address`. Idempotent.

    Tries twice, because a busy machine can be too slow for Ray's own time limits. What Ray has to
    say goes to `log_handler`. The file `record` keeps what was started here until `disconnect`; the
    leftovers of an earlier driver that it names are ended first. Raises SweepError on failure.
    """
    if ray.is_initialized():
        return
    for name, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    ray_logger = logging.getLogger("ray")
    ray_logger.handlers[:], ray_logger.propagate = [log_handler], False
    if record is not None:
        ray_processes.end_leftovers(record)
    if address is None:
        _require_space()
    else:
        _require_listener(address)
    if record is not None and address is None:
        # A kill during the start leaves processes that only their session folder tells.
        ray_processes.record_of((), _session_folders()).write(record)

    def clean_up() -> None:
        ray_processes.remove_session_folder(_session_folders())
        if record is not None:
            record.unlink(missing_ok=True)

    try:
        with ends_without_head(say, clean_up) if address is None else nullcontext():
            _start(address, say)
    except BaseException:
        if record is not None:
            record.unlink(missing_ok=True)
        raise
    _send_messages_to_log()
    if record is not None and address is None:
        _record().write(record)


def _start(address: str | None, say: Callable[[str], None]) -> None:
    """Start or join Ray, with a second attempt after a failure that it may not meet."""
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            _init(address)
            return
        except Exception as error:
            _LOG.error("Ray did not start", exc_info=error)
            remedy = _remedy(address)
            if attempt == START_ATTEMPTS or remedy != _START_REMEDY:
                where = f"the Ray cluster at {address}" if address else "Ray on this machine"
                raise SweepError(f"cannot connect to {where}: {_first_line(error)}", remedy) from error
            say("Ray did not start in time; trying once more")


def _temporary_folder() -> str:
    return os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()


def _require_space() -> None:
    """Raise SweepError if the disk of Ray's session folder is full."""
    try:
        is_full = shutil.disk_usage(_temporary_folder()).free < MIN_FREE_BYTES
    except OSError:
        return  # Ray creates the folder, or says why it cannot
    if is_full:
        raise SweepError("cannot start Ray on this machine: the disk is full", _remedy(None))


def _require_listener(address: str) -> None:
    """Raise SweepError if nothing listens at the address of a cluster.

    Ray itself would try for three minutes.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # `auto`, which Ray resolves by itself
    for attempt in range(LISTENER_ATTEMPTS):
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=LISTENER_TIMEOUT_S):
                return
        except OSError as error:
            reason = error.strerror or str(error)
        if attempt < LISTENER_ATTEMPTS - 1:
            time.sleep(1.0)
    raise SweepError(f"cannot connect to the Ray cluster at {address}: {reason}", _remedy(address))


def disconnect(record: Path | None = None) -> None:
    """Disconnect from Ray. A Ray that was started here ends, with its folder. Idempotent."""
    if not ray.is_initialized():
        return
    started = _record()
    ending = threading.Thread(target=_shut_down, name="ray-shutdown", daemon=True)
    ending.start()
    ending.join(SHUTDOWN_TIMEOUT_S)
    ray_processes.end(started.processes)
    ray_processes.remove_session_folder(started.session_folder)
    if record is not None:
        record.unlink(missing_ok=True)


def abandon(record: Path) -> None:
    """End what was started here of a Ray that no longer answers, without asking it."""
    started = _record()
    ray_processes.end(started.processes)
    ray_processes.remove_session_folder(started.session_folder)
    record.unlink(missing_ok=True)


def cluster_resources() -> dict[str, float]:
    """Return everything that the connected Ray has, over all machines."""
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return resources


def gpus() -> float:
    """Return the number of GPUs that the connected Ray has."""
    return cluster_resources().get("GPU", 0.0)


def has_trial_slots() -> bool:
    """Return whether the connected Ray was started here, with a slot resource for trials."""
    return cluster_resources().get(TRIAL_SLOT, 0.0) == 1.0


def machines() -> list[dict[str, float]]:
    """Return what each machine of the connected Ray has in all."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in nodes if node["Alive"]]


def can_grow() -> bool:
    """Return whether an autoscaler can add machines to the connected Ray.

    A Ray without one also reports machines, but names each type after a machine that it has.
    """
    status = ray.experimental.internal_kv._internal_kv_get(AUTOSCALER_STATUS)
    try:
        report = json.loads(status or b"{}").get("autoscaler_report", {})
        types = {*report.get("active_nodes", {}), *(report.get("node_type_mapping") or {}).values()}
    except (ValueError, AttributeError, TypeError):
        return False
    return any(not str(name).startswith(UNSCALED_TYPE) for name in types)


def request_machine(needs: Mapping[str, float] | None) -> None:
    """Ask the autoscaler for a machine on which a trial fits. None takes the request back."""
    bundle = {name: amount for name, amount in (needs or {}).items() if name in ("CPU", "GPU") and amount > 0}
    ray.autoscaler.sdk.request_resources(bundles=[bundle] if bundle else [])


def log_folder() -> Path | None:
    """Return the folder of Ray's logs on this machine; None if no Ray is connected."""
    node: Any = ray._private.worker._global_node
    return Path(node.get_logs_dir_path()) if node is not None else None


def _init(address: str | None) -> None:
    local_settings: dict[str, Any] = {
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE_BYTES,
        "resources": {TRIAL_SLOT: 1.0},
    }
    existing = ray_processes.descendants(os.getpid())
    handler = signal.getsignal(signal.SIGTERM)
    mode = os.environ.get(AUTHENTICATION_MODE)
    raylet: Any = ray._raylet
    raylet.Config.initialize("")  # it read the variables when it was imported
    raylet.AuthenticationTokenLoader.instance().reset_cache()  # of an earlier Ray of this process
    try:
        if address is not None:
            address = ray._private.services.canonicalize_bootstrap_address(address) or address
            _send_token_if_demanded(address)
        ray.init(
            # Without an address Ray would join a cluster that somebody has started on this machine.
            address=address or "local",
            logging_level=logging.WARNING,
            log_to_driver=False,
            **(local_settings if address is None else {}),
        )
    except BaseException as error:
        # A start that failed, or that Ctrl-C interrupted, leaves processes without an owner.
        _shut_down()
        if address is None:
            started = ray_processes.descendants(os.getpid()) - existing
            ray_processes.end(process for process in started if _is_of_ray(process.pid))
            ray_processes.remove_session_folder(_session_folders())
        if isinstance(error, SystemExit):  # from the handler of SIGTERM that Ray has set meanwhile
            raise KeyboardInterrupt from None
        raise
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
        if mode is None:
            os.environ.pop(AUTHENTICATION_MODE, None)  # Ray sets it, and the next Ray may need another


def _shut_down() -> None:
    try:
        ray.shutdown()
    except Exception as error:  # noqa: BLE001  Ray may be gone, and nothing of it is needed any more
        _LOG.warning("Ray did not shut down", exc_info=error)


def _record() -> RayRecord:
    """Return what this process has started of Ray: nothing if it joined a cluster."""
    node: Any = ray._private.worker._global_node
    if node is None or not node.all_processes:
        return ray_processes.record_of((), "")
    pids = [info.process.pid for infos in node.all_processes.values() for info in infos]
    return ray_processes.record_of(pids, node.get_session_dir_path())


def _session_folders() -> str:
    return ray_processes.session_folders_of(os.getpid(), str(Path(_temporary_folder()) / "ray"))


def _is_of_ray(pid: int) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return str(Path(ray.__file__).parent).encode() in command


def _send_token_if_demanded(address: str) -> None:
    """Send the token in Ray's home folder to a cluster that demands it, and to no other.

    `ray start` demands the token if there is one. Ray itself sends it only to a cluster that it
    found without an address. A driver that sends a token demands it, too: a cluster without one
    could not answer it, and every trial would fail. A mode that the user has set wins.
    """
    from ray._private.authentication import authentication_token_setup as tokens
    from ray.exceptions import AuthenticationError

    if AUTHENTICATION_MODE in os.environ:
        return
    raylet: Any = ray._raylet
    try:
        raylet.GcsClient(address)
    except AuthenticationError:
        tokens.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def _send_messages_to_log() -> None:
    """Let Ray's messages about its processes go to the log. Ray prints them to standard output."""

    def log(message: dict[str, Any], **_: Any) -> None:
        _LOG.warning("Ray: %s", "\n".join(message.get("lines", ())))

    worker: Any = ray._private.worker
    worker.print_to_stdstream = log


_START_REMEDY = "free memory or wait until the machine is less busy, then run the same command again"


def _remedy(address: str | None) -> str:
    if address is not None:
        return "check the address and `ray status` there, then read the sweep's log"
    folder = _temporary_folder()
    try:
        free_bytes = shutil.disk_usage(folder).free
    except OSError:
        return f"create the folder {folder}, or set RAY_TMPDIR to another one"
    if free_bytes < LOW_FREE_BYTES:
        return f"free some space in {folder}, which has {free_bytes // 2**20} MiB left, or set RAY_TMPDIR"
    return _START_REMEDY


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
