"""Trivium's native envs as ids of gymnasium, `trivium/CartPole-v1` and so on, which `gymnasium.make_vec` makes batched.

Importing registers them, and imports nothing heavy.
"""

from __future__ import annotations

import gymnasium as gym

PIXELS = "trivium/CartPolePixels-v1"

for _id in ("Acrobot-v1", "CartPole-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1"):
    _own = gym.registry[_id]
    gym.register(
        f"trivium/{_id}",
        entry_point=_own.entry_point,
        vector_entry_point=f"trivium.agents.envs.native_vector:{_id.partition('-')[0]}",
        reward_threshold=_own.reward_threshold,
        max_episode_steps=_own.max_episode_steps,
    )
gym.register(
    PIXELS,
    entry_point="trivium.agents.envs.native_vector:SingleCartPolePixels",
    vector_entry_point="trivium.agents.envs.native_vector:CartPolePixels",
    max_episode_steps=500,
)
