"""The networks of agents: encoders, memories, actors, critics, Q functions, normalisation."""

from trivium.agents.networks.actor_critic import ActorCritic
from trivium.agents.networks.image_axes import image_shape

__all__ = ["ActorCritic", "image_shape"]
