"""What the report reads of a run's folder besides its numbers: learning curves and pictures; and how it draws them."""

import base64
import contextlib
import io

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from svhn_vae.evaluation.samples import posterior_predictive
from svhn_vae.pictures.sheet import captioned, grid, write_png
from svhn_vae.report import plots
from svhn_vae.report.collect import read_runs, variants
from svhn_vae.report.page import ROWS, webp
from svhn_vae.report.plots import COLOURS, drawing, limits, read_curves
from test_hypotheses import Study, crossed, values
from test_report import setting, write_run
from test_report_page import add_arrays

HISTORY = """\
epoch,step,seconds,train/bits_per_dim,val/bits_per_dim
0,10,1.5,4.0,
1,20,3.0,3.5,3.6
2,30,4.5,inf,
3,40,6.0,3.2,3.3
"""


@pytest.fixture
def history(tmp_path):
    return tmp_path / "history.csv"


# --- curves ---------------------------------------------------------------------------------------------------------


def test_a_curve_has_the_points_at_which_it_was_logged(history):
    history.write_text(HISTORY, encoding="utf-8")
    found = read_curves(history)
    assert list(found) == ["val/bits_per_dim", "train/bits_per_dim"]
    assert found["val/bits_per_dim"].tolist() == [[1, 3], [3.0, 6.0], [3.6, 3.3]]
    assert found["train/bits_per_dim"][2].tolist() == [4.0, 3.5, np.inf, 3.2]


@pytest.mark.parametrize(
    "content", ["", "epoch,step\n", "epoch,step,seconds,val/kl\n0,1\n", "epoch,step,seconds,val/kl\n0,1,x,2"]
)
def test_a_damaged_history_has_no_curves(history, content):
    assert read_curves(history) == {}
    history.write_text(content, encoding="utf-8")
    assert read_curves(history) == {}


def test_limits_do_not_follow_a_spike():
    values = 3 + np.exp(-np.arange(200) / 20)
    low, high = limits([values])
    assert low < values.min()
    values[100] = 1e6
    assert limits([values, np.array([np.nan, np.inf])]) == pytest.approx((low, high), abs=0.05)
    low, high = limits([np.array([2.0])])
    assert low < 2.0 < high
    assert limits([np.array([np.nan])])[0] < limits([np.array([np.nan])])[1]


# --- drawings -------------------------------------------------------------------------------------------------------


def test_a_drawing_is_a_picture_of_its_own():
    """An SVG as an image of the page shares no names with it; its text stays text."""
    shown = []
    with drawing(shown, "name", "caption", "alt") as figure:
        figure.subplots().plot([1, 1.004], color=COLOURS[1], label="a < b")
        figure.legend()
    [found] = shown
    assert all(part in found.svg for part in (COLOURS[1], "a &lt; b", "1.002"))
    kind, _, content = found.uri.partition(",")
    assert kind == "data:image/svg+xml;base64"
    assert base64.b64decode(content).decode() == found.svg


@pytest.fixture
def drawn(monkeypatch):
    """The figures by the ends of their names."""
    figures = {}

    @contextlib.contextmanager
    def keep(to, name, *_):
        to.append(name)
        yield figures.setdefault(name.partition("-")[2], Figure())

    monkeypatch.setattr(plots, "drawing", keep)
    return figures


def test_both_sides_and_the_front(tmp_path, drawn):
    points = {1: (3.0, 30.0), 2: (3.5, 20.0), 3: (3.6, 25.0)}  # the third is beaten by the second in both
    for k, (bits, distance) in points.items():
        judged = {"samples/frechet": distance}
        write_run(tmp_path, f"k{k}", bits=bits, metrics=judged, **setting("pca", n_components=k))
    found = variants(read_runs(tmp_path))
    assert plots.sides(found, {}, "x") == ["x-both-sides", "x-rate-distortion"]
    [axes] = drawn["both-sides"].axes
    dots = {tuple(line.get_xydata()[0]) for line in axes.lines if len(line.get_xydata()) == 1}
    assert dots == set(points.values())
    assert axes.lines[-1].get_xydata().tolist() == [[3.0, 30.0], [3.5, 20.0]]
    [rate] = drawn["rate-distortion"].axes
    assert [*rate.lines[0].get_xydata()[0]] == [0.25, 1.125 + 1.625]
    assert plots.sides(found[:1], {}, "x") == []


