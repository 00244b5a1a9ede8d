"""The ranked table: a row per variant and model without a network, a column per figure that any run has; and as much of
it as a terminal has room for."""

import math
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console, ConsoleOptions
from rich.table import Table
from rich.text import Text

from svhn_vae.report.collect import METRIC, Variant, by_test_images, read_runs, variants
from svhn_vae.report.ranking import SIDES, Ranking, answer, baselines, interval_text, own_baseline, ranked, rankings_of
from svhn_vae.report.statistics import Gap

MIN_NAME = 24  # characters in a line of the variants' names
LEGEND = """\
bits/dim of the test images and Frechet distance of samples: lower is better; +-: 95 % over seeds, pooled
to best, with other seeds: ~ cannot be told apart; (bits): of seeds that survived where others diverged, without a rank
(-): a model without a network; !: no better than its own baseline, PPCA at its K or independent Gaussians
bits/dim = modelled + KL + residual; active: latents in use; seconds: > where a continued run has only its last part
pictures:    {study}/*/figures/*.png
TensorBoard: tensorboard --logdir {study}"""


class Column(NamedTuple):
    title: str
    meaning: str
    part: str = ""  # of result.json, where the figure is the mean over runs
    name: str = ""
    form: str = ""


RANK = Column("#", "rank by bits/dim; none where a seed diverged")
BITS = Column("bits/dim", "mean over seeds, ± half of its 95 % interval, error pooled over variants")
SEEDS = Column("to best: seeds", "bits/dim more than the best; the interval says what other seeds may give")
IMAGES = Column("to best: images", "bits/dim more than the best; the interval says what other test images may give")
RANK_OF_PICTURES = Column("# pictures", "rank by Frechet distance; none where a seed diverged")
PICTURES = Column("Frechet", "distance of samples from test images, in the judge's features, ± as for bits/dim")
SEEDS_OF_PICTURES = Column("to best: Frechet", "more than the best; the interval says what other seeds may give")
RUNS = Column("runs", "finished runs, one per seed, and what became of the others")
LEADING = (RANK, BITS, SEEDS, IMAGES, RANK_OF_PICTURES, PICTURES, SEEDS_OF_PICTURES, RUNS)
FIGURES = (
    Column("modelled", "bits/dim of what the VAE models, with its Jacobian", "parts", "modelled", ".3f"),
    Column("KL", "bits/dim of the latents", "parts", "kl", ".3f"),
    Column("residual", "bits/dim of the coordinates that were cut off", "parts", "residual", ".3f"),
    Column("KL, nats", "per test image", "metrics", "test/kl", ".1f"),
    Column("active", "latents in use", "metrics", "test/active_units", ".0f"),
    Column("k-sample bound", "bits/dim of the importance-weighted bound", "metrics", "test/iw_bits_per_dim", ".3f"),
    Column("seen", "bits/dim of training images, scored like test images", "metrics", "seen/bits_per_dim", ".3f"),
    Column("residual variance", "mean square of (y - mean) / sigma: 1 is right, above it sigma is too small",
           "metrics", "test/calibration/residual_variance", ".2f"),
    Column("coverage 90", "share inside a Gaussian's 90 % interval", "metrics", "test/calibration/coverage_90", ".3f"),
    Column("PSNR, dB", "of reconstructed test images", "metrics", "test/reconstruction/psnr", ".1f"),
    Column("sharpness", "of reconstructions: 1 is that of images", "metrics", "test/reconstruction/sharpness", ".2f"),
    Column("order", "rank correlation of a component's size and how early it is learnt",
           "metrics", "order/rank_correlation", ".2f"),
    Column("precision", "share of samples that look like images", "metrics", "samples/precision", ".2f"),
    Column("recall", "share of images that samples look like", "metrics", "samples/recall", ".2f"),
    Column("digit entropy", "nats, of the digits that samples show", "metrics", "samples/digit_entropy", ".2f"),
    Column("memorised", "share of samples nearer to training images", "metrics", "samples/memorised", ".2f"),
    Column("sharpness of samples", "1 is that of images", "metrics", "samples/sharpness", ".2f"),
    Column("digit kept", "share of analogies with the original's digit", "metrics", "analogies/digit_agreement", ".2f"),
    Column("colour moved", "of analogies from the original", "metrics", "analogies/colour_distance", ".3f"),
    Column("judge", "accuracy of the judge, on test images", "metrics", "judge/accuracy", ".3f"),
    Column("weights", "trained numbers", "cost", "num_parameters", ",.0f"),
    Column("epochs", "trained", "cost", "epochs", ",.0f"),
    Column("seconds", "of training; > where a continued run has only its last part", "cost", "seconds", ",.0f"),
    Column("images/s", "in training", "cost", "images_per_second", ",.0f"),
)  # fmt: skip
# Of the terminal's columns; the last ones leave first.
IN_TERMINAL = ("bits/dim", "Frechet", "#", "to best: seeds", "runs", "# pictures", "active", "KL", "modelled",
               "residual", "seconds", "images/s")  # fmt: skip


