"""The real command, as a user types it, on small synthetic data."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from conftest import REPO
from stress.forked import Command, train

README = (REPO / "README.md").read_text(encoding="utf-8")
TINY = ("data=synthetic", "data.num_train=700", "data.num_test=100", "trainer=demo", "network_scale=0.03125",
        "trainer.max_epochs=2", "judge=false")  # fmt: skip


def runs(folder: Path, study: str = "default") -> dict[str, dict]:
    """Run name -> its status.json."""
    found = sorted((folder / "outputs" / study).glob("*/status.json"))
    return {path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in found}


def result(folder: Path, study: str = "default") -> dict:
    [path] = (folder / "outputs" / study).glob("*/result.json")
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    """The first sweep of the front page, tiny: the one command here that no forked process stands in for."""
    folder = tmp_path_factory.mktemp("sweep")
    [words] = re.findall(r"^python src/train.py (-m .*) study=demo$", README, re.MULTILINE)
    command = [sys.executable, REPO / "src" / "train.py", *words.split(), *TINY]
    return folder, subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8")


def test_sweep_runs_all_cells_and_prints_one_table(sweep):
    folder, done = sweep
    assert done.returncode == 0, done.stderr
    assert [status["status"] for status in runs(folder).values()] == ["done"] * 4
    for row in ("variance=relu_eps pca.whiten=true", "variance=logvar pca.whiten=false", "(-) PPCA, K = 500"):
        assert row in in_one_line(done.stdout)
    assert done.stdout.count("default: synthetic data") == 1
    assert (folder / "outputs" / "default" / "report" / "index.html").is_file()


def in_one_line(table: str) -> str:
    """The first column of a table, whose long names are folded over several lines."""
    first = (line.split("│")[1].strip() for line in table.splitlines() if line.count("│") > 2)
    return " ".join(first)


def test_sweep_is_quiet_and_its_table_has_the_best_row_first(sweep):
    """Neither warnings nor the libraries' own talk."""
    _, done = sweep
    assert done.stderr == ""
    assert "warn" not in done.stdout.lower()
    cells = [line.split("│") for line in done.stdout.splitlines() if line.startswith("│ ")]
    bits = [float(row[3].replace("!", "")) for row in cells if "." in row[3]]
    assert len(bits) >= 8
    assert bits == sorted(bits)


def test_every_run_leaves_what_the_readme_promises(sweep):
    folder, _ = sweep
    for run in (folder / "outputs" / "default").glob("dense-*"):
        files = ("status.json", "result.json", "representation.safetensors", "basis.safetensors", ".hydra/config.yaml")
        assert all((run / name).is_file() for name in files)
        assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
        assert list((run / "tensorboard").glob("events.out.tfevents.*"))
        for picture, size in (("samples", (980, 1000)), ("reconstructions", (980, 1000)), ("data", (980, 1000))):
            with Image.open(run / "figures" / f"{picture}.png") as image:
                assert image.size == size
        assert not list(run.rglob("*.partial"))


