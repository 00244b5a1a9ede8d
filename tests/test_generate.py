"""src/generate.py, as a user types it, on a tiny finished run."""

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from PIL import Image
from scipy.io import savemat
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from conftest import REPO
from stress.forked import Done, command, train, without_pictures
from svhn_vae.data.digits import draw_digits
from svhn_vae.pictures.gallery import PICTURES
from test_end_to_end import TINY

generate = partial(command, "generate")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The folder of a run."""
    folder = tmp_path_factory.mktemp("finished")
    done = train(folder, *TINY)
    assert done.returncode == 0, done.stdout
    [run] = (folder / "outputs" / "default").glob("dense-*")
    return run


def test_all_pictures_of_a_run_and_nothing_else(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    before = other_files(run)
    done = generate(tmp_path, "run=run")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.split() == [f"run/figures/{name}.png" for name in PICTURES]
    for path in done.stdout.split():
        with Image.open(tmp_path / path) as image:
            assert min(image.size) > 900
    tags = EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0}).Reload().Tags()["images"]
    assert {f"generated/{name}" for name in PICTURES} <= set(tags)
    assert other_files(run) == before


def other_files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.parent.name not in ("figures", "tensorboard")}


def test_the_pictures_of_training_are_generated_again_and_another_seed_gives_others(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / finished.name)
    drawn = {path.name: path.read_bytes() for path in (run / "figures").iterdir()}
    assert set(drawn) >= {f"{name}.png" for name in ("data", "samples", "reconstructions")}
    for words, is_same in (((), True), (("seed=1", "temperature=0.5"), False)):
        assert generate(tmp_path, f"run={run}", "pictures=samples", *words).returncode == 0
        assert ((run / "figures" / "samples.png").read_bytes() == drawn["samples.png"]) == is_same


def test_a_picture_that_there_is_not_is_one_line(finished, tmp_path):
    (tmp_path / "run").symlink_to(finished)
    refused(generate(tmp_path, "run=run", "pictures=[samples,sample]"), "pictures must be among data, samples, ")


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline"])
def test_plots_are_drawn_whatever_a_notebook_exports(backend):
    """MPLBACKEND of a backend that is not installed: matplotlib itself cannot be imported with it."""
    plot = (
        "from svhn_vae.pictures.sheet import rendered; from matplotlib.figure import Figure; f = Figure(); f.subplots()"
    )
    command = [sys.executable, "-c", f"{plot}; assert rendered(f).std() > 0; import matplotlib.pyplot"]
    environment = os.environ | {"MPLBACKEND": backend, "PYTHONPATH": str(REPO / "src")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr


def refused(done: Done, message: str) -> None:
    assert done.returncode == 1
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("failed: ")
    assert message in line


def test_other_images_are_refused(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    found = result["data"]["digest"]
    result["data"]["digest"] = "another"
    (run / "result.json").write_text(json.dumps(result), encoding="utf-8")
    refused(generate(tmp_path, "run=run"), f"ran on other images (data another, found {found})")


def test_files_may_have_moved(tmp_path):
    """Of a run on .mat files, with data_root and without."""
    (tmp_path / "old").mkdir()
    for split, num in (("train", 700), ("test", 120)):
        images, labels = draw_digits(num, seed=num)
        content = {"X": images.transpose(2, 3, 1, 0), "y": labels[:, None] + 10 * (labels == 0)[:, None]}
        savemat(tmp_path / "old" / f"{split}_32x32.mat", content)
    tiny = [word for word in TINY if not word.startswith("data")]
    small = ("data.root=old", "data.verify=none", "pca.n_components=20")
    done = train(tmp_path, *tiny, *small, prepare=without_pictures)
    assert done.returncode == 0, done.stdout
    (tmp_path / "old").rename(tmp_path / "new")
    [run] = (tmp_path / "outputs" / "default").glob("dense-*")
    arguments = [f"run={run.relative_to(tmp_path)}", "pictures=likely"]
    refused(generate(tmp_path, *arguments), "old")
    moved = generate(tmp_path, *arguments, "data_root=new")
    assert moved.returncode == 0, moved.stderr
