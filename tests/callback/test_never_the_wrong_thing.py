"""Right, refused, or said to be unmeasured, whatever the network; never wrong in silence.

``python -m callback.test_never_the_wrong_thing KIND SEED`` in tests/ shows one network.
"""

import collections
import contextlib
import logging
import math
import re
import sys
import warnings
from dataclasses import dataclass, field

import pytest
import torch
from support.oracles import reference_measures, two_pass_statistics
from support.problems import of_default, unchecked_shapes
from support.training import trainer
from support.wild import KINDS, wild

from lightning_nc import NeuralCollapseCallback, NeuralCollapseWarning

# of a kind; of a kind that is tested; every which is trained without the callback as well
DRAWS, TESTED, COMPARED = 40, 10, 3
ARGUMENTS = "classifier|num_classes|target|target_shift|forwards|features|inference"
SETTLES = re.compile(rf"`({ARGUMENTS})`|\b({ARGUMENTS})=|\b[Ss]et ({ARGUMENTS})\b")
# notices that say nothing of a stage without values
OF_DATA = re.compile("left out|cannot reach 0")
# left out where the head's output is not seen
OF_DECISIONS = ("nc0/accuracy", "nc4/ncc_mismatch")
# the head is an nn.Linear that runs last and is trained, and nothing else could be it
SURE = ("plain", "swapped", "token_labels")
PINV, RATIO, DEBIASED = (f"nc1/within_between_{name}" for name in ("pinv", "ratio", "ratio_debiased"))
RIGHT, REFUSED, UNMEASURED = "right", "refused", "unmeasured"
# raised too late, or without a word that helps; logged what is not so, or nothing and said nothing
RAISED, WRONG = "RAISED", "WRONG"

summary = collections.defaultdict(collections.Counter)
"""How the networks of each kind came out."""


@dataclass
class Run:
    """What a run has left."""

    module: object
    callback: NeuralCollapseCallback | None
    error: Exception | None = None
    said: list[str] = field(default_factory=list)


