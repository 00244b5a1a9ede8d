"""Verdicts on small run folders: scipy's tests and hand-made crossed designs are the oracles."""

import copy
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from svhn_vae.report.collect import read_runs
from svhn_vae.report.hypotheses import Hypothesis, Verdict, parse, verdict_of
from svhn_vae.report.statistics import Estimate
from test_report import CHOICES, CONFIG, write_run

BITS = "test/bits_per_dim"
DATA, OTHER = "0123456789abcdef", "fedcba9876543210"
RNG = np.random.default_rng(3)
NOISE = np.random.default_rng(0).normal(size=(2, 6)) * 0.01


class Study:
    """A folder of runs, written one by one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, value=None, status="done", *, seed=0, digest=DATA, metrics=(), **settings) -> None:
        """A run with `value` bits/dim. Settings are choices, or values of groups as group__name."""
        config, choices = copy.deepcopy(CONFIG) | {"seed": seed}, {"variance": "fixed", "logger": "tensorboard"}
        for name, setting in settings.items():
            group, _, key = name.partition("__")
            if key:
                config[group][key] = setting
            else:
                (choices if group in CHOICES | choices else config)[group] = setting
        parts = {
            "seed": seed,
            "config": config,
            "data": {"name": "svhn train", "digest": digest, "num_train": 6749},
            "cost": {"epochs": 8, "num_parameters": 967_000},
            "details": {"post_loss_of_gaussian": -400.0},
        }
        name = f"run{len(list(self.path.glob('*'))):03}"
        write_run(self.path, name, status, bits=value, metrics=metrics, choices=choices, parts=parts)

    def add_sides(self, favoured, other, **settings) -> None:
        """A run of both sides with each seed; of `other`, one value may stand for all seeds."""
        for seed, (a, b) in enumerate(np.broadcast(favoured, other)):
            self.add(float(a), seed=seed, variance="per_dimension", **settings)
            self.add(float(b), seed=seed, **settings)

    def verdict(self, **changed) -> Verdict:
        return verdict_of(self.path, read_runs(self.path), hypothesis(**changed))


def hypothesis(**changed) -> dict:
    """That a variance per dimension has fewer bits than a fixed one."""
    favours, over = {"variance": "per_dimension"}, {"variance": "fixed"}
    asked = {"metric": BITS, "better": "lower", "favours": favours, "over": over, "margin": 0.0, "minus": None}
    return {"claim": "A claim.", "source": "the post"} | asked | changed


def interval(test) -> tuple[float, float]:
    """Of a test of scipy's."""
    low, high = test.confidence_interval(0.95)
    return pytest.approx(low), pytest.approx(high)


@pytest.fixture
def study(tmp_path):
    return Study(tmp_path / "study")


def values(found: Verdict) -> list[list[float]]:
    """By side, of the runs compared."""
    return [[one.value for one in side] for side in found.kept]


def num_runs(found: Verdict) -> int:
    return sum(map(len, found.kept))


@pytest.fixture
def paired(study):
    """Six seeds, the favoured side lower by about 0.1."""
    study.add_sides(3.0 + NOISE[0], 3.1 + NOISE[1])
    return study


# --- what is a hypothesis -------------------------------------------------------------------------------------------


def test_a_hypothesis_and_its_defaults():
    whole = hypothesis()
    short = {key: value for key, value in whole.items() if key not in ("minus", "margin")}
    assert parse(short)._asdict() == parse(whole)._asdict() == whole
    for key in short:
        with pytest.raises(ValueError, match=f"missing 1 required .*{key}"):
            parse({name: value for name, value in short.items() if name != key})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"margn": 1}, "'A claim.': .*unexpected keyword argument 'margn'.*: expected claim, source, metric"),
        ({"claim": ""}, "claim must be a sentence, got ''"),
        ({"metric": "bits"}, "metric must be split/quantity, diverged, .*, got 'bits'"),
        ({"metric": "test/"}, "metric must be"),
        ({"minus": "bits"}, "minus must be null or another metric, got 'bits'"),
        ({"better": ["lower"]}, "better must be lower or higher"),
        ({"favours": "variance=fixed"}, "favours must be settings or choices"),
        ({"favours": {"variance": {"sigma": 1}}}, "favours must be settings or choices"),
        ({"favours": {"variance": []}}, "favours must be settings or choices"),
        ({"favours": {}}, "favours and over must each name settings, unless over is null"),
        ({"over": {"variance": "per_dimension"}}, "favours and over are the same runs"),
        ({"margin": True}, "margin must be a number"),
        ({"margin": math.nan}, "margin must be a number"),
        ({"metric": "diverged", "minus": BITS}, "of diverged, nothing can be subtracted"),
    ],
)
def test_what_is_no_hypothesis(study, changed, message):
    with pytest.raises(ValueError, match=message) as raised:
        parse(hypothesis(**changed))
    assert "\n" not in str(raised.value)
    found = study.verdict(**changed)
    assert (found.verdict, found.reason) == ("undecided", str(raised.value))
    for content in (None, "a claim", ["a claim"]):
        assert verdict_of(study.path, [], content).reason.startswith(
            f"a hypothesis must have {', '.join(Hypothesis._fields)}"
        )


