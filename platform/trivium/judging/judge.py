"""How good the samples, translations and restored images of a trained run are, by a classifier that is a run, too.

No network has to be downloaded for it: the features are those of a classifier trained on the same kind of data, such as
`experiment=lenet_mnist`. Values are comparable only by the same classifier, whose name and hash stand in the result, at
the same number of samples; next to each is what real images score in the place of the samples.

Shapes: N images, X... the shape of one.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trivium.boundary import strict_json
from trivium.checkpoints.folder import Checkpoints
from trivium.checkpoints.kept_files import write_whole
from trivium.config.errors import ConfigError
from trivium.judging.real import Real, Seen, require_classifier
from trivium.learner import Reconstructs, Run, Samples, Translates
from trivium.loaded import CHUNK, Trained, load
from trivium.quality.classes import agreement, divergence, shares
from trivium.quality.distances import frechet_distance, kernel_distance
from trivium.quality.neighbours import nearest_ratio, overlap
from trivium.run_folder.place import Opened, open_run
from trivium.trained import load_learner
from trivium.training.builder import build_data

NAME = "judged.json"  # in the run folder: what was measured last
MOST = 5000  # samples, and images of each other kind
FOR_COPIES = 1000  # images whose nearest training image is looked for

log = logging.getLogger("trivium")


def judge(
    place: Path | str | Opened,
    *,
    classifier: Path | str | Opened,
    num: int | None = None,
    seed: int = 0,
    checkpoint: str = "best",
    trusted: Collection[str] = (),
    **how: float,
) -> dict[str, Any]:
    """Measure what a run's model makes against the test split of its data.

    Of a model that samples, in the features of the classifier: `frechet` and `kernel` (`quality.distances`),
    `precision`, `recall`, `density` and `coverage` (`quality.neighbours`); of pixels `nearest_train`
    (`quality.neighbours.nearest_ratio`); of the classes that the classifier finds their `class_divergence` from those
    of the test split (`quality.classes`), and `least_class` and `most_class`, the smallest and the largest share of a
    class divided by its share of the test split; for a conditional model `class_agreement`, the share in which the
    class asked for is found. With `_real` at the end of the name: the same of training images, `frechet_noise`: of
    uniform noise.

    Of a model that restores images: `restored_frechet` and `restored_agreement`, the share of test images in whose
    restored image the classifier finds the same class as in the image itself. Of one that translates:
    `translated_agreement`.

    Args:
        place: the run.
        classifier: a run of a classifier whose images have the same shape.
        num: samples; None: 5,000, or as many as there are test images. With fewer than 10 for each feature the Frechet
            distance is biased upwards.
        seed: of what is drawn.
        checkpoint: of the run: best, last, or a name. The classifier's is the best.
        trusted: modules besides Trivium's whose names the two runs' configs may build.
        how: further keywords of the learner's `sample`, such as `guidance`.

    Returns:
        `{"dir", "checkpoint", "classifier", "samples", "seed", "how", "metrics", "class_shares"}`; `classifier` is
        `{"name", "dir", "checkpoint", "sha256", "features", "accuracy"}`. Also written as `judged.json` into the run.

    Raises:
        ConfigError: there is no such run, the classifier is none or is one of other images, or the model makes nothing
            that could be judged.
    """
    run, judge_run = open_run(place), open_run(classifier)
    data = build_data(run.config, trusted=trusted)
    learner, name = load_learner(run, checkpoint, trusted, given={"data": data})
    judging = load(judge_run, trusted=trusted)
    metrics: dict[str, float] = {}
    found: dict[str, Any] = {}
    try:
        require_classifier(judging, data)
        real = Real(data, judging, seed)
        if isinstance(learner, Samples):
            num = num or min(MOST, len(data.test))
            classes = int(getattr(learner, "num_classes", 0))
            label_N = torch.arange(num) % classes if classes else None  # the classes in turn
            image_NX = torch.from_numpy(
                Trained(learner, name, data.signature).sample(num, seed=seed, label=None, **how)
            )
            measured, class_N = _of_samples(image_NX, label_N, real)
            metrics |= measured
            found = {"samples": num, "seed": seed, "how": dict(how)}
            found["class_shares"] = shares(class_N, real.num_classes).tolist()
        if isinstance(learner, Reconstructs):
            metrics |= _of_restored(learner, real)
        if isinstance(learner, Translates):
            metrics |= _of_translated(learner, real)
    except (TypeError, ValueError) as error:
        raise ConfigError([f"{run.dir} can't be judged so: {error}"]) from error
    if not metrics:
        raise ConfigError(
            [f"{run.dir} can't be judged: a {type(learner).__name__} samples, restores and translates nothing"]
        )
    result = {
        "dir": str(run.dir),
        "checkpoint": name,
        "classifier": {
            "name": judge_run.config["name"],
            "dir": str(judge_run.dir),
            "checkpoint": judging.checkpoint,
            "sha256": Checkpoints(judge_run.checkpoints_place, Run()).digest(judging.checkpoint)[:12],
            "features": real.seen.feature_ND.shape[1],
            "accuracy": real.accuracy(),
        },
        **found,
        "metrics": metrics,
    }
    _keep(run, result)
    return result


def _of_samples(image_NX: Tensor, label_N: Tensor | None, real: Real) -> tuple[dict[str, float], Tensor]:
    """The metrics of samples, and the classes that were found in them."""
    num = len(image_NX)
    seen, training = real.look(image_NX), real.look(real.of_training(num))
    generator = torch.Generator().manual_seed(real.seed)
    noise = real.look(torch.rand(min(num, 1000), *image_NX.shape[1:], generator=generator))
    few_ND = real.seen.feature_ND[:num]
    held_out_N = real.nearest_of_training(real.image_NX[:FOR_COPIES])
    share_K = shares(real.seen.class_N, real.num_classes)

    def measured(of: Seen) -> dict[str, float]:
        own_K = shares(of.class_N, real.num_classes)
        ratio_K = own_K[share_K > 0] / share_K[share_K > 0]
        return {
            "frechet": frechet_distance(of.feature_ND, real.seen.feature_ND),
            "kernel": kernel_distance(of.feature_ND, real.seen.feature_ND),
            **overlap(of.feature_ND, few_ND)._asdict(),
            "class_divergence": divergence(own_K, share_K),
            "least_class": float(ratio_K.min()),
            "most_class": float(ratio_K.max()),
        }

    metrics: dict[str, float] = {}
    of_real = measured(training)
    for name, value in measured(seen).items():
        metrics |= {name: value, f"{name}_real": of_real[name]}
    metrics["frechet_noise"] = frechet_distance(noise.feature_ND, real.seen.feature_ND)
    metrics["nearest_train"] = nearest_ratio(real.nearest_of_training(image_NX[:FOR_COPIES]), held_out_N)
    if label_N is not None:
        metrics["class_agreement"] = agreement(seen.class_N, label_N)
    return metrics, seen.class_N


def _of_restored(learner: Reconstructs, real: Real) -> dict[str, float]:
    again_NX = torch.cat([learner.reconstruct(part).cpu() for part in real.image_NX.split(CHUNK)])
    seen = real.look(again_NX.float())
    return {
        "restored_frechet": frechet_distance(seen.feature_ND, real.seen.feature_ND),
        "restored_agreement": agreement(seen.class_N, real.seen.class_N),
    }


def _of_translated(learner: Translates, real: Real) -> dict[str, float]:
    image_NX = torch.cat([learner.translate(part).cpu() for part in real.image_NX.split(CHUNK)])
    return {"translated_agreement": agreement(real.look(image_NX.float()).class_N, real.seen.class_N)}


def _keep(run: Opened, result: Mapping[str, Any]) -> None:
    """Write the result into the run's folder, if that can be written."""
    try:
        write_whole(run.dir / NAME, strict_json.dumps(result, indent=1).encode()).close()
    except OSError as error:
        log.warning("%s can't be written: %s", run.dir / NAME, error.strerror or error)