def test_result_is_complete(sweep):
    folder, _ = sweep
    run = next((folder / "outputs" / "default").glob("dense-relu_eps-synthetic-pca500-raw-*"))
    content = json.loads((run / "result.json").read_text(encoding="utf-8"))
    metrics = content["metrics"]
    assert content["data"]["synthetic"] is True
    assert sum(content["parts"].values()) == pytest.approx(metrics["test/bits_per_dim"], abs=1e-4)
    assert metrics["test/elbo"] == pytest.approx(
        metrics["test/log_likelihood"] + metrics["test/residual"] + metrics["test/log_det"] - metrics["test/kl"],
        abs=0.1,
    )
    assert {"test/sigma/dead_fraction", "test/active_units", "val/bits_per_dim"} <= set(metrics)
    assert content["baselines"]["uniform"] == 8
    assert content["cost"]["steps"] == 2 * (630 // 64)  # trainer=demo's batches


def test_tensorboard_holds_scalars_pictures_histograms_and_hyperparameters(sweep):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    folder, _ = sweep
    run = next((folder / "outputs" / "default").glob("dense-*"))
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    tags = events.Tags()
    assert {"train/bits_per_dim", "val/bits_per_dim", "test/bits_per_dim", "val/kl"} <= set(tags["scalars"])
    for name in ("samples", "reconstructions"):  # of the first validation, and of the finished run
        pictures = events.Images(name)
        assert len(pictures) == 2
        last = Image.open(io.BytesIO(pictures[-1].encoded_image_string))
        assert last.convert("RGB") == Image.open(run / "figures" / f"{name}.png").convert("RGB")
    assert "sigma/log10" in tags["histograms"]
    assert "hp_metric" not in tags["scalars"]
    assert "_hparams_/experiment" in events.summary_metadata
    begun = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert set(HParamsPluginData.FromString(begun).session_start_info.hparams) == {"variance", "pca.whiten"}


def test_finished_runs_are_not_run_again(sweep):
    folder, _ = sweep
    before = runs(folder)
    again = train(folder, "-m", "variance=relu_eps,logvar", "pca.whiten=true,false", *TINY, exact=True)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("done already") == 4
    assert runs(folder) == before


def test_python_of_the_readme_runs(sweep, tmp_path, monkeypatch):
    """With a run that was moved elsewhere."""
    run = next((sweep[0] / "outputs" / "default").glob("dense-logvar-synthetic-pca500-white-*"))
    moved = shutil.copytree(run, tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    shown, head = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(shown.replace("outputs/demo/RUN", str(moved)), "README.md", "exec"), {})
    heads = (REPO / "src" / "svhn_vae" / "model" / "variance").glob("*.py")
    assert any(head.splitlines()[0] in path.read_text(encoding="utf-8") for path in heads)  # it lies in the package


def test_convolutions_run_with_nothing_else_named_and_are_profiled(tmp_path):
    small = ("network_scale=0.125", "trainer.limit_train_batches=2", "trainer.profiler=simple")
    done = train(tmp_path, "model=conv", "variance=shared", *TINY, *small)
    assert done.returncode == 0, done.stdout + done.stderr
    assert result(tmp_path)["choices"]["pca"] == "none"
    assert "run_training_epoch" in done.stdout


def test_divergence_is_a_result_and_the_sweep_goes_on(tmp_path):
    done = train(tmp_path, "-m", "variance=logvar", "optimizer.lr=1e4,1e-3", *TINY)
    assert done.returncode == 0, done.stdout + done.stderr
    statuses = {status["status"]: (name, status) for name, status in runs(tmp_path).items()}
    assert set(statuses) == {"diverged", "done"}
    name, status = statuses["diverged"]
    assert isinstance(status["step"], int)
    assert "not finite at step" in done.stdout
    assert "sigma_max" in status["state"]["head"]
    left = tmp_path / "outputs" / "default" / name
    assert "val/bits_per_dim" in json.loads((left / "partial_result.json").read_text(encoding="utf-8"))["metrics"]
    assert (left / "figures" / "samples.png").is_file()
    assert not (left / "result.json").exists()
    for checkpoint in (tmp_path / "outputs").rglob("*.ckpt"):
        weights = torch.load(checkpoint, weights_only=True)["state_dict"]
        assert all(value.isfinite().all() for value in weights.values())


def test_what_cannot_be_is_refused_in_a_line(tmp_path):
    done = train(tmp_path, *TINY, "varience=fixed")
    [line] = done.stdout.strip().splitlines()
    assert line == "refused: varience is no setting: did you mean variance?"
    assert (done.returncode, done.stderr) == (1, "")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["batch_size=5000"], "batch_size must be in 1..630"),
        (["data=svhn", "data.url=http://127.0.0.1:9"], "set data.root=FOLDER, or try data=synthetic"),
    ],
)
def test_what_the_data_do_not_allow_is_one_line(tmp_path, arguments, message):
    tiny = [word for word in TINY if not word.startswith("data") or "data=svhn" not in arguments]
    done = train(tmp_path, *tiny, *arguments, exact=True)
    assert done.returncode == 1
    assert len(done.stdout.strip().splitlines()) == 2  # the run's name, and why it failed
    [line] = [line for line in done.stdout.splitlines() if line.startswith("  failed: ")]
    assert message in line
    assert "Traceback" not in done.stdout + done.stderr
    assert bool(os.listdir(tmp_path)) == (arguments == ["batch_size=5000"])  # the others never began


def until(found: Callable[[], object], running: Command) -> None:
    deadline = time.monotonic() + 120
    while not found() and time.monotonic() < deadline and running.process.is_alive():
        time.sleep(0.01)


def test_ctrl_c_says_that_the_same_command_continues(tmp_path):
    running = Command(tmp_path / "run", *TINY, "trainer.max_epochs=500")
    until(lambda: list(tmp_path.rglob("last.ckpt")), running)
    os.kill(running.process.pid, signal.SIGINT)
    done = running.wait()
    assert "stopping after this epoch; once more to leave at once" in done.stdout
    assert re.search(r"  interrupted after \d+ epochs: the same command continues it\n$", done.stdout)
    assert done.returncode == 128 + signal.SIGINT
    assert [status["status"] for status in runs(tmp_path / "run").values()] == ["interrupted"]