# --- pairs ----------------------------------------------------------------------------------------------------------


def test_a_paired_verdict_is_the_paired_t_test(paired):
    due = stats.ttest_rel(3.1 + NOISE[1], 3.0 + NOISE[0])
    found = paired.verdict()
    assert (found.verdict, found.num_seeds) == ("supported", 6)
    assert found.effect.mean == pytest.approx(0.1 + (NOISE[1] - NOISE[0]).mean())
    assert (found.effect.low, found.effect.high) == interval(due)
    assert found.reason == "matched by seed; error pooled over variants, paired by seed, 5 degrees of freedom"
    assert found.asked.side_names == ["variance=per_dimension", "variance=fixed"]
    assert found.size == "svhn train (01234567), 6,749 images, 8 epochs, batch 500, 0.97 M weights"
    assert values(found) == [[*(3.0 + NOISE[0])], [*(3.1 + NOISE[1])]]
    higher = paired.verdict(better="higher")
    assert higher.verdict == "refuted"
    assert higher.effect[:3] == pytest.approx((-found.effect.mean, -found.effect.high, -found.effect.low))


@pytest.mark.parametrize(
    ("margin", "due"), [(0.05, "supported"), (0.1, "undecided"), (0.2, "refuted"), (-0.2, "supported")]
)
def test_the_margin_decides(paired, margin, due):
    found = paired.verdict(margin=margin)
    assert found.verdict == due
    assert found.reason.startswith(f"the interval holds the margin {margin}; ") == (due == "undecided")


def test_one_seed_decides_nothing(study):
    study.add_sides([3.0], [3.5])
    study.add_sides([3.0], [3.6], optimizer__lr=1e-3, batch_size=2000)
    found = study.verdict()
    assert (found.verdict, found.num_seeds) == ("undecided", 1)
    assert found.effect.mean == pytest.approx(0.55)
    assert math.isnan(found.effect.low)
    assert found.reason.startswith("1 seed: at least 2 are needed")
    assert "batch 500 to 2,000, 0.97 M weights" in found.size


def test_a_list_of_values_and_settings_of_every_kind(study):
    for seed in (0, 1, 2):
        study.add(3.0 + NOISE[0, seed], seed=seed, variance="per_dimension")
        study.add(3.2 + NOISE[0, seed], seed=seed, variance="logvar")
        study.add(4.0, seed=seed, pca__whiten=True, model__dropout=0.0)
        study.add(5.0, seed=seed, pca__whiten=True, model__dropout=0.5)
    either, whitened = {"variance": ["per_dimension", "logvar"]}, {"pca.whiten": True, "model.dropout": 0}
    found = study.verdict(favours=either, over=whitened)
    assert num_runs(found) == 9
    assert found.effect.mean == pytest.approx(4.0 - 3.1 - NOISE[0, :3].mean())
    assert found.asked.side_names == ["variance=per_dimension|logvar", "pca.whiten=true model.dropout=0"]


# --- crossed designs ------------------------------------------------------------------------------------------------

RATES = (1e-4, 1e-3, 5e-3)


def crossed(study: Study, without=()) -> dict[tuple[int, float], float]:
    """Three seeds by three learning rates on both sides, with an effect that depends on both; the differences."""
    differences = {}
    for seed, lr in itertools.product(range(3), RATES):
        rate, extra = 300 * lr, NOISE[0, seed] + 20 * lr * NOISE[1, seed]
        if ("a", seed, lr) not in without:
            study.add(3.0 + rate, seed=seed, optimizer__lr=lr, variance="per_dimension")
        if ("b", seed, lr) not in without:
            study.add(3.1 + rate + extra, seed=seed, optimizer__lr=lr)
        differences[seed, lr] = 0.1 + extra
    return differences


