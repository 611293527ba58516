"""A run on Ray Train's worker actors: the same worker function as inline, once on each.

Ray places the workers, joins them in a process group, watches them and restarts the group when one is lost. What they
resume from is not Ray's bookkeeping but our own verified checkpoints, which makes its at-least-once exact: state and
metrics.jsonl are cut back to the checkpoint, and the steps in between are made again. Nothing is reported to Ray: a
report waits for Ray to collect it, and its checkpoints must lie in a folder of Ray's.
"""

from __future__ import annotations

import contextlib
import math
import os
import pickle
import secrets
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import ray
import ray.train
import ray.train.torch
import ray.train.v2.api.config as train_config  # what ray.train exports
import torch
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.execution.callback import ControllerCallback  # the only way to its controller
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from trivium import ray_cluster, shared_sum, signals, worker
from trivium.checkpoint import CheckpointError, Checkpoints
from trivium.config import ConfigError
from trivium.learner import Learner, Run
from trivium.loop import Interrupted, NonFiniteLoss, Outcome
from trivium.progress import Display
from trivium.ray_mailbox import SILENT_S, UNHEARD_S, AskedToStop, Mailbox, answer_to, printing_to
from trivium.storage import Bucket, join
from trivium.worker import Task

COLLECTIVE = (ConfigError, NonFiniteLoss, CheckpointError, Interrupted)  # raised on all ranks alike, and final
RETRIED = (RuntimeError, OSError)  # what a lost peer or node looks like to the others: Ray restarts the group
LEAVE_S = 5.0  # how long Ray Train may take to tidy up when all is done, before its controller is killed


class Trainer(TorchTrainer):
    """Ray Train's, without two of its actors, each a process that takes seconds to start: one hands out Ray's data
    sets; the other gives the workers' places back if the controller is lost, which Ray does anyway when the driver
    ends, and it asks the dashboard, where there is none for 12 s. Its controller introduces itself to the mailbox. On a
    Ray that was started for the run (`alone`) nobody is asked for more machines, by a third."""

    mailbox: Any
    alone = False

    def _create_default_callbacks(self) -> list[Any]:
        unused = ("DatasetsCallback", "PlacementGroupCleanerCallback")
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]  # its types know only the first version
        return [*(each for each in callbacks if type(each).__name__ not in unused), Introduction(self.mailbox)]

    def _initialize_and_run_controller(self, **parts: Any) -> Any:
        if self.alone:
            parts["scaling_policy"] = Unscaled(self.scaling_config)  # type: ignore[arg-type]  # as above
        return super()._initialize_and_run_controller(**parts)  # type: ignore[misc]


class Unscaled(FixedScalingPolicy):
    """As many workers as were asked for, where the machine has been found to have place for them."""

    def after_controller_start(self, train_run_context: Any) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass


class Introduction(ControllerCallback):
    """Lets the driver know the controller, of which `TorchTrainer.fit` gives nothing away."""

    def __init__(self, mailbox: Any) -> None:
        self.mailbox = mailbox

    def after_controller_start(self, train_run_context: Any) -> None:
        self.mailbox.introduce.remote(ray.get_runtime_context().current_actor)


def run(task: Task, *, resume: bool, display: Display) -> Outcome:
    """Train on Ray's workers, until the end; the driver only shows, and passes the signal to stop on.

    Raises:
        ConfigError: the machine has not got what the run asks for, or the workers can't build the learner.
        NonFiniteLoss, CheckpointError, Interrupted: from the workers.
        RuntimeError: workers were lost more often than `launch.max_failures`.
    """
    try:
        return _run(task, resume=resume, display=display)
    except SystemExit:  # by Ray's own handler of SIGTERM, which stands while Ray starts
        raise Interrupted(signal.SIGTERM, _newest(task)) from None