class Value(NamedTuple):
    text: str = ""
    number: float = math.nan  # to sort by
    hint: str = ""  # seed by seed


class Row(NamedTuple):
    label: str
    is_variant: bool
    is_no_better: bool  # than its own baseline
    cells: list[Value]


class RankedTable(NamedTuple):
    columns: list[Column]
    rows: list[Row]


def ranked_table(found: Sequence[Variant], rankings: Mapping[str, Ranking]) -> RankedTable:
    """The best first; then where a seed diverged, then what has no density, and at the end what never finished."""
    best_first, every = ranked(found), [*LEADING, *FIGURES]
    values = [dict(zip(every, _cells(one, rankings), strict=True)) for one in best_first]
    columns = [column for column in every if column in (BITS, RUNS) or any(of[column].text for of in values)]
    rows = []
    for one, of in zip(best_first, values, strict=True):
        own = own_baseline(one)
        rows.append(Row(one.label, True, own is not None and one.mean() >= own[1], [of[column] for column in columns]))
    for name, bits in reversed(baselines([run for variant in found for run in variant.runs])):
        cells = [Value(f"{bits:.3f}", bits) if column is BITS else Value() for column in columns]
        better = [one for one, of in zip(best_first, values, strict=True)
                  if not one.num_diverged and of[BITS].number < bits]  # fmt: skip
        rows.insert(len(better), Row(name, False, False, cells))
    return RankedTable(columns, rows)


def _cells(variant: Variant, rankings: Mapping[str, Ranking]) -> list[Value]:
    """In the order of LEADING and FIGURES."""
    density, pictures = (_of_side(variant, metric, rankings.get(metric)) for metric in SIDES)
    if variant.runs and not variant.scores(METRIC):
        density[1] = Value("no density")
    others = Counter(run.status for run in variant.unfinished)
    counts = ", ".join([str(len(variant.runs)), *(f"{num} {status}" for status, num in sorted(others.items()))])
    figures = [_figure(variant, column) for column in FIGURES]
    return [*density, *pictures[:3], Value(counts, len(variant.runs)), *figures]


def _of_side(variant: Variant, metric: str, ranking: Ranking | None) -> list[Value]:
    """Rank, mean, gap with other seeds, gap on other images."""
    form, scores, mean = SIDES[metric][2], variant.scores(metric), variant.mean(metric)
    if not scores:
        return [Value()] * 4
    if ranking is None or variant.label not in ranking.places:
        return [Value(), Value(f"({mean:{form}})", mean, "seeds that survived: no rank"), Value(), Value()]
    at = ranking.places[variant.label]
    gaps = [Value()] * 2
    if at.rank > 1:
        gaps = [Value() if math.isnan(gap.p_value) else
                Value(gap_text(gap, form), gap.mean, f"p = {gap.p_value:.2g}, corrected for all variants")
                for gap in (at.seeds, at.images)]  # fmt: skip
    return [Value(str(at.rank), at.rank), Value(interval_text(mean, at.reach, form), mean, by_seed(scores)), *gaps]


