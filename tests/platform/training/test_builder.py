"""What may be built from where: a user's own config is trusted, a run folder's is not."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from trivium import cli, launch
from trivium.config import constructors
from trivium.config.composing import compose
from trivium.config.errors import ConfigError
from trivium.config.library import listed_targets
from trivium.config.rules import signatures
from trivium.config.rules.source import Unusable
from trivium.learner import Run
from trivium.training.builder import build_learner, check_learner

EVIL = """
from pathlib import Path
Path(__file__).with_name("imported").touch()
import torch
from torch import nn

def run(*arguments, **keywords):
    Path(__file__).with_name("executed").touch()

class Net(nn.Module):
    def __init__(self, *, input_shape, num_outputs):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.LazyLinear(num_outputs))
        self.layers(torch.zeros(1, *input_shape))
    def forward(self, x):
        return self.layers(x)
"""


@pytest.fixture
def evil(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on sys.path with a module `evil`, which leaves marks when it is imported or executed."""
    folder = tmp_path_factory.mktemp("evil")
    (folder / "evil.py").write_text(EVIL)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    yield folder
    sys.modules.pop("evil", None)


def marks(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} & {"imported", "executed"}


@pytest.fixture(scope="session")
def composed() -> dict[str, Any]:
    return compose(["budget.updates=1", "tracking.wandb=false"])


@pytest.fixture
def config(composed: dict[str, Any]) -> dict[str, Any]:
    return copy.deepcopy(composed)


NAMES = [
    "os.system",
    "posix.system",
    "subprocess.Popen",
    "builtins.eval",
    "builtins.__import__",
    "importlib.import_module",
    "pickle.loads",
    "evil.run",
    "evil.Net",
    "torch.load",
    "torch.hub.load",
    "torch.jit.load",
    "torch.nn.functional.linear",
    "torch.nn.modules.module.torch.load",
    "torch.optim.lr_scheduler.partial",
    "torch.utils.cpp_extension.load_inline",
    "torch.nn.Parameter",
    "torch.nn.init.normal_",
    "trivium.launch.train",
    "trivium.checkpoints.storage.Bucket",
    "trivium.training.worker.Task",
    "trivium.training.builder.build_learner",
    "trivium.data.mnist.gzip.open",
    "trivium.data.mnist.Path",
    "trivium.agents.envs.gym_envs.GymEnvs",
    "trivium.agents.envs.gym_envs.make_one",
    "trivium.agents.envs.gym_envs.call",
    "trivium.agents.envs.make_vector.make_vector_envs",
    "trivium.agents.envs.protocol.gym.make",
    "trivium.agents.envs.protocol.gym",
    "gymnasium.make",
    "hydra.utils.instantiate",
    "trivium",
    "",
    "..os.system",
    "os.system\n",
    "evil:run",
    {"_target_": "evil.run"},
    ["evil.run"],
    None,
    3,
]


PLACES = ["data", "model", "learner", "learner.optimizer", "list", "deep"]
ATTACKS = [(n, "model") for n in NAMES] + [
    (n, p) for n in ("evil.run", "os.system", "torch.load", None) for p in PLACES
]


@pytest.mark.parametrize(("name", "place"), ATTACKS, ids=str)
def test_a_name_that_is_not_listed_is_refused(evil: Path, config: dict[str, Any], name: Any, place: str) -> None:
    attack = {"_target_": name, "command": "touch gotcha", "_partial_": False}
    if place == "learner.optimizer":
        config["learner"]["optimizer"] = attack
    elif place == "list":
        config["model"]["hidden"] = [8, [attack]]
    elif place == "deep":
        config["learner"]["optimizer"]["betas"] = {"a": [{"b": attack}]}
    else:
        config[place] = attack
    for build in (lambda: check_learner(config, trusted=()), lambda: build_learner(config, Run(), trusted=())):
        with pytest.raises(ConfigError):
            build()
    assert marks(evil) == set()
    assert "evil" not in sys.modules
    assert not Path("gotcha").exists()


@pytest.mark.parametrize("name", [n for n in NAMES if isinstance(n, str)])
def test_resolve_itself_refuses(evil: Path, name: str) -> None:
    with pytest.raises(Unusable):
        constructors.resolve(name, ())
    assert marks(evil) == set()


@pytest.mark.parametrize("group", ["env", "learner.env", "model"])
def test_an_env_id_that_imports_a_module_is_refused(evil: Path, config: dict[str, Any], group: str) -> None:
    attack = {"_target_": "trivium.agents.envs.environment.make", "_partial_": True, "id": "evil:Env-v0", "num_envs": 1}
    if group == "learner.env":
        config["learner"]["optimizer"] = attack
    else:
        config[group] = attack
    with pytest.raises(ConfigError, match=r"evil:Env-v0 imports a module.*--trust evil"):
        check_learner(config, trusted=())
    with pytest.raises(ConfigError):
        build_learner(config, Run(), trusted=())
    assert marks(evil) == set()


