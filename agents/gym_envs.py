"""The former place of `trivium.agents.envs.gym_envs`."""

from trivium.agents.envs.gym_api import actions_to_numpy as actions_to_numpy
