"""Trivium's agents against Stable-Baselines3: the same algorithm, settings, env steps and gradient steps on one core.

    pip install -c constraints.txt -e '.[peers]'
    python benchmarks/agents_against_sb3.py [ppo a2c dqn throughput solve] [--rounds 3] [--compile true|false]

Each is a process of its own with one thread, in turn, `--rounds` times; Trivium runs as a user would run it, `trivium
train` with its log, checkpoints and W&B's files. Env steps per second are those of the training, start-up left out:
Trivium's from the rows of metrics.jsonl without the first fifth, in which a graph may be compiled; those of
Stable-Baselines3 from `learn`. `solve` is the time from the start of the process to the evaluation in which the mean
return of 100 episodes is 475 on CartPole-v1, each side with its best settings, a new seed in each round.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SETTINGS = {
    "ppo": (
        "agent=ppo env.num_envs=8 agent.num_steps=32 agent.minibatch_size=256 agent.num_epochs=20 agent.gamma=0.98 "
        "agent.gae_lambda=0.8 agent.lr=1e-3 budget.env_steps={steps} agent.lr_anneal_env_steps={steps} "
        "agent.clip_anneal_env_steps={steps}",
        "PPO('MlpPolicy', env(8), n_steps=32, batch_size=256, n_epochs=20, gamma=0.98, gae_lambda=0.8, "
        "learning_rate=lambda p: p * 1e-3, clip_range=lambda p: p * 0.2, ent_coef=0.0, device='cpu')",
        100_000,
        100_000,
    ),
    "a2c": (
        "agent=a2c env.num_envs=8 agent.num_steps=5 budget.env_steps={steps}",
        "A2C('MlpPolicy', env(8), ent_coef=0.0, device='cpu')",
        1_000_000,
        100_000,
    ),
    "dqn": (
        "agent=dqn env.num_envs=1 agent.lr=2.3e-3 agent.batch_size=64 agent.buffer_size=100000 "
        "agent.learning_starts=1000 agent.gamma=0.99 agent.target_update_every_env_steps=10 "
        "agent.train_every_env_steps=256 agent.gradient_steps=128 agent.epsilon_end=0.04 "
        "agent.epsilon_anneal_env_steps=8000 budget.env_steps={steps}",
        "DQN('MlpPolicy', env(1), learning_rate=2.3e-3, batch_size=64, buffer_size=100000, learning_starts=1000, "
        "gamma=0.99, target_update_interval=10, train_freq=256, gradient_steps=128, exploration_fraction=0.16, "
        "exploration_final_eps=0.04, policy_kwargs=dict(net_arch=[256, 256]), device='cpu')",
        50_000,
        20_000,
    ),
    "throughput": (
        "agent=ppo env.num_envs=64 agent.num_steps=32 agent.minibatch_size=512 agent.num_epochs=4 agent.lr=2.5e-3 "
        "agent.entropy_coef=0.01 budget.env_steps={steps}",
        "PPO('MlpPolicy', env(8), n_steps=128, batch_size=256, n_epochs=4, device='cpu')",
        3_000_000,
        100_000,
    ),
}

PEER = """
import time, torch
torch.set_num_threads(1)
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.env_util import make_vec_env
env = lambda n: make_vec_env("CartPole-v1", n_envs=n)
model = {model}
began = time.perf_counter()
model.learn({steps})
print(model.num_timesteps / (time.perf_counter() - began))
"""

PEER_SOLVES = """
import numpy, torch
torch.set_num_threads(1)
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import EvalCallback, StopTrainingOnRewardThreshold
from stable_baselines3.common.env_util import make_vec_env
env = lambda n: make_vec_env("CartPole-v1", n_envs=n)
model = {model}
stop = StopTrainingOnRewardThreshold(475, verbose=0)
model.learn(200_000, EvalCallback(env(8), callback_on_new_best=stop, n_eval_episodes=100, eval_freq=1280, verbose=0))
print("solved", flush=True)
"""

SOLVES = (
    "agent=ppo env.num_envs=16 agent.num_steps=64 agent.minibatch_size=256 agent.num_epochs=4 agent.lr=0.03 "
    "agent.lr_anneal_env_steps=150000 agent.gamma=0.99 agent.gae_lambda=1.0 agent.clip_coef=0.3 agent.value_coef=1.0 "
    "agent.entropy_coef=0.005 agent.max_grad_norm=1.0 agent.hidden=[32] agent.eval_episodes=100 "
    "budget.env_steps=150000 evaluation.every_updates=16 budget.target=eval/return_mean>=475"
)


def trivium(overrides: str, folder: str, compile: str) -> Path:
    run = Path(folder) / str(time.time_ns())
    command = [
        Path(sys.executable).with_name("trivium"),
        "train",
        *overrides.split(),
        f"compile={compile}",
        "threads=1",
    ]
    environment = {**os.environ, "WANDB_MODE": "offline"}
    subprocess.run([*command, "--dir", run], check=True, env=environment, stdout=subprocess.DEVNULL)
    return run


def own_solves(overrides: str, folder: str, compile: str) -> float:
    """Seconds until metrics.jsonl has the row that tells it."""
    run = Path(folder) / str(time.time_ns())
    trivium = Path(sys.executable).with_name("trivium")
    command = [trivium, "train", *overrides.split(), f"compile={compile}", "threads=1", "--dir", run]
    environment = {**os.environ, "WANDB_MODE": "offline"}
    began = time.perf_counter()
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            time.sleep(0.005)
            rows = (run / "metrics.jsonl").read_text().splitlines() if (run / "metrics.jsonl").exists() else []
            if any(json.loads(row).get("eval/return_mean", 0) >= 475 for row in rows if row.endswith("}")):
                seconds = time.perf_counter() - began
                process.wait()
                return seconds
    raise SystemExit(f"{run}: not solved within its budget")


def peer_solves(python: str, seed: int) -> float:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    model = SETTINGS["ppo"][1].replace("device=", f"seed={seed}, device=")
    command = [python, "-c", PEER_SOLVES.format(model=model)]
    began = time.perf_counter()
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        if not any(line == "solved\n" for line in process.stdout):
            raise SystemExit("the peer did not solve it")
        return time.perf_counter() - began


def env_steps_per_s(run: Path) -> float:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "time/step_ms" in row]
    rows = rows[len(rows) // 5 :]
    pairs = itertools.pairwise(rows)
    seconds = sum(row["time/step_ms"] * (row["updates"] - last["updates"]) / 1e3 for last, row in pairs)
    return float((rows[-1]["step"] - rows[0]["step"]) / seconds)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", nargs="*", default=[*SETTINGS, "solve"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", default="true")
    parser.add_argument("--peer-python", default=sys.executable)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for what in args.what:
            results = []
            for seed in range(args.rounds):
                if what == "solve":  # too short to earn a compilation back: `compile=auto` chooses not to
                    own = own_solves(f"{SOLVES} seed={seed}", folder, "auto")
                    results.append((own, peer_solves(args.peer_python, seed)))
                    continue
                ours, theirs, steps, peer_steps = SETTINGS[what]
                own = env_steps_per_s(trivium(ours.format(steps=steps), folder, args.compile))
                results.append((own, float(peer(args.peer_python, PEER.format(model=theirs, steps=peer_steps)))))
            own, other = (statistics.median(column) for column in zip(*results, strict=True))
            ratios = sorted(a / b for a, b in results)
            print(
                f"{what}: Trivium {own:,.1f}, Stable-Baselines3 {other:,.1f}, ratio {statistics.median(ratios):.2f} "
                f"({ratios[0]:.2f} to {ratios[-1]:.2f}, {len(ratios)} rounds)",
                flush=True,
            )


def peer(python: str, code: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [python, "-c", code], check=True, env=environment, stdout=subprocess.PIPE, text=True
    ).stdout.strip()


if __name__ == "__main__":
    main()
