"""What the README prints, runs: every command of its code blocks."""

import re
import shlex
import shutil
import subprocess
import sys

import pytest

from conftest import REPO, composed
from test_end_to_end import TINY

README = (REPO / "README.md").read_text()
BLOCKS = "\n".join(re.findall(r"```bash\n(.*?)```", README, re.DOTALL))
COMMANDS = [shlex.split(line, comments=True) for line in BLOCKS.splitlines()]
TRAIN = [command[2:] for command in COMMANDS if command[:2] == ["python", "src/train.py"]]
REPLACED = ("data=", "trainer=", "study=")  # by what makes a run small


def name(command: list[str]) -> str:
    return " ".join(command) or "no argument"


def test_there_are_commands_to_test():
    assert len(TRAIN) >= 7


@pytest.mark.parametrize("command", TRAIN, ids=name)
def test_train_command_is_composed_as_printed(command):
    sweep = command[:1] == ["-m"]
    composed(*(word for word in command[sweep:] if word != "--help" and ("," not in word or "[" in word)))


def cut_down() -> list[list[str]]:
    """The commands without what is replaced, each once."""
    commands = [[word for word in command if not word.startswith(REPLACED)] for command in TRAIN]
    return [command for number, command in enumerate(commands) if command not in commands[:number]]


@pytest.mark.parametrize("command", [command for command in cut_down() if "--help" not in command], ids=name)
def test_train_command_runs(command, tmp_path):
    """As printed, but for the data and the size."""
    of_images = {"model=resnet", "experiment=spectral"} & set(command)
    small = [word for word in TINY if not (of_images and word.startswith(("network_scale", "pca")))]
    small += ["network_scale=0.125", "trainer.limit_train_batches=1"] if of_images else []
    small += ["data.splits=[train]"] if "experiment=post_2017_as_run" in command else []  # there is no extra file
    done = subprocess.run(
        [sys.executable, str(REPO / "src" / "train.py"), *command, *small],
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bits/dim" in done.stdout


def test_the_other_scripts_run(tmp_path):
    """report.py on a study that a run made, baselines.py on its data."""
    train = [sys.executable, str(REPO / "src" / "train.py"), *TINY, "study=demo"]
    subprocess.run(train, cwd=tmp_path, check=True, capture_output=True)
    report = [sys.executable, str(REPO / "src" / "report.py"), "outputs/demo"]
    assert "(-) uniform" in subprocess.run(report, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    small = [word for word in TINY if word.startswith("data")]
    baselines = [sys.executable, str(REPO / "src" / "baselines.py"), *small]
    table = subprocess.run(baselines, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert "fitted on 1,080" in table
    assert "fitted on 1,200" in table


@pytest.mark.parametrize(("arguments", "message"), [(["outputs/none"], "holds no runs"), ([], "required: study")])
def test_report_says_what_it_expects(arguments, message, tmp_path):
    report = [sys.executable, str(REPO / "src" / "report.py"), *arguments]
    done = subprocess.run(report, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize(
    ("overrides", "message"), [(["data=nothing"], "nothing"), (["data=svhn", "data.root=/nowhere"], "/nowhere")]
)
def test_baselines_say_what_is_wrong_in_a_line(overrides, message, tmp_path):
    command = [sys.executable, str(REPO / "src" / "baselines.py"), *overrides]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("target", ["demo", "test"])
def test_make_targets_exist_and_make_their_environment(target):
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not installed")
    plan = subprocess.run([make, "-n", "-B", target], cwd=REPO, check=True, capture_output=True, text=True).stdout
    assert "-m venv" in plan
    assert "pip install" in plan
    assert f"make {target}" in README


def test_make_demo_runs_the_sweep_of_the_front_page():
    plan = subprocess.run(["make", "-n", "demo"], cwd=REPO, check=True, capture_output=True, text=True).stdout
    sweep, convolutions = [line for line in plan.splitlines() if "src/train.py" in line]
    assert "-m variance=relu_eps,logvar pca.whiten=false,true data=synthetic trainer=demo" in sweep
    assert sweep.split("python ")[1] in BLOCKS
    assert "model=conv" in convolutions
    composed(*convolutions.split("src/train.py ")[1].split())