def test_positional_arguments_of_hydra_mean_nothing(config: dict[str, Any]) -> None:
    config["model"] = {**config["model"], "_args_": ["touch gotcha"], "_recursive_": False}
    with pytest.raises(ConfigError, match="does not accept this keyword"):
        check_learner(config, trusted=())


def test_what_the_platform_gives_can_not_be_set(config: dict[str, Any]) -> None:
    config["learner"]["run"] = {"seed": 3}
    with pytest.raises(ConfigError, match=r"learner\.run: is given to .* by Trivium"):
        check_learner(config)


def stranger(config: dict[str, Any]) -> Path:
    """A run folder with this config."""
    folder = Path("stranger")
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.mark.parametrize("command", ["resume", "evaluate"])
@pytest.mark.parametrize("target", ["evil.Net", "evil.run", "os.system"])
def test_a_run_folder_from_a_stranger_executes_nothing(
    evil: Path, config: dict[str, Any], capsys: pytest.CaptureFixture[str], command: str, target: str
) -> None:
    config["model"] = {"_target_": target, "_partial_": True}
    assert cli.main([command, str(stranger(config))]) == 2
    error = capsys.readouterr().err
    assert f"{target} is not a name that a run folder may build; --trust {target.partition('.')[0]}" in error
    assert marks(evil) == set()
    assert "evil" not in sys.modules


def test_yaml_tags_in_a_run_folder_execute_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    folder = stranger({})
    (folder / "config.yaml").write_text("name: !!python/object/apply:os.system [touch gotcha]\n")
    for command in ("resume", "evaluate", "show"):
        assert cli.main([command, str(folder)]) == 2
    assert not Path("gotcha").exists()


def test_a_module_that_the_user_trusts_is_built(
    evil: Path, config: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    config["model"] = {"_target_": "evil.Net", "_partial_": True}
    folder = stranger(config)
    assert cli.main(["resume", str(folder), "--trust", "evil", "--quiet"]) == 0, capsys.readouterr().err
    assert cli.main(["evaluate", str(folder), "--trust", "evil"]) == 0
    assert marks(evil) == {"imported"}


def test_trust_is_for_the_module_named_and_those_in_it() -> None:
    assert constructors.is_trusted("mine", ("mine",))
    assert constructors.is_trusted("mine.nets", ("mine",))
    assert not constructors.is_trusted("mines", ("mine",))
    assert not constructors.is_trusted("mine", ("mine.nets",))


def test_torchs_own_optimizers_schedules_and_modules_may_be_built(config: dict[str, Any]) -> None:
    for name in ("torch.optim.SGD", "torch.optim.lr_scheduler.LinearLR", "torch.nn.Linear"):
        assert constructors.resolve(name, ()).__name__ == name.rpartition(".")[2]
    config["learner"]["optimizer"] = {"_target_": "torch.optim.SGD", "_partial_": True, "momentum": 0.9}
    assert isinstance(build_learner(config, Run(), trusted=()).optimizer, torch.optim.SGD)  # type: ignore[attr-defined]


def test_a_value_that_a_constructor_refuses_is_one_line(config: dict[str, Any]) -> None:
    config["model"]["activation"] = "rellu"
    with pytest.raises(ConfigError, match=r"^model.activation=rellu: must be one of"):
        build_learner(config, Run())
    config["model"]["activation"] = "relu"
    config["learner"]["optimizer"]["betas"] = 3
    with pytest.raises(ConfigError, match=r"learner: .*TypeError; --trace"):
        build_learner(config, Run())


def test_what_a_constructor_says_of_its_keyword_is_said_of_the_dotted_key(config: dict[str, Any]) -> None:
    config["learner"]["ema"] = 1.5
    with pytest.raises(ConfigError, match=r"^learner\.ema=1\.5: must be"):
        build_learner(config, Run())


@pytest.mark.parametrize("name", sorted(listed_targets()))
def test_the_source_tells_what_the_signature_tells(name: str) -> None:
    """Reading source is a shortcut; it must never differ from Python's own answer."""
    read = signatures.read(*name.rpartition(".")[::2])
    assert read is not None, "it could be read when this was written; if it no longer can, mistakes are told later"
    import inspect

    parameters = inspect.signature(constructors.resolve(name)).parameters.values()
    keywords = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    assert set(read.names) == {p.name for p in keywords}
    assert set(read.required) == {p.name for p in keywords if p.default is p.empty}
    assert read.takes_any == any(p.kind is p.VAR_KEYWORD for p in parameters)


SOURCES = [
    ("def net(a, b=1, *, c, d=2, **rest): ...", ({"a", "b", "c", "d"}, {"a", "c"}, True)),
    ("class net:\n    def __init__(self, a, *, b=1): ...", ({"a", "b"}, {"a"}, False)),
    ("from torch.optim import SGD as net", None),
    ("class Base:\n    def __init__(self, a): ...\nclass net(Base): ...", ({"a"}, {"a"}, False)),
    ("import functools\ndef made(a, b): ...\nnet = functools.partial(made, b=3)", ({"a", "b"}, {"a"}, False)),
    ("class net:\n    def __new__(cls, a): return 3", ({"a"}, {"a"}, False)),
]


@pytest.mark.parametrize(("source", "expected"), SOURCES)
def test_parameters_of_a_users_constructor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, expected: Any
) -> None:
    name = f"mine_{abs(hash(source))}"
    Path(f"{name}.py").write_text(source)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    takes = constructors.parameters(f"{name}.net")
    if expected is None:
        assert {"lr", "momentum"} <= set(takes.names)
    else:
        assert (set(takes.names), set(takes.required), takes.takes_any) == expected


