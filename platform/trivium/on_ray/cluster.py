"""The Ray that a run uses: the one that is running, the cluster at RAY_ADDRESS, or one started here for the run."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import psutil

from trivium.config import import_places
from trivium.config.errors import ConfigError
from trivium.run_folder import environment


def prepare() -> None:
    """Set what Ray reads from the environment, the first two when it is imported: so before that.

    Authentication must be said: unset, it is on for a cluster and off for its clients. A Ray that is started here gets
    a token of its own, for some of its ports listen on every interface. GPUs that a worker sees without having asked
    Ray for them stay in sight; usage statistics are not sent.
    """
    if "ray" not in sys.modules:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        if os.environ["RAY_AUTH_MODE"] == "token" and not os.environ.get("RAY_ADDRESS"):
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        # What a driver of Ray's prints of a raylet's end, thirty lines; the run says it in one.
        os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "Raylet is terminated|has been marked dead")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


def starts_here() -> bool:
    """Whether a run would start a Ray of its own, on this machine alone."""
    return not _running() and (os.environ.get("RAY_ADDRESS") or "local") == "local"


def of_the_caller() -> bool:
    """Whether a Ray is running in this process that no run of Trivium's has begun, and none will end."""
    return _running() and not _joined_here


def _running() -> bool:
    return "ray" in sys.modules and bool(sys.modules["ray"].is_initialized())


_joined_here = False  # what is running now, by `joined`
_parts: dict[str, psutil.Process] = {}  # of a Ray that was started here, by name; without one of them it is lost
_lost = ""  # the name of one


class WorkersLost(RuntimeError):
    """Workers, or the Ray beneath them, are lost for good; the message says which and where the run can go on."""


def lost() -> str:
    """Which part of a Ray that was started here has ended, the first that was found; nothing as long as it is whole, or
    if it is another's."""
    global _lost
    _lost = _lost or next((name for name, part in _parts.items() if not _lives(part)), "")
    return _lost


def _started() -> dict[str, psutil.Process]:
    children = {child.name(): child for child in psutil.Process().children() if _lives(child)}
    return {name: children[name] for name in ("gcs_server", "raylet") if name in children}


def _lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def kill() -> None:
    """End what is left of a Ray that was started here and is lost, and its workers with it: it would not hear."""
    for part in _parts.values():
        with contextlib.suppress(psutil.NoSuchProcess):
            part.kill()


@contextlib.contextmanager
def joined(cpus: int, *, import_from_here: bool) -> Iterator[None]:
    """The Ray that is running or that RAY_ADDRESS names, else one started here, for as long as the run takes.

    Ray puts the driver's working directory on the workers' import path: right for a config that the user types, wrong
    where they stand in a stranger's run folder.

    Args:
        cpus: how many a Ray that is started here has at least.
        import_from_here: whether its processes may import from the working directory.

    Raises:
        ConfigError: no Ray answers at RAY_ADDRESS, or one that is started here can't have its sockets.
        WorkersLost: Ray can't be started or joined.
    """
    import ray

    global _joined_here, _lost
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS") or "local"
    if environment.reachable(address) is False:  # Ray itself would ask for minutes
        raise ConfigError([f"RAY_ADDRESS={address}: no Ray answers there"])
    own: dict[str, Any] = {}
    environ: dict[str, str] = {}
    held = contextlib.ExitStack()
    if address == "local":  # without what nobody looks at, for a dozen processes cost a small machine seconds
        own = {"num_cpus": max(cpus, environment.cores()), "include_dashboard": False}
        own["_system_config"] = {"enable_metrics_collection": False}
        environ["LOG_NAME_UPDATE_INTERVAL_S"] = "3600"  # nor need it look for new log files twice a second
        # Ray would give its workers the priority of nice 15: whatever else runs on the machine would leave them a
        # thirtieth of a core.
        environ["RAY_worker_niceness"] = "0"
        environ = {name: value for name, value in environ.items() if name not in os.environ}
        places = [place for place in import_places.added() if place != os.getcwd()]
        if places:  # where the driver finds modules of the user's own
            environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), *places]))
        own["_temp_dir"] = held.enter_context(_folder())
    with held, variables(environ), tempfile.TemporaryDirectory(prefix="trivium-") as empty:
        from_here = contextlib.nullcontext() if import_from_here else contextlib.chdir(empty)
        with from_here, _signal_handlers_kept(), _sessions.of_their_own():
            # What the workers print they tell the driver; what else Ray has to say is in its log files.
            try:
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
            except Exception as error:  # of which Ray has many kinds, and plain ones
                _parts.update(_started() if address == "local" else {})
                kill()
                _parts.clear()
                what = "started here" if address == "local" else f"joined at RAY_ADDRESS={address}"
                raise WorkersLost(f"no Ray can be {what}: {' '.join(str(error).split())}") from error
        _joined_here = True
        _parts.update(_started() if address == "local" else {})
        try:
            yield
        finally:
            _joined_here, _lost = False, ""
            _parts.clear()
            if ray.is_initialized():  # not at the interpreter's end, which Ray has noticed itself
                ray.shutdown()


