"""Jobs on a Ray cluster: submit a command, follow it, stop it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import secrets
import shlex
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from trivium.config.errors import ConfigError
from trivium.on_ray import cluster
from trivium.on_ray.package import Package, copy_trivium
from trivium.run_folder import environment

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

T = TypeVar("T")

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
STOP_WAIT_S = 120  # how long a job that is stopped may take for its last checkpoint; Ray's own 3 s are too short
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
PLACE = "trivium_run"  # in a job's metadata: where its run is


def address_of(typed: str | None) -> str:
    """The URL of the cluster's dashboard, which accepts jobs.

    Args:
        typed: `http://HOST:PORT` or `HOST:PORT`; None for RAY_API_SERVER_ADDRESS, else this machine's port 8265.

    Raises:
        ConfigError: nothing listens there.
    """
    address = typed or os.environ.get("RAY_API_SERVER_ADDRESS") or DEFAULT_ADDRESS
    if "://" not in address:
        address = f"http://{address}"
    answers = environment.reachable(address)
    if answers is None:
        raise ConfigError([f"--address: {address} is not the URL of a Ray dashboard; valid: http://HOST:PORT"])
    if not answers:
        raise ConfigError([f"--address: no Ray dashboard answers at {address}"])
    return address


def client_of(address: str) -> JobSubmissionClient:
    """A client of the cluster's job server.

    Raises:
        ConfigError: what answers is no job server, or it refuses the token.
    """
    cluster.prepare()
    from ray.job_submission import JobSubmissionClient

    for name in ("ray", "ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk"):
        logging.getLogger(name).setLevel(logging.WARNING)  # they report each upload and each closed connection

    return _asked(address, lambda: JobSubmissionClient(address))


def _asked(address: str, ask: Callable[[], T]) -> T:
    try:
        return ask()
    except Exception as error:  # of requests, of Ray, of the server
        text = " ".join(str(error).split())
        if any(word in text.lower() for word in ("401", "403", "authentication", "token", "unauthorized")):
            what = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to the cluster's token"
            raise ConfigError([f"{address}: the cluster refuses access; {what}"]) from error
        raise ConfigError([f"{address}: the job server does not answer as expected: {text[:300]}"]) from error


def new_id(name: str) -> str:
    """A job's id, which is also the name of its run folder."""
    return f"{name.replace('/', '-')}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def submit(
    client: JobSubmissionClient,
    words: Sequence[str],
    *,
    id: str,
    place: str | None,
    trusted: Iterable[str],
    package: Package | None,
    python: str,
    with_trivium: bool = False,
    env: Iterable[str] = (),
) -> str:
    """Submit a command as a job.

    A job of this id that has not ended is not submitted twice. After one that has ended without success the next is
    numbered, and continues the run at `place`.

    Args:
        words: the command after `trivium`.
        id: the job's id.
        place: where the run that the command begins is kept; None for a command that begins none.
        trusted: the user's modules that the run's config names, which may be imported when the run is continued.
        package: the user's files; None for none.
        python: the interpreter on the cluster, an absolute path.
        with_trivium: send the Trivium that runs here, for nodes where it is not installed.
        env: names of environment variables to pass on.

    Returns:
        The id of the job that runs now.

    Raises:
        ConfigError: a job of this id has succeeded, a variable is not set, or the cluster does not accept the job.
    """
    missing = [name for name in env if name not in os.environ]
    if missing:
        raise ConfigError([f"--env {name}: this variable is not set here" for name in missing])
    before = [job for job in all_jobs(client) if re.fullmatch(rf"{re.escape(id)}(\.\d+)?", str(job.submission_id))]
    for job in before:
        if job.status.value == "SUCCEEDED":
            raise ConfigError([f"--id: the job {job.submission_id} has already succeeded; choose another id"])
        if job.status.value not in ENDED:
            return str(job.submission_id)
    name = id if not before else f"{id}.{len(before) + 1}"
    passed = {key: os.environ[key] for key in env}
    with tempfile.TemporaryDirectory(prefix="trivium-job-") as folder:
        runtime: dict[str, Any] = {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S), **passed}}
        if package is not None and package.files:
            package.copy(Path(folder) / "code")
            runtime["working_dir"] = str(Path(folder) / "code")
        if with_trivium:
            (Path(folder) / "own").mkdir()
            runtime["py_modules"] = [str(copy_trivium(Path(folder) / "own"))]
        options = [] if place is None else ["--run", place, *(f"--trust={module}" for module in trusted)]
        entry = shlex.join([python, "-m", "trivium.cli.job", *options, *words])
        metadata = {PLACE: place} if place else {}
        return _asked(
            client.get_address(),
            lambda: client.submit_job(
                entrypoint=f"exec {entry}", submission_id=name, runtime_env=runtime, metadata=metadata
            ),
        )