def test_a_crossed_design_is_one_model_of_variants_and_seeds(study):
    """Whose error is that of least squares, in closed form for a whole design."""
    mean = np.mean([*crossed(study).values()])
    scores = np.array([run.result["metrics"][BITS] for run in read_runs(study.path)])  # by seed, rate, and side
    scores = scores.reshape(3, -1)
    residuals = scores - scores.mean(0) - scores.mean(1, keepdims=True) + scores.mean()
    error = np.sqrt((residuals**2).sum() / 10 * 2 / 9)
    found = study.verdict()
    assert (found.num_seeds, num_runs(found), found.effect.num) == (3, 18, 3)
    assert found.effect[:3] == pytest.approx(stats.t(10, mean, error).ppf([0.5, 0.025, 0.975]))
    assert found.reason.startswith("matched by seed and optimizer.lr; error pooled over variants, paired by seed, 10 ")


def test_variants_that_are_not_compared_say_how_much_seeds_differ(paired):
    """They do not move the effect; those without all seeds say nothing, nor those whose spread is another."""
    before, extra = paired.verdict(), np.random.default_rng(1).normal(size=(4, 6)) * 0.01
    for number, of in enumerate(extra):
        for seed, value in enumerate(of[: 6 if number else 4]):
            paired.add(2.0 + value, seed=seed, variance="logvar", optimizer__lr=1.0 + number)
    values = np.concatenate([3.0 + NOISE[:1], 3.1 + NOISE[1:], 2.0 + extra[1:]])
    residuals = values - values.mean(1, keepdims=True) - values.mean(0) + values.mean()
    error = np.sqrt((residuals**2).sum() / 20 * 2 / 6)
    found = paired.verdict()
    assert found.effect.mean == pytest.approx(before.effect.mean)
    assert found.effect.high - found.effect.mean == pytest.approx(error * stats.t.ppf(0.975, 20))
    assert (num_runs(found), "20 degrees of freedom" in found.reason) == (12, True)
    for seed, value in enumerate(extra[0]):
        paired.add(2.0 + 1000 * value, seed=seed, variance="logvar", optimizer__lr=9.0)
    assert paired.verdict().effect == before.effect


def test_unequal_spreads_of_the_sides_are_not_pooled(study):
    scores = RNG.normal(size=(2, 6)) * [[0.001], [1.0]] + [[3.0], [9.0]]
    study.add_sides(*scores)
    found = study.verdict()
    assert (found.effect.low, found.effect.high) == interval(stats.ttest_ind(*scores[::-1], equal_var=False))
    assert "spread differs" in found.reason


def test_missing_cells_are_left_out_on_both_sides_and_said(study):
    """Without matching, the dearest learning rate's bits would decide."""
    missing = {("a", 1, 5e-3), ("b", 2, 1e-4)}
    differences = crossed(study, without=missing)
    kept = {lr: [value for (seed, of), value in differences.items()
                 if of == lr and not {("a", seed, lr), ("b", seed, lr)} & missing] for lr in RATES}  # fmt: skip
    found = study.verdict()
    assert found.effect.mean == pytest.approx(np.mean([np.mean(of) for of in kept.values()]))
    assert num_runs(found) == 14
    assert "left out of variance=per_dimension: 1 without a counterpart" in found.reason


def test_what_follows_from_a_choice_does_not_keep_runs_apart(study):
    """conv brings pca=none, no K, and settings of its own, one of which was swept; the rate was swept on both sides."""
    for seed, lr in itertools.product(range(3), (1e-4, 1e-3)):
        study.add(3.0 + NOISE[0, seed], seed=seed, optimizer__lr=lr)
        for strides in (1, 2):
            conv = {"model": "conv", "model__strides": strides, "pca": "none", "pca__n_components": None}
            study.add(3.4 + strides, seed=seed, optimizer__lr=lr, **conv)
    found = study.verdict(favours={"model": "dense"}, over={"model": "conv"})
    assert (found.verdict, num_runs(found)) == ("supported", 18)
    assert found.effect.mean == pytest.approx(4.9 - 3.0 - NOISE[0, :3].mean())
    assert found.reason.startswith("matched by seed and optimizer.lr; ")
    assert found.reason.endswith("; the sides differ also in pca")