def _run(task: Task, *, resume: bool, display: Display) -> Outcome:
    launch = task.config["launch"]
    workers, cpus = launch["workers"], launch["cpus_per_worker"]
    alone = ray_cluster.starts_here()
    with (
        signals.listen() as asked,  # before Ray starts, which takes seconds
        ray_cluster.joined(math.ceil(workers * cpus), import_from_here="*" in task.trusted),
    ):
        gpus = _gpus_per_worker(task.config, display)
        here: Any = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        mailbox = Mailbox.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]
        trainer = Trainer(
            _work,
            train_loop_config={"task": task, "mailbox": mailbox, "cwd": os.getcwd(), "gpus": gpus},
            torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
            scaling_config=train_config.ScalingConfig(
                num_workers=workers,
                use_gpu=bool(gpus),
                resources_per_worker={"CPU": cpus, **({"GPU": gpus} if gpus else {})},
            ),
            run_config=train_config.RunConfig(  # type: ignore[arg-type]  # its types know only the first version
                name=secrets.token_hex(8),  # a new one each time: a name that Ray knows it would resume, silently
                storage_path=join(task.bucket or task.dir, "ray"),
                failure_config=train_config.FailureConfig(max_failures=launch["max_failures"]),
                worker_runtime_env={"env_vars": _worker_environment()},
                logging_config=train_config.LoggingConfig("ERROR"),
            ),
        )
        trainer.mailbox, trainer.alone = mailbox, alone
        verb = "resuming" if resume else "training"
        display.say(f"{verb} {task.config['name']} in {task.dir} on {workers} workers")
        try:
            if asked.signal:  # before there are workers to tell
                raise Interrupted(asked.signal, _newest(task))
            return _drive(task, trainer, mailbox, display, asked)
        finally:  # Ray's bookkeeping, of which nothing is used
            if task.bucket:
                Bucket(task.bucket).clear("ray")
            shutil.rmtree(task.dir / "ray", ignore_errors=True)


def _drive(
    task: Task, trainer: Trainer, mailbox: Any, display: Display, stop_requested: Callable[[], int | None]
) -> Outcome:
    """Wait for the workers, showing what they send and sending on what the user asks."""
    failed: list[Exception] = []
    answer: Outcome | Exception | None = None

    def fit() -> None:
        try:
            trainer.fit()
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    thread.start()
    told_at = math.inf
    alive, unheard = True, False
    news = mailbox.take.remote()
    while alive and answer is None and not unheard:
        thread.join(0.2)
        alive = thread.is_alive()
        try:
            if not alive:
                mailbox.wait_no_more.remote()
            for _ in range(1 if alive else 2):  # what was taken before it ended, and what has come since
                if alive and not ray.wait([news], timeout=0)[0]:
                    break
                status, sentences, answer = answer_to(news, stop_requested)
                news = mailbox.take.remote()
                for sentence in sentences:
                    display.say(sentence)
                if status:
                    display.show(status)
            signal = stop_requested()
            if signal and told_at == math.inf:
                told_at = time.monotonic()
                display.say("stopping: the workers write a checkpoint")
                answer_to(mailbox.stop.remote(signal), stop_requested)
            elif signal and time.monotonic() > told_at + UNHEARD_S:
                unheard = not answer_to(mailbox.heard_the_signal.remote(), stop_requested)
        except ray.exceptions.RayError as error:  # not of a worker, which Ray Train sees to: Ray itself is gone
            display.close()
            if signal := stop_requested():
                raise Interrupted(signal, _newest(task)) from error
            lost = f"the run's Ray is lost ({type(error).__name__}); trivium resume continues from {_newest(task)}"
            raise RuntimeError(lost) from error
    mailbox.wait_no_more.remote()  # a question that is not answered would keep it alive
    display.close()
    thread.join(LEAVE_S)
    if thread.is_alive():  # a Ray must not be shut down under a thread that waits for it: the process would end there
        with contextlib.suppress(ray.exceptions.RayError):
            controller = ray.get(mailbox.known_controller.remote(), timeout=SILENT_S)
            if controller is not None:
                ray.kill(controller)
        thread.join(2 * LEAVE_S)
    if unheard:
        raise Interrupted(stop_requested() or 0, _newest(task))
    if isinstance(answer, Exception):
        raise answer
    if answer is None:
        (failure,) = failed
        raise RuntimeError(f"Ray gave up: {_first_line(failure)}") from failure
    return answer