@contextlib.contextmanager
def quiet():
    """Lightning's own words are left out, and warnings are kept."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield caught
        finally:
            logger.setLevel(level)


def quietly(kind, seed, watched, do):
    """Let a Trainer do something with a network; warnings and errors are kept."""
    module = wild(kind, seed)
    callback = NeuralCollapseCallback(figures_every_n_epochs=0) if watched else None
    found = Run(module, callback)
    with quiet() as caught, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            do(module, [callback] if watched else [])
        except Exception as error:
            found.error = error
    ours = [w.message for w in caught if isinstance(w.message, NeuralCollapseWarning)]
    found.said = [str(message) for message in ours if not OF_DATA.search(str(message))]
    return found


def start(module, callbacks):
    """A Trainer of two or three steps, now and then with a sanity check."""
    epochs, batches = module.draw.drawn["epochs, batches"]
    return trainer(
        callbacks,
        max_epochs=epochs,
        max_steps=epochs * batches * len(module.apart),
        limit_train_batches=batches,
        num_sanity_val_steps=int(module.draw.drawn["sanity"]),
    )


def fits(module, callbacks):
    start(module, callbacks).fit(module, *module.loaders)


def evaluates(module, callbacks):
    start(module, callbacks).test(module, module.loaders[1], verbose=False)


def fits_and_tests(module, callbacks):
    """In one Trainer, or the test in another with the same callback."""
    run = start(module, callbacks)
    run.fit(module, *module.loaders)
    run = start(module, callbacks) if module.draw.flip("another Trainer") else run
    run.test(module, module.loaders[1], verbose=False)


def verdict(run, stages):
    """How a run came out, and why."""
    if run.error is not None:
        return of_error(run)
    outcomes = [of_stage(run, stage) for stage in stages]
    for outcome in (WRONG, UNMEASURED):
        reasons = [reason for found, reason in outcomes if found == outcome]
        if reasons:
            return outcome, "; ".join(reasons)
    return RIGHT, ""


def of_error(run):
    text = f"{type(run.error).__name__}: {run.error}"
    if run.module.steps:
        return RAISED, f"after {run.module.steps} steps, {text}"
    if isinstance(run.error, ValueError | RuntimeError) and SETTLES.search(str(run.error)):
        return REFUSED, text
    return RAISED, f"no argument settles {text}"


def of_stage(run, stage):
    """Statistics and every logged value, against two passes over what the network has noted."""
    logged = logged_of(run, stage)
    if all(map(math.isnan, logged.values())):
        said = " ".join(run.said)
        return (UNMEASURED, said) if said else (WRONG, f"{stage}: nothing, in silence")
    latest = max(epoch for name, epoch in run.module.noted if name == stage)
    rows = run.module.noted[stage, latest]
    if any(row[0] is None for row in rows):
        return WRONG, f"{stage}: measured a head that is not linear in a feature"
    differences = [*of_statistics(run, stage, rows), *of_values(run, logged, rows)]
    return (WRONG, f"{stage}: " + ", ".join(differences)) if differences else (RIGHT, "")


def logged_of(run, stage):
    """What monitors see at the end, which has to be what the history says of the last epoch."""
    tail, history = f"/{stage}", run.callback.history
    seen = {key: float(value) for key, value in run.module.trainer.callback_metrics.items()}
    if stage != "test":
        latest = max((history[key][-1].epoch for key in history if key.endswith(tail)), default=-1)
        seen |= {key: history[key][-1].value for key in history if history[key][-1].epoch == latest}
    ours = {key: value for key, value in seen.items() if key.startswith("nc") and key.endswith(tail)}
    return {key.removesuffix(tail): value for key, value in ours.items()}


def of_statistics(run, stage, rows):
    found = run.callback.statistics.get(stage)
    if found is None:
        return ["no statistics"]
    h, y, classes = joined(rows)
    if tuple(found.means.shape) != (classes, h.shape[1]):
        return [f"means of the shape {tuple(found.means.shape)} for {(classes, h.shape[1])}"]
    counts, means, scatter, _ = map(torch.as_tensor, two_pass_statistics(h, y, classes))
    differences = []
    for name, truth in {"counts": counts, "means": means, "scatter": scatter}.items():
        off = (getattr(found, name).double() - truth).norm() / max(truth.double().norm(), 1e-12)
        if not off <= 1e-5:
            differences.append(f"{name} off by {off:.1e}")
    return differences


def of_values(run, logged, rows):
    h, y, classes = joined(rows)
    predicted = torch.cat([torch.as_tensor(row[2]) for row in rows]).numpy()
    _, _, _, weight, bias = rows[-1]
    truth = of_default(reference_measures(h, y, classes, predicted=predicted, weight=weight, bias=bias))
    unseen = () if run.module.draw.kind == "plain" else OF_DECISIONS
    for key in truth.keys() - logged.keys() - {*unseen}:
        yield f"{key} is missing"
    for key, value in logged.items():
        if math.isnan(value) and (key not in truth or math.isnan(truth[key]) or run.said):
            continue
        if key not in truth:
            yield f"{key} has no meaning here, and is {value:.6g}"
        elif not abs(value - truth[key]) <= allowed(key, truth):
            yield f"{key} is {value:.6g} for {truth[key]:.6g}"


def allowed(key, truth):
    """How far a value may be off; more where it is a quotient by a difference of nearly equals."""
    relative = 1e-4 if key == PINV else 1e-5
    lost = max(truth[key] / truth[RATIO], 1) if key == DEBIASED else 1
    return lost * relative * abs(truth[key]) + 1e-8


def joined(rows):
    """Features, labels and the number of classes."""
    h, y = (torch.cat([torch.as_tensor(row[i]) for row in rows]).numpy() for i in (0, 1))
    return h, y, len(rows[-1][3])


def moved(kind, seed, run):
    """What the callback has changed of the training, where it has let it happen."""
    alone = quietly(kind, seed, watched=False, do=fits)
    assert alone.error is None, (kind, seed, alone.module.about, alone.error)
    if run.error is not None:
        return ""
    mine, theirs = run.module.state_dict(), alone.module.state_dict()
    return ", ".join(key for key in mine if not torch.equal(mine[key], theirs[key]))


def fitted(kind, seed):
    """The verdict on a fit, and on the training itself for some."""
    run = quietly(kind, seed, watched=True, do=fits)
    outcome, reason = verdict(run, ("train_online", "val"))
    changed = moved(kind, seed, run) if seed % COMPARED == 0 else ""
    if changed:
        outcome, reason = WRONG, f"training has changed: {changed}"
    return outcome, reason, run


def table():
    """The summary as text."""
    outcomes = (RIGHT, REFUSED, UNMEASURED, RAISED, WRONG)
    lines = [f"{'':<28}" + "".join(f"{outcome:>12}" for outcome in outcomes)]
    lines += [f"{kind:<28}" + "".join(f"{of[o]:>12}" for o in outcomes) for kind, of in summary.items()]
    return "\n".join(lines)


def judged(name, outcomes):
    """Count the verdicts; the text of those that are wrong."""
    for _, _, outcome, _ in outcomes:
        summary[name][outcome] += 1
    bad = [row for row in outcomes if row[2] in {RAISED, WRONG}]
    return "\n".join(f"{name} {seed} ({about}): {reason:.300}" for seed, about, _, reason in bad)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_is_never_wrong_in_silence(kind):
    outcomes = []
    with unchecked_shapes():
        for seed in range(DRAWS):
            outcome, reason, run = fitted(kind, seed)
            outcomes.append((seed, run.module.about, outcome, reason))
    wrong = judged(kind, outcomes)
    print(f"{kind}: {dict(summary[kind])}")
    assert not wrong, wrong
    if kind in SURE:
        others = [row for row in outcomes if row[2] != RIGHT]
        assert len(others) <= 0.02 * len(outcomes), others


def evaluated(kind, seed, do):
    run = quietly(kind, seed, watched=True, do=do)
    outcome, reason = verdict(run, ("test",))
    return seed, run.module.about, outcome, reason


@pytest.mark.parametrize("do", [evaluates, fits_and_tests])
@pytest.mark.parametrize("kind", KINDS)
def test_a_test_is_never_wrong_in_silence(kind, do):
    """Without a fit the same rules less the gradient hold; after one, its choice."""
    with unchecked_shapes():
        outcomes = [evaluated(kind, seed, do) for seed in range(TESTED)]
    wrong = judged(f"{kind}, {do.__name__}", outcomes)
    assert not wrong, wrong


def other_weight(rows):
    return [(*row[:3], 1.001 * row[3] + 0.001, row[4]) for row in rows]


def other_label(rows):
    return [(row[0], (row[1] + 1) % 2, *row[2:]) for row in rows]


def other_feature(rows):
    return [(row[0] * 1.001, *row[1:]) for row in rows]


@pytest.mark.parametrize("falsify", [other_weight, other_label, other_feature])
def test_a_verdict_can_be_wrong(falsify):
    """Where the truth is another one than what was measured."""
    with unchecked_shapes():
        run = quietly("plain", 0, watched=True, do=fits)
    assert verdict(run, ("train_online", "val")) == (RIGHT, "")
    run.module.noted = {key: falsify(rows) for key, rows in run.module.noted.items()}
    assert verdict(run, ("train_online", "val"))[0] == WRONG


def test_silence_and_late_or_unhelpful_errors_are_told():
    with unchecked_shapes():
        run = quietly("plain", 0, watched=True, do=fits)
    assert verdict(run, ("test",))[0] == WRONG
    run.said = ["nothing is measured"]
    assert verdict(run, ("test",)) == (UNMEASURED, "nothing is measured")
    run.error = ValueError("Set `classifier`.")
    assert verdict(run, ())[0] == RAISED  # its steps are over
    run.module.steps = 0
    assert verdict(run, ())[0] == REFUSED
    run.error = ValueError("the classifier has no features")
    assert verdict(run, ())[0] == RAISED


def test_the_counts_are_shown():
    print("\n" + table())


if __name__ == "__main__":
    outcome, reason, run = fitted(sys.argv[1], int(sys.argv[2]))
    print(run.module, run.module.about, outcome, reason, *run.said, sep="\n\n")