def test_a_line_per_run_in_the_colour_of_its_variant(tmp_path, drawn):
    for k in (1, 2):
        for seed in (0, 1):
            add_arrays(write_run(tmp_path, f"k{k}-{seed}", seed=seed, **setting("pca", n_components=k)))
    plots.learning_curves(tmp_path, variants(read_runs(tmp_path)), "x")
    names = "val_bits_per_dim-epochs val_bits_per_dim-seconds train_bits_per_dim-epochs val_kl-epochs"
    assert [*drawn] == names.split()
    [axes] = drawn["val_bits_per_dim-epochs"].axes
    assert [line.get_color() for line in axes.lines] == [COLOURS[0], COLOURS[0], COLOURS[1], COLOURS[1]]


def test_the_picture_of_a_verdict_holds_runs_effect_and_margin(tmp_path, drawn):
    study = Study(tmp_path / "study")
    assert plots.verdict_drawing(study.verdict(), "x-verdict") == []
    crossed(study)
    verdict = study.verdict(margin=0.02)
    assert plots.verdict_drawing(verdict, "x-verdict") == ["x-verdict"]
    runs, effect = drawn["verdict"].axes
    assert [sorted(line.get_xdata()) for line in runs.lines] == [sorted(side) for side in values(verdict)]
    assert effect.lines[0].get_xdata() == [0.02, 0.02]
    [bar] = effect.containers
    [[left, right]] = [segment[:, 0] for segment in bar.lines[2][0].get_segments()]
    assert (left, right) == pytest.approx((verdict.effect.low, verdict.effect.high))


# --- pictures -------------------------------------------------------------------------------------------------------


def opened(uri: str) -> Image.Image:
    kind, _, content = uri.partition(",")
    assert kind == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_a_sheet_is_small_and_shows_the_same(tmp_path):
    """The sheet as runs draw it: each image is where it was, one pixel of the picture per pixel of the image."""
    x = torch.linspace(0, 1, 100)[:, None, None, None].expand(100, 3, 32, 32)
    write_png(captioned(grid(x, 10), "a caption that is long enough for two lines " * 4), tmp_path / "samples.png")
    image = np.asarray(opened(webp(tmp_path / "samples.png", ROWS)))
    assert image.shape == (330, 330, 3)
    middles = image[16::33, 16::33].mean(2) / 255
    assert middles == pytest.approx(x[:, 0, 0, 0].view(10, 10).numpy(), abs=0.03)


def test_a_long_sheet_a_plot_and_no_picture(tmp_path):
    """Of a sheet the first rows are kept; a plot is whole; what is damaged or missing has no address."""
    path = tmp_path / "a.png"
    write_png(grid(torch.rand(100, 3, 32, 32), 10), path)
    assert opened(webp(path, 4)).size == (330, 132)
    write_png(np.zeros((300, 601, 3), dtype=np.uint8), path)
    assert opened(webp(path, 4)).size == (601, 300)
    path.write_bytes(b"\x89PNG\r\n\x1a\n broken")
    assert webp(path, 4) == webp(tmp_path / "missing.png", 4) == ""


def test_checks_are_drawn_of_the_runs_that_have_them(tmp_path, drawn):
    rng = np.random.default_rng(0)
    kinds = {kind: posterior_predictive(torch.from_numpy(rng.integers(0, 256, (9, 3, 32, 32), dtype=np.uint8)))
             for kind in ("test", "samples", "noisy_samples")}  # fmt: skip
    write_run(tmp_path, "k100", parts={"details": {"posterior_predictive": kinds}}, **setting("pca", n_components=100))
    write_run(tmp_path, "k500")
    found = variants(read_runs(tmp_path))
    assert plots.predictive_checks(found, "x") == [f"x-check-{of}" for of in ("spectrum", "histograms", "moments")]
    lines = drawn["check-spectrum"].axes[1].lines
    assert {line.get_color() for line in lines} == {COLOURS[0], "#000000"}
    assert lines[0].get_ydata() == pytest.approx(kinds["noisy_samples"]["spectrum"])
    assert plots.predictive_checks(found[1:], "x") == []
