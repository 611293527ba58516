"""PPO on two learner workers, each on a core of its own, against one: env steps per second at the same envs a worker.

    python benchmarks/agents_on_workers.py [--rounds 3] [--env CartPole-v1] [--envs 64] [--rollouts 1250]

One worker has `--envs` envs and trains in the calling process; two have twice as many, and minibatches twice as large,
on a Ray that is started for the run. Both are compiled and train as a user would train them, with log, checkpoints and
W&B's files. Measured as in `agents_against_sb3.py`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile

from agents_against_sb3 import env_steps_per_s, trivium

SETTINGS = (
    "agent=ppo env.id={env} env.num_envs={envs} agent.num_steps=32 agent.minibatch_size={minibatch} agent.num_epochs=4 "
    "agent.lr=2.5e-3 agent.entropy_coef=0.01 budget.env_steps={steps}"
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--envs", type=int, default=64, help="of one worker")
    parser.add_argument("--rollouts", type=int, default=1250, help="of 32 steps")
    args = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.rounds):
            pair = []
            for workers, launch in ((1, ""), (2, " launch=ray launch.workers=2")):
                envs = args.envs * workers
                steps = 32 * args.rollouts * envs
                overrides = SETTINGS.format(env=args.env, envs=envs, minibatch=8 * envs, steps=steps)
                pair.append(env_steps_per_s(trivium(overrides + launch, folder, "true")))
            results.append(pair)
            print(f"one worker {pair[0]:,.0f}, two {pair[1]:,.0f}, ratio {pair[1] / pair[0]:.2f}", flush=True)
    ratios = [two / one for one, two in results]
    print(f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}, {len(ratios)} rounds)")


if __name__ == "__main__":
    main()
