"""Trials, their records, the ranking and the best settings as an experiment file; no Ray."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from trivium.boundary import strict_json
from trivium.config.composing import compose, read
from trivium.config.errors import ConfigError
from trivium.run_folder import lock
from trivium.search import driver, results
from trivium.search.settings import Search, check
from trivium.search.trial import end_records, evaluations, name_of, read_records, run_trial, scores_of
from trivium.tracking.wandb_process import history, records, wandb_files

SHORT = ["experiment=mlp_digits", "budget.epochs=2", "evaluation.every_updates=20", "tracking.wandb=false"]


@pytest.fixture(scope="module")
def search() -> Search:
    return check([*SHORT, "learner.lr=loguniform(1e-4,1e-1)", "model.hidden=choice([16],[32])"])[0]


VALUES = {"learner.lr": "0.01", "model.hidden": "[16]"}


def record(*scores: float, lr: str = "0.01", **other: Any) -> dict[str, Any]:
    values = {**VALUES, "learner.lr": lr}
    return {"values": values, "scores": list(scores), "state": "finished", "name": lr, "reason": None, **other}


def write_run(folder: Path, *losses: float, name: str = "eval/loss") -> None:
    folder.mkdir(parents=True)
    rows = [{"step": i, name: loss} for i, loss in enumerate(losses)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_equal_settings_have_one_name_whatever_their_order() -> None:
    assert name_of(VALUES) == name_of(dict(reversed(VALUES.items())))
    assert name_of(VALUES) != name_of({**VALUES, "learner.lr": "0.02"})


def test_the_best_evaluation_is_a_runs_score(search: Search, tmp_path: Path) -> None:
    for name, losses in {"a": (3.0, 1.0, 2.0), "b": (3.0, math.nan, math.inf), "c": (math.nan,)}.items():
        write_run(tmp_path / name, *losses)
    smaller = replace(search.settings, metric="eval/loss", mode="min")
    larger = replace(smaller, mode="max")
    assert scores_of(tmp_path / "a", smaller) == [1.0]
    assert scores_of(tmp_path / "b", larger) == [3.0]
    assert scores_of(tmp_path / "c", smaller) == scores_of(tmp_path / "none", smaller) == []


def test_of_several_objectives_the_last_evaluation_counts(search: Search, tmp_path: Path) -> None:
    rows = [{"eval/loss": 1.0, "eval/accuracy": 0.5}, {"eval/loss": 2.0, "eval/accuracy": 0.75}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    both = replace(search.settings, metric=["eval/loss", "eval/accuracy"], mode=["min", "max"])
    assert scores_of(tmp_path, both) == [2.0, 0.75]


def test_evaluations_are_read_from_the_metrics_and_damaged_rows_left_out(tmp_path: Path) -> None:
    write_run(tmp_path / "run", 3.0, 1.0)
    with (tmp_path / "run/metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "train/loss": 1}\n[1]\n{"eval/loss": "x"}\n{"eval/lo')
    assert evaluations(tmp_path / "run", "eval/loss") == [3.0, 1.0]
    assert evaluations(tmp_path / "none", "eval/loss") == []


def test_a_trial_trains_reports_and_is_not_trained_again(search: Search, tmp_path: Path) -> None:
    folder, reported = tmp_path / "trials" / "a", []

    def report(scores: Sequence[float], final: bool) -> bool:
        reported.append((*scores, final))
        return False

    (tmp_path / "trials").mkdir()
    scores = run_trial(VALUES, search=search, folder=folder, report=report)
    found = evaluations(folder, "eval/loss")
    assert scores == [min(found)]
    assert reported == [*((value, False) for value in found), (*scores, True)]
    (only,) = read_records(search, tmp_path / "trials")
    assert (only["state"], only["scores"], only["values"]) == ("finished", scores, VALUES)

    before, reported[:] = (folder / "metrics.jsonl").stat().st_mtime_ns, []
    assert run_trial(VALUES, search=search, folder=folder, report=report) == scores
    assert reported == [*((value, False) for value in found), (*scores, True)]
    assert (folder / "metrics.jsonl").stat().st_mtime_ns == before


def test_a_trial_that_is_stopped_early_has_a_checkpoint_and_can_be_continued(search: Search, tmp_path: Path) -> None:
    (tmp_path / "trials").mkdir()
    folder = tmp_path / "trials" / "a"
    run_trial(VALUES, search=search, folder=folder, report=lambda scores, final: True)
    (only,) = read_records(search, tmp_path / "trials")
    assert only["state"] == "stopped"
    assert len(evaluations(folder, "eval/loss")) == 1
    run_trial(VALUES, search=search, folder=folder, report=lambda scores, final: False)
    (only,) = read_records(search, tmp_path / "trials")
    assert only["state"] == "finished"
    assert len(evaluations(folder, "eval/loss")) > 1


def test_a_trial_of_two_seeds_has_the_mean_as_its_score(search: Search, tmp_path: Path) -> None:
    two = replace(search, settings=replace(search.settings, seeds=2))
    (tmp_path / "trials").mkdir()
    folder = tmp_path / "trials" / "a"
    (score,) = run_trial(VALUES, search=two, folder=folder, report=lambda scores, final: False)
    scores = [min(evaluations(folder / f"seed-{i}", "eval/loss")) for i in range(2)]
    assert scores[0] != scores[1]
    assert score == pytest.approx(sum(scores) / 2)


def test_a_trial_that_fails_says_why(search: Search, tmp_path: Path) -> None:
    (tmp_path / "trials").mkdir()
    large = replace(search, overrides=[*search.overrides, "learner.batch_size=100000"])
    with pytest.raises(ConfigError):
        run_trial(VALUES, search=large, folder=tmp_path / "trials" / "a", report=lambda scores, final: False)
    (only,) = read_records(search, tmp_path / "trials")
    assert only["state"] == "failed"
    assert "batch_size=100000" in only["reason"]


def test_records_of_lost_processes_are_completed_from_their_runs(search: Search, tmp_path: Path) -> None:
    trials = tmp_path / "trials"
    write_run(trials / "a", 3.0, 2.0)
    running = {"values": VALUES, "state": "running", "scores": [], "reason": None, "began": 1.0, "ended": None}
    for name in ("a", "b"):
        (trials / f"{name}.json").write_text(strict_json.dumps(running))
    end_records(search, trials)
    first, second = read_records(search, trials)
    assert (first["state"], first["scores"]) == ("stopped", [2.0])
    assert (second["state"], second["scores"]) == ("failed", [])


def test_damaged_records_and_those_of_other_settings_are_left_out(search: Search, tmp_path: Path) -> None:
    good = {"values": VALUES, "state": "running", "scores": [], "reason": None, "began": 1.0, "ended": None}
    wrong: dict[str, Any] = {
        "a list": [],
        "no values": {**good, "values": 1},
        "a time of text": {**good, "began": "x"},
        "scores of text": {**good, "scores": ["x"]},
        "one score": {**good, "scores": 1.0},
        "no state": {key: good[key] for key in good if key != "state"},
        "another key": {**good, "values": {**VALUES, "seed": "1"}},
        "a choice that is none": {**good, "values": {**VALUES, "model.hidden": "[99]"}},
        "no number": {**good, "values": {**VALUES, "learner.lr": "x"}},
        "out of the range": {**good, "values": {**VALUES, "learner.lr": "7"}},
    }
    for name, content in wrong.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "cut.json").write_text("{")
    (tmp_path / "good.json").write_text(json.dumps(good))
    assert [found["name"] for found in read_records(search, tmp_path)] == ["good"]


def test_another_process_with_the_same_settings_is_waited_for(search: Search, tmp_path: Path) -> None:
    folder = tmp_path / "trials" / "a"
    asked = 0

    def stopping() -> bool:
        nonlocal asked
        asked += 1
        return asked > 2

    with lock.alone_in(tmp_path / "trials", ".a.lock"):
        assert run_trial(VALUES, search=search, folder=folder, report=lambda *_: False, stopping=stopping) == []
    assert asked == 3
    assert read_records(search, tmp_path / "trials") == []


def test_a_search_that_stops_ends_a_trial_between_evaluations(search: Search, tmp_path: Path) -> None:
    rare = replace(search, overrides=[*search.overrides, "evaluation.every_updates=null", "log.every_updates=1"])
    asked = 0

    def stopping() -> bool:
        nonlocal asked
        asked += 1
        return asked > 3

    folder = tmp_path / "trials" / "a"
    assert run_trial(VALUES, search=rare, folder=folder, report=lambda *_: False, stopping=stopping) == []
    assert list((folder / "checkpoints").glob("step-*"))
    (only,) = read_records(search, tmp_path / "trials")
    assert (only["state"], only["scores"]) == ("stopped", [])


def test_seeds_are_counted_from_the_configs(search: Search, tmp_path: Path) -> None:
    settings = replace(search.settings, seeds=2)
    two = replace(search, overrides=[*search.overrides, "seed=7"], settings=settings)
    run_trial(VALUES, search=two, folder=tmp_path / "trials" / "a", report=lambda *_: False)
    assert [read(tmp_path / f"trials/a/seed-{i}")["seed"] for i in range(2)] == [7, 8]


def test_settings_that_are_drawn_twice_are_one_trial() -> None:
    search = check([*SHORT, "model.hidden=choice([16],[32])", "search.num_trials=20"])[0]
    planned, sampler = driver._settings_to_try(search, [])
    assert sampler is None
    assert sorted(values["model.hidden"] for values in planned) == ["[16]", "[32]"]


def test_a_strangers_search_imports_only_what_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What search.json itself says of trust and of folders counts for nothing."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')\n")
    search = check([*SHORT, "learner.lr=loguniform(1e-4,1e-1)"])[0]
    values = {"learner.lr": "0.01"}
    evil = replace(search, overrides=[*search.overrides, "model._target_=evil.Net"])
    driver.begin(evil, tmp_path / "s")
    opened = driver.read(tmp_path / "s")
    with pytest.raises(ConfigError, match="evil"):
        run_trial(values, search=opened, folder=tmp_path / "s/trials/a", report=lambda *_: False)
    assert not (tmp_path / "imported").exists()

    claims = replace(search, trusted=["evil"], config_dir=str(tmp_path))
    driver.begin(claims, tmp_path / "t")
    with pytest.raises(ConfigError) as raised:
        driver.read(tmp_path / "t")
    assert [line.partition("; ")[2] for line in raised.value.errors] == [
        "--trust evil allows it",
        f"--config-dir {tmp_path} allows it",
    ]


def test_a_search_folder_that_leads_elsewhere_is_refused(search: Search, tmp_path: Path) -> None:
    driver.begin(search, tmp_path / "s")
    (tmp_path / "s/trials").rmdir()
    (tmp_path / "s/trials").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="link"):
        driver.read(tmp_path / "s")


def test_the_ranking_has_the_best_first_and_leaves_out_what_has_no_score() -> None:
    records = [record(2.0, lr="a"), record(lr="b"), record(1.0, lr="c")]
    assert [each["name"] for each in results.ranked(records, ["min"])] == ["c", "a"]
    assert [each["name"] for each in results.ranked(records, ["max"])] == ["a", "c"]


def test_the_pareto_front_by_hand() -> None:
    points = {"a": (1.0, 0.5), "b": (2.0, 0.9), "c": (1.5, 0.4), "d": (1.0, 0.5), "e": (3.0, 0.9), "f": ()}
    records = [record(*scores, lr=name) for name, scores in points.items()]
    modes = ["min", "max"]
    # c is worse than a in both; e is beaten by b; a and d are equal, and neither is better.
    assert [each["name"] for each in results.front(records, modes)] == ["a", "b", "d"]
    assert [each["name"] for each in results.ranked(records, modes)] == ["a", "d", "b", "c", "e"]
    one = [{**each, "scores": each["scores"][:1]} for each in records]
    assert [each["name"] for each in results.front(one, ["max"])] == ["e"]


def test_of_several_objectives_the_front_is_starred(search: Search, tmp_path: Path) -> None:
    both = replace(search, settings=replace(search.settings, metric=["eval/loss", "eval/f1"], mode=["min", "max"]))
    records = [record(2.0, 0.9, lr="0.01"), record(1.0, 0.5, lr="0.02"), record(3.0, 0.1, lr="0.03")]
    result = results.write(both, tmp_path, records)
    assert result["front"] == ["0.01", "0.02"]
    headings, *rows = results.table(result)
    assert headings.split() == ["learner.lr", "model.hidden", "eval/loss", "eval/f1", "state", "run"]
    assert [row.split()[0] for row in rows] == ["1*", "2*", "3"]
    assert "eval/loss 1, eval/f1 0.5" in (tmp_path / "best.yaml").read_text()


def test_importance_is_of_the_keys_that_all_trials_have(search: Search) -> None:
    conditional = replace(
        search,
        expressions={
            "learner.lr": "uniform(0,1)",
            "model": "choice(mlp,lenet)",
            "model.dropout": "uniform(0,1) if model == mlp",
        },
    )
    records = []
    for i in range(12):
        values = {"learner.lr": repr(i / 12), "model": "mlp" if i % 2 else "lenet"}
        values |= {"model.dropout": "0.5"} if i % 2 else {}
        records.append({"values": values, "scores": [float(i % 2)], "name": str(i)})
    found = results.importance(conditional, records)
    assert set(found) == {"learner.lr", "model"}
    assert found["model"] > 0.9


def test_the_best_settings_are_an_experiment_that_composes_to_the_same_config(search: Search, tmp_path: Path) -> None:
    values = {"learner.lr": "0.0123", "model.hidden": "[32]"}
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/best.yaml").write_text(results.as_experiment(search, values, "The best."))
    again = compose(["experiment=best"], tmp_path / "conf")
    assert again == compose(results.overrides_of(search, values))
    assert again["learner"]["lr"] == 0.0123


def test_another_model_is_another_default_of_the_experiment(tmp_path: Path) -> None:
    search = check(["experiment=lenet_digits", "model=choice(lenet,resnet)", "budget.epochs=1"])[0]
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/best.yaml").write_text(results.as_experiment(search, {"model": "resnet"}, "Best."))
    assert compose(["experiment=best"], tmp_path / "conf") == compose(
        ["experiment=lenet_digits", "model=resnet", "budget.epochs=1", "threads=1"]
    )


def test_importance_finds_the_key_that_matters(search: Search) -> None:
    records = [
        {**record(float(i)), "values": {"learner.lr": repr(10 ** (-4 + 3 * i / 19)), "model.hidden": "[16]"}}
        for i in range(20)
    ]
    found = results.importance(search, records)
    assert found["learner.lr"] > 0.9
    assert sum(found.values()) == pytest.approx(1)
    assert results.importance(search, records[:3]) == {}


def test_results_are_written_and_shown(search: Search, tmp_path: Path) -> None:
    result = results.write(search, tmp_path, [record(2.0, lr="0.01"), record(1.0, lr="0.02"), record(lr="0.03")])
    assert json.loads((tmp_path / "results.json").read_text()) == result
    assert result["best"]["scores"] == [1.0]
    assert "learner.lr=0.02" in result["command"]
    headings, first, *_ = results.table(result)
    assert headings.split() == ["learner.lr", "model.hidden", "eval/loss", "state", "run"]
    assert first.split()[:4] == ["1", "0.02", "[16]", "1"]
    assert results.table({**result, "trials": []}) == []


def test_a_folder_holds_one_search(search: Search, tmp_path: Path) -> None:
    driver.begin(search, tmp_path / "s")
    assert driver.read(tmp_path / "s") == search
    with pytest.raises(ConfigError, match="holds a search"):
        driver.begin(search, tmp_path / "s")
    (tmp_path / "s/search.json").write_text('{"overrides": 1}')
    with pytest.raises(ConfigError, match="is damaged"):
        driver.read(tmp_path / "s")
    with pytest.raises(ConfigError, match="is not the folder of a search"):
        driver.read(tmp_path)


@pytest.mark.kill
def test_a_search_is_a_run_on_wandb_in_the_group_of_its_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    search = check(["experiment=mlp_digits", "budget.epochs=null", "budget.updates=2", "learner.lr=uniform(0.001,1)"])[
        0
    ]
    dir = tmp_path / "mlp_digits-search/one"
    driver.begin(search, dir)
    for lr in ("0.01", "0.02"):
        run_trial({"learner.lr": lr}, search=search, folder=dir / "trials" / lr, report=lambda *_: False)
    found = read_records(search, dir / "trials")
    assert {read(dir / "trials" / lr)["tracking"]["group"] for lr in ("0.01", "0.02")} == {"mlp_digits-search/one"}
    assert read(dir / "trials/0.01")["tracking"]["job_type"] == "trial"

    result = results.write(search, dir, found)
    results.track(search, dir, result)
    (file,) = wandb_files(dir, json.loads((dir / "wandb/run.json").read_text())["id"])
    run = next(record.run for record in records(file) if record.WhichOneof("record_type") == "run")
    assert (run.run_group, run.job_type) == ("mlp_digits-search/one", "search")
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["expressions"] == {"learner.lr": "uniform(0.001,1)"}
    assert config["best_run"] == result["best"]["name"]
    rows = history(file)
    assert [row["search/eval/loss"] for row in rows] == [each["scores"][0] for each in found]
    assert rows[-1]["search/best"] == min(each["scores"][0] for each in found)
