"""Main effects and interactions: arithmetic by hand, least squares and counting are the oracles."""

import itertools

import numpy as np
import pytest
from scipy import stats

from svhn_vae.report.effects import balanced, cells, factors, interactions, main_effects

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


def means(effect) -> list[tuple]:
    """The levels, the best first, each with its mean."""
    return [(level.name, pytest.approx(level.mean.mean)) for level in effect.levels]


# --- crossed --------------------------------------------------------------------------------------------------------


def test_main_effects_by_hand():
    found, scores = design(BY_HAND)
    a, b = main_effects(found, scores)
    assert [(level.name, level.mean.mean) for level in a.levels] == [
        ("a", pytest.approx(1.6)),
        ("b", pytest.approx(5.15)),
    ]
    assert [(level.name, level.mean.mean) for level in b.levels] == [
        ("x", pytest.approx(2.15)),
        ("y", pytest.approx(4.6)),
    ]
    by_seed = np.array([(3 + 7) / 2 - (1 + 2) / 2, (3.4 + 7.2) / 2 - (1.2 + 2.2) / 2])  # b - a
    due = stats.ttest_1samp(by_seed, 0).confidence_interval()
    assert a.levels[1].gap[:3] == pytest.approx((by_seed.mean(), due.low, due.high))
    assert a.levels[0].gap is None
    assert (a.missing, a.block.left_out, a.block.other_seeds) == ([], 0, [])


def test_interaction_by_hand():
    [table] = interactions(*design(BY_HAND))
    assert table.names == ("A", "B")
    contrasts = [1 - 2 - 3 + 7, 1.2 - 2.2 - 3.4 + 7.2]
    due = stats.ttest_1samp(contrasts, 0)
    assert table.contrast.mean == pytest.approx(np.mean(contrasts))
    assert table.contrast.p_value == pytest.approx(due.pvalue)
    excess = [[cell.mean for cell in row] for row in table.excess]
    assert excess == [pytest.approx([0.725, -0.725]), pytest.approx([-0.725, 0.725])]  # a quarter of 2.9
    assert [[cell.mean for cell in row] for row in table.means] == [
        pytest.approx([1.1, 2.1]),
        pytest.approx([3.2, 7.1]),
    ]


def test_marginal_means_are_those_of_least_squares():
    runs = crossed(3, 2, 4)
    X, y = additive(runs)
    intercept, *effects = np.linalg.lstsq(X, y, rcond=None)[0]
    a = {level.name: level.mean.mean for level in main_effects(*design(runs, "ABC"))[0].levels}
    due = [intercept + effects[0], intercept + effects[1], intercept - effects[0] - effects[1]]
    assert [a["a0"], a["a1"], a["a2"]] == pytest.approx(due)


def test_excess_is_the_residual_of_the_additive_model():
    runs = crossed(3, 4)
    X, y = additive(runs)
    residuals = (y - X @ np.linalg.lstsq(X, y, rcond=None)[0]).reshape(3, 4, -1).mean(2)
    [table] = interactions(*design(runs))
    assert [[cell.mean for cell in row] for row in table.excess] == [pytest.approx(row) for row in residuals]
    assert table.contrast is None
    raw = [cell.p_value for row in table.excess for cell in row]
    corrected = list(itertools.chain.from_iterable(table.p_values))
    assert all(p <= q <= 1 for p, q in zip(raw, corrected, strict=True))
    assert min(corrected) == pytest.approx(min(1.0, 12 * min(raw)))


def test_a_single_seed_has_no_interval():
    runs = {cell: {0: given[0]} for cell, given in BY_HAND.items()}
    a, _ = main_effects(*design(runs))
    assert a.levels[0].mean.mean == 1.5
    assert np.isnan(a.levels[0].mean.low)
    assert a.levels[1].gap.mean == 3.5
    [table] = interactions(*design(runs))
    assert table.contrast.mean == 3.0
    assert np.isnan(table.contrast.p_value)


# --- not crossed ----------------------------------------------------------------------------------------------------


def test_a_missing_cell_leaves_its_whole_context_out():
    """The mean of `a` over x and y must not be compared with that of `b` over x alone."""
    runs = {**BY_HAND, ("b", "y"): {}}
    a, b = main_effects(*design(runs))
    assert [(level.name, level.mean.mean) for level in a.levels] == [
        ("a", pytest.approx(1.1)),
        ("b", pytest.approx(3.2)),
    ]
    assert (a.block.contexts, a.block.left_out) == ([("x",)], 0)  # y has one level of A: nothing to compare there
    assert [level.mean.mean for level in b.levels] == pytest.approx([1.1, 2.1])
    assert interactions(*design(runs)) == []


