"""`trivium jobs`: the jobs of a Ray cluster."""

from __future__ import annotations

import argparse
from typing import Any

from trivium.cli.errors import UsageError

HELP = "list a Ray cluster's jobs, show what one prints, stop one, wait for one"
VERBS = ("list", "logs", "stop", "wait")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("verb", nargs="?", default="list", choices=VERBS, help="list (default), logs, stop or wait")
    parser.add_argument("id", nargs="?", metavar="JOB", help="a job's id, for all but list")
    parser.add_argument("--address", metavar="URL", help="the cluster's dashboard (default: this machine's, port 8265)")
    parser.add_argument("--follow", action="store_true", help="with logs: until the job ends")


def run(options: argparse.Namespace) -> Any:
    """Returns the jobs, or the one, as `trivium.on_ray.jobs.described` does."""
    if options.verb != "list" and options.id is None:
        raise UsageError(f"jobs: {options.verb} needs a job's id; trivium jobs lists them")
    if options.verb == "list" and options.id is not None:
        raise UsageError(f"jobs: list accepts no id, got {options.id}")
    from trivium.on_ray import jobs

    client = jobs.client_of(jobs.address_of(options.address))
    if options.verb == "list":
        found = jobs.all_jobs(client)
        if not options.json:
            for line in jobs.lines(found):
                print(line)
        return [jobs.described(job) for job in found]
    job = jobs.find(client, options.id)
    code = 0
    if options.verb == "logs" and not options.follow:
        print(client.get_job_logs(options.id), end="")
    elif options.verb == "logs":
        code = jobs.follow(client, options.id, lambda text: print(text, end="", flush=True))
    elif options.verb == "wait":
        code = jobs.follow(client, options.id, lambda text: None)
    else:
        jobs.stop(client, options.id)
    job = jobs.find(client, options.id)
    if not options.json and options.verb in ("stop", "wait"):
        print("".join(jobs.lines([job])))
    if code:
        raise SystemExit(code)
    return jobs.described(job)