def all_jobs(client: JobSubmissionClient) -> list[JobDetails]:
    """The cluster's submitted jobs, the oldest first; not those of drivers that were started by hand."""
    jobs = _asked(client.get_address(), client.list_jobs)
    return sorted((job for job in jobs if job.submission_id), key=lambda job: job.start_time or 0)


def find(client: JobSubmissionClient, id: str) -> JobDetails:
    """A job by its id.

    Raises:
        ConfigError: there is none.
    """
    jobs = all_jobs(client)
    for job in jobs:
        if job.submission_id == id:
            return job
    names = [str(job.submission_id) for job in jobs[-5:]]
    raise ConfigError(
        [f"{id}: the cluster has no such job; {'the last: ' + ', '.join(names) if names else 'it has none'}"]
    )


def follow(client: JobSubmissionClient, id: str, show: Callable[[str], None]) -> int:
    """Show what a job prints until it ends.

    Returns:
        Its exit code; 1 where it has none, as when its node was lost.
    """

    async def tail() -> None:
        async for text in client.tail_job_logs(id):
            show(text)

    while True:
        with contextlib.suppress(OSError, RuntimeError):  # a connection that broke: the job goes on
            asyncio.run(tail())
        job = find(client, id)
        if job.status.value in ENDED:
            break
        time.sleep(1)
    if job.status.value == "SUCCEEDED":
        return 0
    code = getattr(job, "driver_exit_code", None)
    if not code:
        show(f"the job {id} {job.status.value.lower()}: {job.message}\n")
    return int(code or 1)


def stop(client: JobSubmissionClient, id: str, *, timeout_s: float = STOP_WAIT_S + 30.0) -> str:
    """Ask a job to stop, which writes a checkpoint first, and wait until it has ended.

    Returns:
        The job's status.

    Raises:
        ConfigError: there is no such job, or it has not ended in time.
    """
    if (status := find(client, id).status.value) in ENDED:
        return str(status)
    _asked(client.get_address(), lambda: client.stop_job(id))
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        if (status := find(client, id).status.value) in ENDED:
            return str(status)
        time.sleep(0.5)
    raise ConfigError([f"{id}: the job has not ended within {timeout_s:.0f} s after it was asked to"])


def described(job: JobDetails) -> dict[str, Any]:
    """A job as plain data: id, state, run, times, exit code."""
    started, ended = ((t / 1000 if t else None) for t in (job.start_time, job.end_time))
    metadata: Mapping[str, str] = job.metadata or {}
    return {
        "id": job.submission_id,
        "state": job.status.value.lower(),
        "run": metadata.get(PLACE),
        "started": started,
        "elapsed_s": None if started is None else (ended or time.time()) - started,
        "exit_code": getattr(job, "driver_exit_code", None),
        "message": job.message,
    }


def lines(jobs: Iterable[JobDetails]) -> Iterator[str]:
    """One line for each job."""
    for job in map(described, jobs):
        took = "" if job["elapsed_s"] is None else f"{job['elapsed_s']:.0f} s"
        yield "  ".join(filter(None, (str(job["id"]), job["state"], took, job["run"])))