def _newest(task: Task) -> str:
    names = Checkpoints(task.checkpoints_place, Run()).names()
    return names[-1] if names else "the beginning"


def _work(message: dict[str, Any]) -> None:
    """What each worker actor runs, again after every restart of the group."""
    task: Task = message["task"]
    mailbox, rank = message["mailbox"], ray.train.get_context().get_world_rank()
    answer: Outcome | Exception
    if ray.get(mailbox.ended.remote()):
        return
    try:
        with printing_to(mailbox, rank):
            answer = _train(task, mailbox, message["cwd"], gpus=message["gpus"])
    except COLLECTIVE as error:
        answer = error
    except RETRIED:
        raise
    except Exception as error:  # a fault of the program: the restarted group finds it in the mailbox and leaves
        ray.get(mailbox.end.remote(_picklable(error)))
        raise
    if rank == 0:
        ray.get(mailbox.end.remote(answer))


def _train(task: Task, mailbox: Any, cwd: str, *, gpus: int) -> Outcome:
    context = ray.train.get_context()
    with contextlib.suppress(OSError):  # on another node there may be no such folder
        os.chdir(cwd)  # paths in the config are relative to where the user stands
    with worker.torch_settings(task.config, processes_on_node=context.get_local_world_size()):
        run = worker.make_run(
            task.config,
            task.dir,
            # Not left to Ray: a worker without a GPU of its own sees all of the machine's.
            device=ray.train.torch.get_device() if gpus else torch.device("cpu"),
            rank=context.get_world_rank(),
            world_size=context.get_world_size(),
        )
        if run.device.type == "cpu" and 1 < run.world_size == context.get_local_world_size():
            shared_sum.join(run.rank, run.world_size)
        return worker.work(
            task,
            run,
            _make_learner(task, run),
            resume=True,  # from nothing the first time, from the last checkpoint after a restart
            show=lambda status: mailbox.show.remote(status),
            say=lambda sentence: ray.get(mailbox.say.remote(sentence)),
            stop_requested=AskedToStop(mailbox) if run.rank == 0 else lambda: None,
        )


def _make_learner(task: Task, run: Run) -> Learner:
    """The learner; if one worker can't make it, all raise the same error, so that Ray need not restart any."""
    learner, problem = None, ""
    try:
        learner = worker.make_learner(task, run)
    except ConfigError as error:
        problem = "\n".join(error.errors)
    problems: list[Any] = [problem]
    if run.world_size > 1:
        problems = [None] * run.world_size
        torch.distributed.all_gather_object(problems, problem)
    told = next(filter(None, problems), None)
    if told:
        raise ConfigError(told.split("\n"))
    assert learner is not None
    return learner


def _gpus_per_worker(config: dict[str, Any], display: Display) -> int:
    """0 or 1; `auto` is what `device` says, and if that is `auto` too, what the cluster has."""
    launch, resources = config["launch"], ray.cluster_resources()
    workers, need = launch["workers"], launch["workers"] * launch["cpus_per_worker"]
    cpus, gpus = resources.get("CPU", 0), resources.get("GPU", 0)
    if sys.platform == "darwin":  # Ray counts Apple's GPU, of which NCCL knows nothing
        gpus = 0
    if cpus < need:
        display.say(f"the cluster has {cpus:g} of the {need:g} CPUs for {workers} workers: waiting for the others")
    asked = launch["gpus_per_worker"]
    if asked == "auto":
        asked = {"cpu": 0, "auto": int(gpus >= workers)}.get(config["device"], 1)
    if asked and gpus < workers:
        display.say(f"the cluster has {gpus:g} of {workers} GPUs: waiting for the others")
    return int(asked)


def _worker_environment() -> dict[str, str]:
    """What workers need of the driver's environment; no secret, for Ray shows it on its dashboard."""
    passed = {name: os.environ[name] for name in ("WANDB_MODE", "WANDB_BASE_URL") if name in os.environ}
    return {**passed, "RAY_TRAIN_ENABLE_PRINT_PATCH": "0"}


def _picklable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