def test_runs_on_other_images_are_compared_only_where_the_claim_is_about_the_data(study):
    study.add_sides(3.0 + NOISE[0, :3], 3.5)
    for seed in range(3):
        study.add(1.0, seed=seed, digest=OTHER, data__limit=1000)
    found = study.verdict()
    assert num_runs(found) == 6
    assert "left out of variance=fixed: 3 without a counterpart" in found.reason
    fixed = {"variance": "fixed", "data.limit": 1000}
    found = study.verdict(favours=fixed, over=fixed | {"data.limit": None})
    assert found.verdict == "supported"
    assert found.size.startswith("svhn train (fedcba98) and svhn train (01234567), ")


def test_runs_on_both_sides_or_on_one_alone(paired):
    found = paired.verdict(over={"pca.whiten": False})
    assert (found.verdict, found.effect) == ("undecided", None)
    assert found.reason == "6 runs on both sides: favours and over must tell them apart"
    found = paired.verdict(over={"variance": "logvar"})
    assert (found.verdict, found.reason.split("; ")[0]) == ("undecided", "no run has variance=logvar")
    found = Study(paired.path / "none").verdict()
    assert (found.verdict, found.reason) == ("undecided", f"{paired.path / 'none'} holds no runs")


# --- the metric itself ----------------------------------------------------------------------------------------------


def test_over_nothing_the_metric_is_compared_with_the_margin(paired):
    found = paired.verdict(over=None, better="higher", margin=2.5)
    assert (found.verdict, [*map(len, found.kept)]) == ("supported", [6])
    assert (found.effect.low, found.effect.high) == interval(stats.ttest_1samp(3.0 + NOISE[0], 0))
    assert paired.verdict(over=None, better="higher", margin=3.5).verdict == "refuted"
    assert paired.verdict(over=None, better="lower", margin=-3.5).verdict == "supported"
    assert found.reason == "t over 6 seeds"


def test_another_metric_is_subtracted(study):
    """A gap between training and test of about 0.5."""
    for seed, (a, b) in enumerate(NOISE.T):
        study.add(3.5 + a, seed=seed, metrics={"seen/bits_per_dim": 3.0 + b})
    found = study.verdict(favours={}, over=None, better="higher", minus="seen/bits_per_dim", margin=0.3)
    assert found.verdict == "supported"
    assert (found.effect.low, found.effect.high) == interval(stats.ttest_rel(3.5 + NOISE[0], 3.0 + NOISE[1]))
    assert (found.asked.quantity, found.asked.side_names) == ("test/bits_per_dim - seen/bits_per_dim", ["all runs"])


@pytest.mark.parametrize(
    ("metric", "due"),
    [("baseline/uniform", 8.0), ("cost/num_parameters", 967_000), ("details/post_loss_of_gaussian", -400.0),
     ("samples/frechet", None), ("details/none", None)],
)  # fmt: skip
def test_other_parts_of_a_result(paired, metric, due):
    found = paired.verdict(metric=metric, over=None if due else {"variance": "fixed"}, better="higher")
    if due is not None:
        assert found.effect.mean == due
    else:
        assert (found.verdict, found.effect) == ("undecided", None)
        assert found.reason.startswith("no run of variance=per_dimension has the metric; ")
        assert f"left out of variance=fixed: 6 without {metric}" in found.reason


# --- seeds that agree -----------------------------------------------------------------------------------------------


def test_seeds_that_agree_decide_by_their_value(study):
    scores = np.arange(3) / 3
    study.add_sides(3.0 + scores, 3.1 + scores)
    found = study.verdict()
    assert found.verdict == "supported"
    assert found.effect[:3] == pytest.approx((0.1, 0.1, 0.1))
    assert "alike with all 3 seeds, which leaves no spread to test: the value alone decides" in found.reason
    assert study.verdict(margin=0.2).verdict == "refuted"


@pytest.mark.parametrize("changes", [(1e-15, 2e-15, 3e-15), (1e-15, 1e-15, 1e-15)])
def test_rounding_is_no_difference_and_decides_nothing(tmp_path, changes):
    """3.3 - 3.0 is more than 0.3."""
    study, other = Study(tmp_path / "a"), Study(tmp_path / "b")
    study.add_sides(1.0 - np.array(changes), 1.0)
    found = study.verdict()
    assert (found.verdict, found.effect.mean) == ("undecided", 0.0)
    other.add_sides([3.0] * 3, 3.3)
    found = other.verdict(margin=0.3)
    assert found.effect.mean != 0.3
    assert (found.verdict, found.reason.split("; ")[0]) == ("undecided", "the effect is the margin")


# --- what has no value ----------------------------------------------------------------------------------------------


