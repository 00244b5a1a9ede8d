"""What the page says of runs on the same images."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from svhn_vae.report import figures
from svhn_vae.report.answer import answer
from svhn_vae.report.collect import METRIC, Run, Variant, variants
from svhn_vae.report.cost import Cost, costs
from svhn_vae.report.curves import METRICS, Learning, learning
from svhn_vae.report.effects import Interaction, MainEffect, cells, factors, interactions, main_effects
from svhn_vae.report.ranked_table import RankedTable, ranked_table
from svhn_vae.report.ranking import Ranking, rank, ranked
from svhn_vae.report.settings import differing, in_words, shared
from svhn_vae.report.sheets import Sheet, sheets, training_images
from svhn_vae.report.svg import MAX_SHOWN, Drawing

Arrays = Mapping[str, np.ndarray]
WITHOUT_DENSITY = {"val/negative_elbo": "val/bits_per_dim"}  # drawn only where no run has the other


class Settings(NamedTuple):
    """What the variants differ in, and what they share."""

    keys: list[str]
    rows: list[tuple[str, list[str]]]  # label, and a text per key; no texts where the settings were not noted
    shared: list[tuple[str, str]]


class Effects(NamedTuple):
    factors: list[str]
    main: list[MainEffect]
    interactions: list[Interaction]
    num_empty: int  # variants without a score
    is_ambiguous: bool  # two variants at one place of the design

    @property
    def silent(self) -> list[str]:
        """Factors of which no two levels were tried with all else alike."""
        return [name for name in self.factors if name not in {effect.name for effect in self.main}]


class SmallMultiples(NamedTuple):
    title: str
    explanation: str
    drawings: list[Drawing]


class Section(NamedTuple):
    title: str
    variants: list[Variant]  # the best first
    ranking: Ranking | None
    answer: list[str]
    table: RankedTable
    settings: Settings
    effects: Effects
    legend: list[str]  # labels of the variants that figures tell apart, in the order of their colours
    curves: list[Drawing]
    sheets: list[tuple[str, list[Sheet]]]
    training_images: str
    multiples: list[SmallMultiples]
    costs: list[Cost]


def section(study: Path, title: str, runs: Sequence[Run], name: str) -> Section:
    """`name` begins the names of its figures."""
    found = variants(runs)
    ranking, found = rank(study, found), ranked(found)
    drawable = [variant for variant in found if variant.runs]
    return Section(
        title=title,
        variants=found,
        ranking=ranking,
        answer=answer(found, ranking),
        table=ranked_table(found, ranking),
        settings=settings_of(found),
        effects=effects_of(found),
        legend=[variant.label for variant in found[:MAX_SHOWN]],
        curves=curves(study, found, name),
        sheets=sheets(study, drawable),
        training_images=training_images(study, drawable),
        multiples=multiples(study, found[:MAX_SHOWN], name),
        costs=costs(found),
    )


def settings_of(found: Sequence[Variant]) -> Settings:
    known = {variant.label: variant.settings for variant in found if variant.settings}
    keys = differing(list(known.values()))
    texts = {
        label: [in_words(settings[key]) if key in settings else "" for key in keys] for label, settings in known.items()
    }
    alike = [(key, in_words(value)) for key, value in shared(list(known.values())).items()]
    return Settings(keys, [(variant.label, texts.get(variant.label, [])) for variant in found], alike)


def effects_of(found: Sequence[Variant]) -> Effects:
    known = [variant for variant in found if variant.settings]
    groups = list(dict.fromkeys(group for variant in known for group in variant.choices))
    varied = factors([variant.settings for variant in known], groups)
    scores = cells(varied, [variant.scores(METRIC) for variant in known])
    return Effects(
        factors=[factor.name for factor in varied],
        main=main_effects(varied, scores),
        interactions=interactions(varied, scores),
        num_empty=sum(not math.isfinite(variant.score) for variant in known),
        is_ambiguous=bool(varied) and not scores,
    )


def curves(study: Path, found: Sequence[Variant], name: str) -> list[Drawing]:
    """By metric, in epochs and in seconds; the first metric is what the ranking is about."""
    of_metric: dict[str, dict[str, Learning]] = {metric: {} for metric in METRICS}
    for variant in found:
        for metric, curve in learning(study, variant).items():
            of_metric[metric][variant.label] = curve
    shown = [metric for metric in METRICS if of_metric[metric] and not of_metric.get(WITHOUT_DENSITY.get(metric))]
    places = {variant.label: place for place, variant in enumerate(found)}
    return [
        figures.learning_curves(metric, along, of_metric[metric], places, name)
        for metric in shown
        for along in (("epochs", "seconds") if metric == shown[0] else ("epochs",))
    ]


def multiples(study: Path, found: Sequence[Variant], name: str) -> list[SmallMultiples]:
    """Of the first finished run of each variant."""
    order = _of_each(study, found, "order_of_learning.safetensors", "explained")
    calibration = _of_each(study, found, "calibration.safetensors", "predicted")
    components = {place: arrays for place, arrays in calibration.items() if "eigenvalue" in arrays}
    brightest = min(1.0, max((float(np.nanmax(arrays["explained"])) for arrays in order.values()), default=1.0))
    drawn = (
        SmallMultiples("Sigma against eigenvalue", SIGMA, [
            figures.sigma_figure(found[place].label, place, arrays, f"{name}-sigma-{place + 1:02}")
            for place, arrays in components.items()
        ]),
        SmallMultiples("Order of learning", ORDER.format(brightest=brightest), [
            figures.order_figure(found[place].label, max(brightest, 0.01), arrays, f"{name}-order-{place + 1:02}")
            for place, arrays in order.items()
        ]),
        SmallMultiples("Calibration", CALIBRATION, [
            figures.reliability_figure(found[place].label, place, arrays, f"{name}-calibration-{place + 1:02}")
            for place, arrays in calibration.items()
        ]),
    )  # fmt: skip
    return [one for one in drawn if one.drawings]


def _of_each(study: Path, found: Sequence[Variant], file: str, key: str) -> dict[int, Arrays]:
    """A variant's place -> the arrays of its first finished run, where it has kept them."""
    firsts = {place: variant.runs[0].name for place, variant in enumerate(found) if variant.runs}
    arrays = {place: _arrays(study / run / file) for place, run in firsts.items()}
    return {place: one for place, one in arrays.items() if key in one and one[key].size}


SIGMA = (
    "Per component of y, in squared units of pixels: the variance of the component over the test images (across), the "
    "mean sigma² that is predicted (line) and the actual mean squared error (dots). On the grey diagonal the decoder "
    "knows no more than the component's mean; below it the latents tell something; a line above its dots is timid."
)
ORDER = (
    "How much of each group of components is reconstructed, over epochs: from black (nothing) to the brightest (a "
    "share of {brightest:.2g} of its variance, the most in any). Groups are equal steps of the logarithm of a "
    "component's index, the largest variance on top; of pixels and images of frequencies they are rings of "
    "frequencies, the lowest on top."
)
CALIBRATION = "Elements of y in bins by their predicted sigma: above the grey diagonal, sigma is too small."


def _arrays(path: Path) -> Arrays:
    try:
        return load_file(path)
    except (OSError, SafetensorError):
        return {}