def test_a_level_that_failed_nearly_everywhere_is_named_and_the_rest_used():
    runs = crossed(3, 4)
    runs |= {("a2", name): {} for name in ("b1", "b2", "b3")}
    a, b = main_effects(*design(runs))
    assert [level.name for level in sorted(a.levels)] == ["a0", "a1"]
    assert a.missing == ["A=a2"]
    assert (len(a.block.contexts), a.block.left_out) == (4, 0)
    assert len(b.levels) == 4
    assert len(b.block.contexts) == 2
    [table] = interactions(*design(runs))
    assert table.missing == ["A=a2"]


def test_a_level_is_kept_where_half_of_the_runs_can_be():
    """Two levels in four contexts are eight cells, three levels in two are six."""
    runs = crossed(3, 4)
    runs |= {("a2", name): {} for name in ("b1", "b2")}
    a, _ = main_effects(*design(runs))
    assert a.missing == []
    assert (len(a.block.contexts), a.block.left_out) == (2, 2)


def test_contexts_that_lack_a_level_are_counted():
    runs = crossed(3, 4)
    runs["a2", "b1"] = {}
    a, _ = main_effects(*design(runs))
    assert len(a.levels) == 3
    assert (len(a.block.contexts), a.block.left_out) == (3, 1)


def test_scores_that_are_not_finite_are_missing():
    runs = {**BY_HAND, ("b", "y"): {0: float("nan"), 1: float("inf")}}
    assert main_effects(*design(runs))[0].block.contexts == [("x",)]


def test_only_seeds_that_all_cells_have_are_averaged():
    runs = crossed(2, 2)
    del runs["a1", "b1"][2]
    a, _ = main_effects(*design(runs))
    assert (a.block.seeds, a.block.other_seeds) == ([0, 1], [2])
    due = np.mean([runs["a0", name][seed] for name in ("b0", "b1") for seed in (0, 1)])
    assert {level.name: level.mean.mean for level in a.levels}["a0"] == pytest.approx(due)


def test_cells_without_a_common_seed_are_not_compared():
    assert main_effects(*design({("a", "x"): {0: 1.0}, ("b", "x"): {1: 2.0}})) == []


def test_one_change_at_a_time_is_compared_where_all_else_is_alike():
    runs = {("a0", "b0"): {0: 1.0}, ("a1", "b0"): {0: 2.0}, ("a0", "b1"): {0: 5.0}}
    a, b = main_effects(*design(runs))
    assert [level.mean.mean for level in a.levels] == [1.0, 2.0]
    assert [level.mean.mean for level in b.levels] == [1.0, 5.0]
    assert interactions(*design(runs)) == []


def test_a_setting_that_only_some_choices_have_is_compared_within_these():
    settings = [{"head": "relu", "head.eps": eps} for eps in (0.1, 0.01)] + [{"head": "log"}]
    found = factors(settings, ["head"])
    assert [(factor.name, factor.levels) for factor in found] == [
        ("head", ["relu", "relu", "log"]), ("head.eps", ["0.1", "0.01", "-"]),
    ]  # fmt: skip
    [effect] = main_effects(found, cells(found, [{0: 3.0}, {0: 2.0}, {0: 1.0}]))
    assert [(level.name, level.mean.mean) for level in effect.levels] == [("0.01", 2.0), ("0.1", 3.0)]


def test_settings_that_change_together_are_one_factor():
    found = factors([{"size": 1, "rate": 0.1}, {"size": 2, "rate": 0.2}, {"size": 1, "rate": 0.1, "bias": True}], [])
    assert [(factor.name, factor.levels) for factor in found] == [
        ("size, rate", ["1, 0.1", "2, 0.2", "1, 0.1"]), ("bias", ["-", "-", "true"]),
    ]  # fmt: skip


def test_variants_at_one_place_have_no_effects():
    found = factors([{"a": 1}, {"a": 2}, {"a": 2}], [])
    assert cells(found, [{0: 1.0}, {0: 2.0}, {0: 3.0}]) == {}
    assert cells([], [{0: 1.0}]) == {}


def test_levels_that_are_numbers_are_in_their_order():
    runs = {(level,): {0: 1.0} for level in ("0.001", "1e-05", "10", "2")}
    assert balanced(runs, [0]).levels == [["1e-05", "0.001", "2", "10"]]
    assert balanced({("b",): {0: 1.0}, ("a",): {0: 1.0}}, [0]).levels == [["a", "b"]]
