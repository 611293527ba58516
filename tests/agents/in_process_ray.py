"""Ray's actors without a Ray: objects of this process, which get and give copies, as over a wire, and may be killed."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable
from typing import Any

import pytest
import ray
from ray import cloudpickle
from ray.exceptions import ActorDiedError, RayTaskError

from trivium.on_ray import cluster


def copied(value: Any) -> Any:
    return cloudpickle.loads(cloudpickle.dumps(value))


class Promise:
    """What a call comes to, which is known at once."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.value, self.error = None, None
        try:
            self.value = copied(call())
        except Exception as error:
            self.error = error

    def get(self) -> Any:
        if isinstance(self.error, ActorDiedError):
            raise self.error
        if self.error is not None:
            raise RayTaskError("a method", str(self.error), self.error)
        return self.value


class Actor:
    """A handle; the object comes to life with the first call, whose promise has what its constructor raises."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.made, self.make, self.alive = None, make, True

    def __getattr__(self, method: str) -> Any:
        def remote(*args: Any) -> Promise:
            args = copied(tuple(arg.value if isinstance(arg, Promise) else arg for arg in args))

            def call() -> Any:
                if not self.alive:
                    raise ActorDiedError
                self.made = self.made or self.make()
                return getattr(self.made, method)(*args)

            return Promise(call)

        return types.SimpleNamespace(remote=remote)


def get(promised: Promise, timeout: float | None = None) -> Any:
    return promised.get()


def kill(actor: Actor) -> None:
    actor.alive = False


def remote(**options: Any) -> Callable[[type], Any]:
    def of_class(kind: type) -> Any:
        def made(*args: Any) -> Actor:
            args = copied(args)
            return Actor(lambda: kind(*args))

        return types.SimpleNamespace(remote=made)

    return of_class


@pytest.fixture
def actors_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a test actors are objects of this process."""
    for name, function in {"get": get, "kill": kill, "remote": remote}.items():
        monkeypatch.setattr(ray, name, function)
    monkeypatch.setattr(ray, "put", lambda value: Promise(lambda: value))
    monkeypatch.setattr(cluster, "joined", lambda cpus, import_from_here: contextlib.nullcontext())