@pytest.mark.parametrize(
    ("source", "pattern"),
    [
        ("def nett(): ...", r"there is no \w+\.net; did you mean '\w+\.nett'"),
        ("def net(:", "has a syntax error in line 1"),
        ("import no_such_thing\nfrom no_such_thing import net", "no module no_such_thing"),
        ("net = 3", r"there is no \w+\.net"),
        ("1 / 0\nnet = dict", "can't be imported: ZeroDivisionError"),
    ],
)
def test_a_users_module_that_can_not_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, pattern: str
) -> None:
    name = f"mine_{abs(hash(source))}"
    Path(f"{name}.py").write_text(source)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(Unusable, match=pattern):
        constructors.parameters(f"{name}.net")


def test_launch_checks_before_it_writes(config: dict[str, Any]) -> None:
    config["model"]["hiden"] = [3]
    with pytest.raises(ConfigError, match="hiden"):
        launch.train(config)
    assert list(Path().iterdir()) == []


def test_files_in_a_strangers_folder_hide_no_module(config: dict[str, Any]) -> None:
    folder = stranger({**config, "tracking": {**config["tracking"], "wandb": True}})
    for name in ("json", "yaml", "torch", "wandb", "gymnasium", "sitecustomize", "ray"):
        (folder / f"{name}.py").write_text(f"open('imported-{name}', 'w')\nraise SystemExit(9)\n")
    command = [str(Path(sys.executable).parent / "trivium"), "resume", ".", "--quiet"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert list(folder.glob("**/imported-*")) == []
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("[enforce] can't allocate memory: 9 bytes.\nTrace")])
def test_what_does_not_fit_in_memory_is_one_line(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def build(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("trivium.training.builder._build", build)
    with pytest.raises(ConfigError, match=r"this machine has not the memory for it: (MemoryError|.*9 bytes\.)$"):
        build_learner(config, Run())
    error.args = ("a bug",)
    if isinstance(error, RuntimeError):
        with pytest.raises(RuntimeError, match="a bug"):
            build_learner(config, Run())


BASE = """
NAMES = ("a", "b")
class Base:
    evaluates = NAMES
"""


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("class A:\n    evaluates = ('x',)", ("x",)),
        ("class A:\n    evaluates: tuple = ('x',)", ("x",)),
        ("from stated_base import Base as B\nclass A(B):\n    pass", ("a", "b")),
        ("from stated_base import Base as A", ("a", "b")),
        ("from stated_base import NAMES\nclass A:\n    evaluates = NAMES", ("a", "b")),
        ("class A:\n    pass", None),
        ("class A(A):\n    pass", None),
        ("class A:\n    evaluates = made()", None),
        ("class A:\n    evaluates = UNKNOWN", None),
        ("class A:\n    evaluates = ('x',)\n    evaluates += ('y',)", None),
        (
            "from stated_base import Base\nclass A(Base):\n    @property\n    def evaluates(self):\n        return ()",
            None,
        ),
        ("from stated_base import Base\nclass A(Base):\n    if True:\n        evaluates = ('x',)", None),
        ("class A:\n    evaluates = ('x',)\n    def f(self):\n        self.evaluates = ()", None),
        ("class A:\n    evaluates = ('x',)\n    def f(self):\n        return self.evaluates", ("x",)),
        (
            "class A:\n    evaluates = ('x',)\n    def f(self):\n        evaluates = ()",
            ("x",),
        ),  # a name of the method's
        ("@decorated\nclass A:\n    evaluates = ('x',)", None),
        ("def A(): ...", None),
        ("class A(:", None),
    ],
)
def test_the_source_tells_what_a_class_states(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str, expected: Any
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    (tmp_path / "stated_base.py").write_text(BASE)
    (tmp_path / "stated.py").write_text(source)
    assert constructors.stated("stated.A", "evaluates") == expected
    assert not {"stated", "stated_base"} & set(sys.modules)
