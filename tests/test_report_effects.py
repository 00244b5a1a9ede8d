"""Main effects: arithmetic by hand, least squares and counting are the oracles."""

import itertools

import numpy as np
import pytest
from scipy import stats

from svhn_vae.report.ranking import effects, factors_of

# bits/dim of a 2 x 2 design, seeds 0 and 1
BY_HAND = {
    ("a", "x"): {0: 1.0, 1: 1.2},
    ("a", "y"): {0: 2.0, 1: 2.2},
    ("b", "x"): {0: 3.0, 1: 3.4},
    ("b", "y"): {0: 7.0, 1: 7.2},
}


def main_effects(scores: dict) -> list:
    """Of cells (level, level) -> seed -> score."""
    names = "ABC"[: len(next(iter(scores)))]
    settings = [dict(zip(names, cell, strict=True)) for cell in scores]
    return effects(factors_of(settings, list(names)), list(scores.values()))


def crossed(*sizes: int, num_seeds: int = 3) -> dict:
    rng = np.random.default_rng(0)
    levels = [[f"{name}{level}" for level in range(size)] for name, size in zip("abc", sizes, strict=False)]
    return {cell: dict(enumerate(rng.normal(3, 1, num_seeds))) for cell in itertools.product(*levels)}


def means(effect) -> dict[str, float]:
    """Level -> its mean, the best first."""
    return {name: pytest.approx(place.mean) for name, place in effect.ranking.places.items()}


# --- crossed --------------------------------------------------------------------------------------------------------


def test_main_effects_by_hand():
    a, b = main_effects(BY_HAND)
    assert [*means(a).items()] == [("a", 1.6), ("b", 5.15)]
    assert [*means(b).items()] == [("x", 2.15), ("y", 4.6)]
    by_seed = np.array([(3 + 7) / 2 - (1 + 2) / 2, (3.4 + 7.2) / 2 - (1.2 + 2.2) / 2])  # b - a
    due = stats.ttest_1samp(by_seed, 0).confidence_interval()
    first, second = a.ranking.places.values()
    assert (second.seeds.mean, second.seeds.reach) == pytest.approx(
        (by_seed.mean(), (due.high - due.low) / 2), rel=1e-4
    )
    assert first.seeds.mean == 0
    assert (a.missing, a.num_contexts, a.left_out, a.other_seeds) == ([], 2, 0, [])
    single, _ = main_effects({cell: {0: given[0]} for cell, given in BY_HAND.items()})
    first, second = single.ranking.places.values()
    assert (first.mean, second.seeds.mean, second.seeds.is_worse) == (1.5, 3.5, False)
    assert np.isnan(first.reach)


def test_marginal_means_are_those_of_least_squares():
    runs = crossed(3, 2, 4)
    rows, y = zip(*((cell, score) for cell, given in runs.items() for score in given.values()), strict=True)
    first, *others = ([np.equal(column, level) for level in sorted({*column})] for column in zip(*rows, strict=True))
    centred = [np.subtract(level, np.mean(level)) for levels in others for level in levels]  # of a whole design
    due = np.linalg.lstsq(np.array([*first, *centred], dtype=float).T, np.array(y), rcond=None)[0][:3]
    found = means(main_effects(runs)[0])
    assert [found[level] for level in ("a0", "a1", "a2")] == list(due)


# --- not crossed ----------------------------------------------------------------------------------------------------


def test_a_missing_cell_leaves_its_whole_context_out():
    """The mean of `a` over x and y must not be compared with that of `b` over x alone."""
    a, b = main_effects({**BY_HAND, ("b", "y"): {}})
    assert means(a) == {"a": 1.1, "b": 3.2}
    assert (a.num_contexts, a.left_out) == (1, 0)  # y has one level of A: nothing to compare there
    assert means(b) == {"x": 1.1, "y": 2.1}


def test_contexts_that_lack_a_level_are_counted_and_a_level_that_failed_everywhere_is_named():
    runs = crossed(3, 4)
    runs["a2", "b1"] = {}
    a, _ = main_effects(runs)
    assert (len(means(a)), a.num_contexts, a.left_out, a.missing) == (3, 3, 1, [])
    a, _ = main_effects(runs | {("a2", f"b{at}"): {} for at in range(4)})
    assert (sorted(means(a)), a.num_contexts, a.left_out, a.missing) == (["a0", "a1"], 4, 0, ["A=a2"])


def test_only_seeds_that_all_cells_have_are_averaged():
    runs = crossed(2, 2)
    del runs["a1", "b1"][2]
    a, _ = main_effects(runs)
    assert (a.seeds, a.other_seeds) == ([0, 1], [2])
    assert means(a)["a0"] == np.mean([runs["a0", name][seed] for name in ("b0", "b1") for seed in (0, 1)])
    assert main_effects({("a", "x"): {0: 1.0}, ("b", "x"): {1: 2.0}}) == []


def test_one_change_at_a_time_is_compared_where_all_else_is_alike():
    a, b = main_effects({("a0", "b0"): {0: 1.0}, ("a1", "b0"): {0: 2.0}, ("a0", "b1"): {0: 5.0}})
    assert (means(a), means(b)) == ({"a0": 1.0, "a1": 2.0}, {"b0": 1.0, "b1": 5.0})


# --- factors --------------------------------------------------------------------------------------------------------


def test_a_setting_that_only_some_choices_have_is_compared_within_these():
    settings = [{"head": "relu", "head.eps": eps} for eps in ("0.1", "0.01")] + [{"head": "log"}]
    found = factors_of(settings, ["head"])
    assert found == {"head": ["relu", "relu", "log"], "head.eps": ["0.1", "0.01", "-"]}
    [effect] = effects(found, [{0: 3.0}, {0: 2.0}, {0: 1.0}])
    assert [*means(effect).items()] == [("0.01", 2.0), ("0.1", 3.0)]


def test_settings_that_change_together_are_one_factor():
    small, large = {"size": "1", "rate": "0.1"}, {"size": "2", "rate": "0.2"}
    found = factors_of([small, large, {**small, "bias": "true"}], [])
    assert found == {"size, rate": ["1, 0.1", "2, 0.2", "1, 0.1"], "bias": ["-", "-", "true"]}
