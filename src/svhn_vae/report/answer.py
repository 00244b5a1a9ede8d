"""The answer to a study's question, in sentences computed from its runs."""

from collections import Counter
from collections.abc import Sequence

from svhn_vae.report.collect import METRIC, Run, Variant
from svhn_vae.report.ranked_table import interval_text
from svhn_vae.report.ranking import ALIKE, Ranking, baselines, own_baseline
from svhn_vae.report.statistics import estimate

QUESTION = "Which variant has the lowest test bits/dim?"
MAX_NAMED = 5
STATES = {"diverged": "diverged", "failed": "failed", "interrupted": "interrupted", "running": "still running"}


def answer(found: Sequence[Variant], ranking: Ranking | None) -> list[str]:
    """Of variants on the same images."""
    if ranking is None:
        finished = any(variant.runs for variant in found)
        return ["No finished run has a density that could be ranked." if finished else "No run has finished yet."]
    return [_best(found, ranking), *_against_baselines(ranking.best), _told_apart(ranking)]


def _best(found: Sequence[Variant], ranking: Ranking) -> str:
    best, num_finished = ranking.best, sum(bool(variant.runs) for variant in found)
    scores = estimate(list(best.scores(METRIC).values()))
    seeds = f"95 % over {scores.num} seeds" if scores.num > 1 else "one seed: how much chance is in it is not known"
    of = f"Of {num_finished} variants with a result, {best.label} is the best" if num_finished > 1 else best.label
    return f"{of}: {interval_text(scores, '.3f')} test bits/dim ({seeds})."


def _against_baselines(best: Variant) -> list[str]:
    known = baselines(best.runs)
    if not known:
        return []
    name, bits = known[0]
    text = f"That is {_more_or_less(best.score - bits)} the best model without a network ({name}: {bits:.3f})"
    own = own_baseline(best)
    if own and own[0] != name:
        text += f", and {_more_or_less(best.score - own[1])} its own baseline ({own[0]}: {own[1]:.3f})"
    return [f"{text}."]


def _more_or_less(difference: float) -> str:
    return f"{abs(difference):.3f} {'less' if difference < 0 else 'more'} than"


def _told_apart(ranking: Ranking) -> str:
    if not ranking.others:
        return "There is nothing to compare it with that allows a test."
    alike = [comparison.a for comparison in ranking.others if comparison.verdict == ALIKE]
    how = f"95 %, Holm, paired {ranking.how}"
    if not alike:
        return f"All {len(ranking.others)} others are worse ({how})."
    named = "; ".join(alike[:MAX_NAMED]) + (f" and {len(alike) - MAX_NAMED} more" if len(alike) > MAX_NAMED else "")
    worse = len(ranking.others) - len(alike)
    return f"It cannot be told apart from {named}; {worse} of {len(ranking.others)} others are worse ({how})."


def state(runs: Sequence[Run]) -> str:
    """How many runs there are and what became of them, for instance `4 runs: 3 finished, 1 diverged.`"""
    of_status = Counter(run.status for run in runs)
    parts = [f"{of_status['done']} finished"]
    parts += [f"{of_status[status]} {words}" for status, words in STATES.items() if of_status[status]]
    others = sum(num for status, num in of_status.items() if status not in {"done", *STATES})
    parts += [f"{others} without a status"] if others else []
    return f"{len(runs)} run{'s' * (len(runs) != 1)}: {', '.join(parts)}."
