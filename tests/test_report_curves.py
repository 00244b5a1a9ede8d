"""What the report reads of a run's folder besides its numbers: learning curves and pictures; and how it draws them."""

import base64
import io

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from svhn_vae.pictures.sheet import captioned, grid, write_png
from svhn_vae.report.curves import MAX_POINTS, Curve, limits, mean, read, thinned
from svhn_vae.report.figures import binned
from svhn_vae.report.sheets import ROWS, webp
from svhn_vae.report.svg import COLOURS, drawn, styled

HISTORY = """\
epoch,step,seconds,train/bits_per_dim,val/bits_per_dim
0,10,1.5,4.0,
1,20,3.0,3.5,3.6
2,30,4.5,inf,
3,40,6.0,3.2,3.3
"""


def curve(epochs, values=None) -> Curve:
    epochs = np.asarray(epochs, dtype=float)
    return Curve(epochs, 2 * epochs, epochs if values is None else np.asarray(values, dtype=float))


@pytest.fixture
def history(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text(HISTORY)
    return path


# --- curves ---------------------------------------------------------------------------------------------------------


def test_a_curve_has_the_points_at_which_it_was_logged(history):
    found = read(history)
    assert list(found) == ["val/bits_per_dim", "train/bits_per_dim"]
    assert [column.tolist() for column in found["val/bits_per_dim"]] == [[1, 3], [3.0, 6.0], [3.6, 3.3]]
    assert found["train/bits_per_dim"].values.tolist() == [4.0, 3.5, np.inf, 3.2]


@pytest.mark.parametrize(
    "content", ["", "epoch,step\n", "epoch,step,seconds,val/kl\n0,1\n", "epoch,step,seconds,val/kl\n0,1,x,2"]
)
def test_a_damaged_history_has_no_curves(history, content):
    history.write_text(content)
    assert read(history) == {}
    assert read(history.with_name("missing.csv")) == {}


def test_the_mean_goes_as_far_as_all_seeds_do():
    """Beyond the shortest one it would jump, because other runs are averaged."""
    found = mean([curve([1, 2, 3], [1, 2, 3]), curve([1, 2, 3, 4], [3, 4, 5, 100])])
    assert found.epochs.tolist() == [1, 2, 3]
    assert found.values.tolist() == [2, 3, 4]
    assert len(mean([]).values) == 0


def test_a_long_curve_is_thinned_to_points_of_its_own():
    found = thinned(curve(np.arange(5000)))
    assert len(found.values) == MAX_POINTS
    assert found.epochs[[0, -1]].tolist() == [0, 4999]
    assert len(thinned(curve([1, 2])).values) == 2
    assert len(thinned(curve([])).values) == 0


def test_limits_do_not_follow_a_spike():
    values = 3 + np.exp(-np.arange(200) / 20)
    low, high = limits([values], 0.75)
    assert low < values.min()
    values[100] = 1e6
    assert limits([values, [np.nan, np.inf]], 0.75) == pytest.approx((low, high), abs=0.05)
    assert limits([], 0.75) is None
    assert limits([[np.nan]], 0.75) is None
    low, high = limits([[2.0]], 0.75)
    assert low < 2.0 < high


# --- figures --------------------------------------------------------------------------------------------------------


def test_bins_are_means_of_components_of_like_size():
    eigenvalue = np.array([1e-3, 1e-3, 1.0, 10.0, 0.0])
    found = binned(eigenvalue, np.array([1.0, 3.0, 5.0, 7.0, 9.0]))
    assert found[0] == pytest.approx([1e-3, 1.0, 10.0])
    assert found[1] == pytest.approx([2.0, 5.0, 7.0])
    assert len(binned(np.geomspace(1e-6, 10, 3072))[0]) == 60
    assert binned(np.ones(5), np.ones(5))[0] == pytest.approx([1.0])
    assert binned(np.zeros(5))[0].shape == (1,)


def test_a_drawing_takes_on_the_colours_of_the_page():
    with styled():
        figure = Figure()
        figure.subplots().plot([1, 2], color=COLOURS[1], label="a < b")
        figure.axes[0].legend()
        drawing = drawn(figure, "name", "caption", 'a "quoted" < alt')
    assert COLOURS[1] in drawing.svg
    text = drawing.inline
    assert "var(--variant1)" in text
    assert "currentColor" in text
    assert "#000000" not in text
    assert "xmlns" not in text
    assert "metadata" not in text
    assert 'aria-label="a &#34;quoted&#34; &lt; alt"' in text
    assert "a &lt; b" in text
    assert 'id="axes_1"' not in text
    assert 'id="name-axes_1"' in text


# --- pictures -------------------------------------------------------------------------------------------------------


def test_a_sheet_is_small_and_shows_the_same(tmp_path):
    """The sheet as runs draw it: each image is where it was, one pixel of the picture per pixel of the image."""
    x = torch.linspace(0, 1, 100)[:, None, None, None].expand(100, 3, 32, 32)
    write_png(captioned(grid(x, 10), "a caption that is long enough for two lines " * 4), tmp_path / "samples.png")
    uri = webp(tmp_path / "samples.png", ROWS)
    kind, _, content = uri.partition(",")
    assert kind == "data:image/webp;base64"
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))
    assert image.shape == (330, 330, 3)
    middles = image[16::33, 16::33].mean(2) / 255
    assert middles == pytest.approx(x[:, 0, 0, 0].view(10, 10).numpy(), abs=0.03)


def test_only_the_first_rows_are_kept(tmp_path):
    write_png(grid(torch.rand(100, 3, 32, 32), 10), tmp_path / "a.png")
    content = base64.b64decode(webp(tmp_path / "a.png", 4).partition(",")[2])
    assert Image.open(io.BytesIO(content)).size == (330, 132)


def test_a_sheet_of_another_make_is_shown_too(tmp_path):
    write_png(np.zeros((300, 601, 3), dtype=np.uint8), tmp_path / "a.png")
    content = base64.b64decode(webp(tmp_path / "a.png", 4).partition(",")[2])
    assert Image.open(io.BytesIO(content)).size == (201, 100)


def test_no_picture_no_uri(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    assert webp(tmp_path / "a.png", 4) == webp(tmp_path / "missing.png", 4) == ""
