"""Main effects: arithmetic by hand, least squares and counting are the oracles."""

import itertools

import numpy as np
import pytest
from scipy import stats

from svhn_vae.report.effects import cells, factors, main_effects

# bits/dim of a 2 x 2 design, seeds 0 and 1
BY_HAND = {
    ("a", "x"): {0: 1.0, 1: 1.2},
    ("a", "y"): {0: 2.0, 1: 2.2},
    ("b", "x"): {0: 3.0, 1: 3.4},
    ("b", "y"): {0: 7.0, 1: 7.2},
}


def design(scores: dict, names: str = "AB"):
    """Factors and scores of cells (level, level) -> seed -> score."""
    settings = [dict(zip(names, cell, strict=True)) for cell in scores]
    found = factors(settings, list(names))
    return found, cells(found, list(scores.values()))


def crossed(*sizes: int, num_seeds: int = 3, rng_seed: int = 0) -> dict:
    rng = np.random.default_rng(rng_seed)
    levels = [[f"{name}{level}" for level in range(size)] for name, size in zip("abc", sizes, strict=False)]
    return {cell: dict(enumerate(rng.normal(3, 1, num_seeds))) for cell in itertools.product(*levels)}


def coded(level: str, levels: list[str]) -> list[float]:
    """Sum to zero: -1 everywhere at the last level."""
    last = [-1.0] * (len(levels) - 1)
    return last if level == levels[-1] else [float(level == name) for name in levels[:-1]]


def additive(scores: dict) -> tuple[np.ndarray, np.ndarray]:
    """The design matrix of an intercept and all main effects, and the scores, a row per run."""
    levels = [sorted(set(names)) for names in zip(*scores, strict=True)]
    rows = [
        ([1.0, *itertools.chain.from_iterable(map(coded, cell, levels))], score)
        for cell, given in scores.items()
        for score in given.values()
    ]
    return np.array([row for row, _ in rows]), np.array([score for _, score in rows])


# --- crossed --------------------------------------------------------------------------------------------------------


def means(effect) -> dict[str, float]:
    """Level -> its mean, the best first."""
    return {name: pytest.approx(place.mean) for name, place in effect.ranking.places.items()}


def test_main_effects_by_hand():
    a, b = main_effects(*design(BY_HAND))
    assert [*means(a).items()] == [("a", 1.6), ("b", 5.15)]
    assert [*means(b).items()] == [("x", 2.15), ("y", 4.6)]
    by_seed = np.array([(3 + 7) / 2 - (1 + 2) / 2, (3.4 + 7.2) / 2 - (1.2 + 2.2) / 2])  # b - a
    due = stats.ttest_1samp(by_seed, 0).confidence_interval()
    first, second = a.ranking.places.values()
    gap = second.seeds
    assert (gap.mean, gap.reach) == pytest.approx((by_seed.mean(), (due.high - due.low) / 2), rel=1e-4)
    assert first.seeds.mean == 0
    assert (a.missing, a.left_out, a.other_seeds) == ([], 0, [])


def test_marginal_means_are_those_of_least_squares():
    runs = crossed(3, 2, 4)
    X, y = additive(runs)
    intercept, *effects = np.linalg.lstsq(X, y, rcond=None)[0]
    a = means(main_effects(*design(runs, "ABC"))[0])
    due = [intercept + effects[0], intercept + effects[1], intercept - effects[0] - effects[1]]
    assert [a["a0"], a["a1"], a["a2"]] == due


def test_a_single_seed_has_no_interval():
    a, _ = main_effects(*design({cell: {0: given[0]} for cell, given in BY_HAND.items()}))
    first, second = a.ranking.places.values()
    assert first.mean == 1.5
    assert np.isnan(first.reach)
    assert second.seeds.mean == 3.5
    assert not second.seeds.is_worse


# --- not crossed ----------------------------------------------------------------------------------------------------


def test_a_missing_cell_leaves_its_whole_context_out():
    """The mean of `a` over x and y must not be compared with that of `b` over x alone."""
    a, b = main_effects(*design({**BY_HAND, ("b", "y"): {}}))
    assert means(a) == {"a": 1.1, "b": 3.2}
    assert (a.contexts, a.left_out) == ([("x",)], 0)  # y has one level of A: nothing to compare there
    assert means(b) == {"x": 1.1, "y": 2.1}


def test_contexts_that_lack_a_level_are_counted_and_a_level_that_failed_everywhere_is_named():
    runs = crossed(3, 4)
    runs["a2", "b1"] = {}
    a, _ = main_effects(*design(runs))
    assert (len(means(a)), len(a.contexts), a.left_out, a.missing) == (3, 3, 1, [])
    a, _ = main_effects(*design(runs | {("a2", f"b{at}"): {} for at in range(4)}))
    assert (sorted(means(a)), len(a.contexts), a.left_out, a.missing) == (["a0", "a1"], 4, 0, ["A=a2"])


def test_only_seeds_that_all_cells_have_are_averaged():
    runs = crossed(2, 2)
    del runs["a1", "b1"][2]
    a, _ = main_effects(*design(runs))
    assert (a.seeds, a.other_seeds) == ([0, 1], [2])
    assert means(a)["a0"] == np.mean([runs["a0", name][seed] for name in ("b0", "b1") for seed in (0, 1)])


def test_cells_without_a_common_seed_are_not_compared():
    assert main_effects(*design({("a", "x"): {0: 1.0}, ("b", "x"): {1: 2.0}})) == []


def test_one_change_at_a_time_is_compared_where_all_else_is_alike():
    a, b = main_effects(*design({("a0", "b0"): {0: 1.0}, ("a1", "b0"): {0: 2.0}, ("a0", "b1"): {0: 5.0}}))
    assert (means(a), means(b)) == ({"a0": 1.0, "a1": 2.0}, {"b0": 1.0, "b1": 5.0})


def test_a_setting_that_only_some_choices_have_is_compared_within_these():
    settings = [{"head": "relu", "head.eps": eps} for eps in ("0.1", "0.01")] + [{"head": "log"}]
    found = factors(settings, ["head"])
    assert [(factor.name, factor.levels) for factor in found] == [
        ("head", ["relu", "relu", "log"]), ("head.eps", ["0.1", "0.01", "-"]),
    ]  # fmt: skip
    [effect] = main_effects(found, cells(found, [{0: 3.0}, {0: 2.0}, {0: 1.0}]))
    assert [*means(effect).items()] == [("0.01", 2.0), ("0.1", 3.0)]


def test_settings_that_change_together_are_one_factor():
    small, large = {"size": "1", "rate": "0.1"}, {"size": "2", "rate": "0.2"}
    found = factors([small, large, {**small, "bias": "true"}], [])
    assert [(factor.name, factor.levels) for factor in found] == [
        ("size, rate", ["1, 0.1", "2, 0.2", "1, 0.1"]), ("bias", ["-", "-", "true"]),
    ]  # fmt: skip


def test_variants_at_one_place_have_no_effects():
    found = factors([{"a": "1"}, {"a": "2"}, {"a": "2"}], [])
    assert cells(found, [{0: 1.0}, {0: 2.0}, {0: 3.0}]) == {}
    assert cells([], [{0: 1.0}]) == {}