LONGEST = 103 if sys.platform == "darwin" else 107  # bytes of a Unix socket's path
IN_FOLDER = "/session_2026-01-31_12-34-56_123456_1234567/sockets/plasma_store"  # the longest that Ray makes


@contextlib.contextmanager
def _folder() -> Iterator[str | None]:
    """Where a Ray that is started here keeps its sockets and logs: None for its own choice, if they fit in there; else,
    as where a job has a long folder of its own for what is temporary, a shorter one for as long as Ray runs.

    Raises:
        ConfigError: there is none.
    """
    chosen = os.environ.get("RAY_TMPDIR") or (os.environ.get("TMPDIR") if sys.platform == "linux" else "") or "/tmp"
    if _takes_sockets(chosen, "ray"):
        yield None
        return
    others = [os.environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"]
    short = next((folder for folder in others if _takes_sockets(folder, "ray-12345678")), None)
    if short is None:
        most = LONGEST - len(IN_FOLDER) - len("/ray")
        wanted = f"RAY_TMPDIR=<folder>, of at most {most} bytes, that can be written"
        raise ConfigError([f"{chosen}: Ray can't have its sockets there, nor in /tmp; valid: {wanted}"])
    with tempfile.TemporaryDirectory(prefix="ray-", dir=short, ignore_cleanup_errors=True) as folder:
        yield folder


def _takes_sockets(parent: str, name: str) -> bool:
    """Whether a folder of this name can be made, or is there to be written, and the path of a socket in it is short."""
    folder = os.path.join(parent, name)
    writable = folder if os.path.isdir(folder) else parent
    fits = len(os.fsencode(folder + IN_FOLDER)) <= LONGEST
    return fits and os.path.isabs(parent) and os.path.isdir(writable) and os.access(writable, os.W_OK | os.X_OK)


@contextlib.contextmanager
def variables(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables that are set for a while."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextlib.contextmanager
def _signal_handlers_kept() -> Iterator[None]:
    """Ray installs a handler that ends the process; ours writes a checkpoint first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Sessions:
    """Who stops a run often signals its whole process group (a time limit, a closed terminal, a job's manager); a Ray
    that died of it could not write the checkpoint. So what is forked while a Ray starts gets a session of its own; the
    kernel still ends it with us. Python can't take a fork hook back, hence one for good, and a switch."""

    def __init__(self) -> None:
        self._hooked = self._on = False

    @contextlib.contextmanager
    def of_their_own(self) -> Iterator[None]:
        if not self._hooked:
            os.register_at_fork(after_in_child=self._after_fork)  # subprocess runs it too, given a preexec_fn as by Ray
            self._hooked = True
        self._on = sys.platform == "linux"  # elsewhere Ray ends its processes as a group of its own
        try:
            yield
        finally:
            self._on = False

    def _after_fork(self) -> None:
        if self._on:
            os.setsid()


_sessions = _Sessions()