def test_what_has_no_value_is_left_out_and_counted(paired):
    before = paired.verdict()
    paired.add(None, "diverged", seed=7, variance="per_dimension", optimizer__lr=1e-3)
    paired.add(None, "diverged", seed=8, variance="per_dimension", optimizer__lr=5e-3)
    for status, value in (("running", None), ("failed", None), ("done", None), ("done", math.nan)):
        paired.add(value, status, seed=9)
    (paired.path / "old").mkdir()
    (paired.path / "old" / "status.json").write_text('{"status": "interrupted"}', encoding="utf-8")
    found = paired.verdict()
    assert (found.verdict, found.effect) == (before.verdict, before.effect)
    assert found.reason.split("; ")[2:] == [
        "left out of variance=per_dimension: 2 diverged",
        "left out of variance=fixed: 1 running, 1 failed, 2 without test/bits_per_dim",
        "1 unfinished of unknown settings",
    ]
    paired.add(None, "diverged", seed=9, variance="per_dimension")  # its survivors are a choice by their result
    found = paired.verdict()
    assert (found.verdict, found.effect) == ("undecided", None)
    assert "6 of a variant of which a seed diverged" in found.reason


# --- divergence -----------------------------------------------------------------------------------------------------

DIVERGENCE = {"metric": "diverged", "favours": {"variance": "relu_eps"}, "over": {"variance": "logvar"}}


@pytest.fixture
def diverging(study):
    """At the two highest of three rates, logvar diverges with all of five seeds; relu_eps once."""
    for seed, lr in itertools.product(range(5), RATES):
        study.add(3.0, seed=seed, variance="relu_eps", optimizer__lr=lr,
                  status="diverged" if (seed, lr) == (0, 5e-3) else "done")  # fmt: skip
        study.add(3.0, seed=seed, variance="logvar", optimizer__lr=lr, status="diverged" if lr > 1e-4 else "done")
    return study


def test_shares_that_diverged(diverging):
    found = diverging.verdict(**DIVERGENCE)
    assert (found.verdict, found.num_seeds, num_runs(found)) == ("supported", 5, 30)
    low, high = (stats.binomtest(count, 15).proportion_ci(method="wilson") for count in (1, 10))
    assert found.effect.mean == pytest.approx(9 / 15)
    assert found.effect.low == pytest.approx(9 / 15 - math.hypot(10 / 15 - high.low, low.high - 1 / 15))
    assert found.effect.high == pytest.approx(9 / 15 + math.hypot(high.high - 10 / 15, 1 / 15 - low.low))
    assert "variance=relu_eps: 1 of 15 diverged" in found.reason
    assert "variance=logvar: 10 of 15 diverged" in found.reason
    assert diverging.verdict(**DIVERGENCE | {"better": "higher"}).verdict == "refuted"
    alone = {"favours": {"variance": "logvar"}, "over": None, "better": "higher", "margin": 0.3}
    found = diverging.verdict(**DIVERGENCE | alone)
    assert found.verdict == "supported"
    assert (found.effect.low, found.effect.high) == (pytest.approx(high.low), pytest.approx(high.high))
    assert "Wilson's interval" in found.reason


def test_shares_are_of_settings_and_seeds_that_both_sides_were_run_to_an_end_with(diverging):
    before = diverging.verdict(**DIVERGENCE)
    diverging.add(3.0, seed=1, variance="relu_eps", optimizer__lr=1.0, status="diverged")
    diverging.add(3.0, seed=5, variance="relu_eps")
    for status in ("running", "failed", "interrupted"):
        diverging.add(None, status, seed=9, variance="logvar")
    found = diverging.verdict(**DIVERGENCE)
    assert (found.effect, num_runs(found)) == (before.effect, 30)
    assert "left out of variance=relu_eps: 2 without a counterpart" in found.reason
    assert "left out of variance=logvar: 1 running, 1 failed, 1 interrupted" in found.reason


# --- in words -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("effect", "due"),
    [
        ((0.12345, 0.11234, 0.13456), "+0.123 [+0.112, +0.135]"),
        ((-12345.6, -12545.6, -12145.6), "-12,346 [-12,546, -12,146]"),
        ((1e-4, -2e-4, 4e-4), "+0.00010 [-0.00020, +0.00040]"),
        ((0.5, 0.5, 0.5), "+0.5 (with every seed)"),
        ((0.5, float("nan"), float("nan")), "+0.5 (1 seed)"),
    ],
)
def test_effects_have_two_figures_of_their_interval(effect, due):
    assert Verdict(parse(hypothesis()), "supported", "", Estimate(*effect, 3)).effect_text == due