def _figure(variant: Variant, column: Column) -> Value:
    """The mean over the seeds that have it."""
    found = variant.scores(column.name, column.part)
    if not found:
        return Value()
    mean = variant.mean(column.name, column.part)
    part_only = column.name == "seconds" and any(run.cost.get("continued") for run in variant.runs)
    return Value(f"{'>' * part_only}{mean:{column.form}}", mean, by_seed(found, column.form))


def gap_text(gap: Gap, form: str = ".3f") -> str:
    return interval_text(gap.mean, gap.reach, form, "+") + ("" if gap.is_worse else " ≈")


def by_seed(values: Mapping[int, float], form: str = ".4f") -> str:
    return ", ".join(f"seed {seed}: {value:{form}}" for seed, value in values.items()) if len(values) > 1 else ""


# --- in a terminal --------------------------------------------------------------------------------------------------


def plain(text: str) -> str:
    """In characters that every terminal has, and few of them."""
    return text.replace(" ± ", "+-").replace(" ≈", "~")


def wide_console() -> Console:
    """As wide as the terminal, and wide enough for a table where there is none (a file, CI)."""
    console = Console()
    return console if console.is_terminal else Console(width=120)


def print_study(study: Path, console: Console) -> None:
    """Prints the study's table, what its runs can tell apart, what did not finish, and where its files are."""
    runs = read_runs(study)

    def say(text: str) -> None:
        console.print(plain(text), markup=False, highlight=False, soft_wrap=True)

    for title, group in by_test_images(runs).items():
        found = variants(group)
        if any(variant.runs for variant in found):
            rankings = rankings_of(study, found)
            say(f"{study.name}: {title}")
            finished = [variant for variant in found if variant.runs]
            console.print(terminal_table(ranked_table(finished, rankings)))
            say(" ".join(answer(found, rankings)))
            say("\n".join(f"{metric} over seeds: {ranking.how}" for metric, ranking in rankings.items()))
    for run in runs:
        if not run.result or run.reason:
            say(f"{run.status}: {run.name}: {run.reason}")
    if any(run.result for run in runs):
        say(LEGEND.format(study=shlex.quote(str(study))))


def terminal_table(table: RankedTable) -> "Fitted":
    titles = [column.title for column in table.columns]
    names = [f"{'' if row.is_variant else '(-) '}{row.label}{' !' * row.is_no_better}" for row in table.rows]
    rows = [(name, *(plain(value.text) for value in row.cells)) for name, row in zip(names, table.rows, strict=True)]
    by_weight = [titles.index(title) + 1 for title in IN_TERMINAL if title in titles]
    return Fitted("", ("model", *titles), rows, by_weight)


class Fitted(NamedTuple):
    """A table in the room that there is: names are folded, figures whole, columns of least weight left out. What has no
    heading explains its row: it is folded, too."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    by_weight: Sequence[int] = ()  # the places of columns, of which the last leave first; (): as they stand

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        texts = [place for place, heading in enumerate(self.headings) if not place or not heading]
        widths = [max(map(len, column)) for column in zip(self.headings, *self.rows, strict=True)]
        widths = [min(width, MIN_NAME) if place in texts else width for place, width in enumerate(widths)]
        room, shown = options.max_width - widths[0] - 4, [0]
        for place in self.by_weight or range(1, len(widths)):
            room -= widths[place] + 3
            if room < 0 and len(shown) > 1:
                break
            shown.append(place)
        found = Table(title=self.title or None, title_justify="left")
        for place in sorted(shown):
            figure = {} if place in texts else {"justify": "right", "no_wrap": True, "min_width": widths[place]}
            found.add_column(self.headings[place], overflow="fold", **figure)
        for row in self.rows:
            found.add_row(*(Text(row[place]) for place in sorted(shown)))
        yield found
