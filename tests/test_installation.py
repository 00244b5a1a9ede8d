"""What is installed: the wheel holds all that the commands read, and they print what a person can type."""

import importlib
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from conftest import REPO
from svhn_vae import commands
from svhn_vae.runs import installation
from svhn_vae.runs.installation import as_typed, command_line, commit

KINDS = {".yaml", ".py", ".j2", ".css", ".js", ".typed"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.Path:
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, "-w", folder, REPO], check=True)
    [path] = folder.glob("*.whl")
    return zipfile.Path(path)


def files_below(folder: Path, name: str) -> set[str]:
    """Those that git would have, as the wheel should name them."""
    paths = (path for path in folder.rglob("*") if path.suffix in KINDS and "__pycache__" not in path.parts)
    return {f"{name}/{path.relative_to(folder).as_posix()}" for path in paths}


def test_the_wheel_holds_the_package_and_its_configurations(wheel):
    due = files_below(REPO / "src" / "svhn_vae", "svhn_vae") | files_below(REPO / "conf", "svhn_vae/conf")
    assert {"svhn_vae/py.typed", "svhn_vae/conf/train.yaml", "svhn_vae/commands/train.py"} < due
    packed = {name for name in wheel.root.namelist() if ".dist-info/" not in name and not name.endswith("/")}
    assert packed == due


def test_the_wheel_says_who_may_use_it_and_how_it_is_called(wheel):
    [information] = [part for part in wheel.iterdir() if part.name.endswith(".dist-info")]
    metadata = (information / "METADATA").read_text(encoding="utf-8")
    assert f"\nVersion: {installation.VERSION}\n" in metadata
    assert "\nLicense-Expression: MIT\n" in metadata
    assert "The svhn-vae authors" in (information / "licenses" / "LICENSE").read_text(encoding="utf-8")
    assert "svhn-vae = svhn_vae.commands:main" in (information / "entry_points.txt").read_text(encoding="utf-8")


THREE = """
import sys
sys.path.insert(0, sys.argv[1])
from svhn_vae.commands import main
small = "data.num_train=100 data.num_test=20 trainer.max_epochs=1 network_scale=0.03125 iw_samples=0 judge=false"
train = "train data=synthetic trainer=demo pca.n_components=20 batch_size=50"
for words in ("train --help", f"{train} {small}", "report outputs/default"):
    sys.argv = ["svhn-vae", *words.split()]
    try:
        main()
    except SystemExit as left:
        assert not left.code, words
"""


def test_installed_commands_train_report_and_say_how_they_were_typed(wheel, tmp_path):
    """Of a folder in which nothing but the wheel lies, as in an environment's site-packages."""
    wheel.root.extractall(tmp_path / "site-packages")
    done = subprocess.run(
        [sys.executable, "-c", THREE, tmp_path / "site-packages"], cwd=tmp_path, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "svhn-vae train trainer=demo data=synthetic" in done.stdout
    assert "src/train.py" not in done.stdout
    assert done.stdout.count("(-) uniform") == 2  # by train, and by report
    [result] = (tmp_path / "outputs" / "default").glob("*/result.json")
    assert f'"commit": "version {installation.VERSION}"' in result.read_text(encoding="utf-8")
    assert "svhn-vae train data=synthetic" in (tmp_path / "outputs" / "default" / "study.json").read_text("utf-8")


def test_without_a_command_they_are_listed(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["svhn-vae"])
    with pytest.raises(SystemExit) as left:
        commands.main()
    assert not left.value.code
    printed = capsys.readouterr().out
    assert set(re.findall(r"^  (\w+) ", printed, re.MULTILINE)) == set(commands.COMMANDS)


@pytest.mark.parametrize("name", sorted(path.stem for path in (REPO / "src").glob("*.py")))
def test_each_script_is_its_command(name):
    """`python src/train.py` and `svhn-vae train` are the same function."""
    assert f'    run("{name}")\n' in (REPO / "src" / f"{name}.py").read_text(encoding="utf-8")
    assert name in commands.COMMANDS


@pytest.mark.parametrize("name", sorted(commands.COMMANDS))
def test_each_command_is_a_function_of_its_module(name):
    assert callable(getattr(importlib.import_module(f"svhn_vae.commands.{commands.COMMANDS[name][0]}"), name))


def test_a_commands_help_is_typed_as_it_was(monkeypatch):
    text = "python src/train.py -m seed=0,1 and python src/report.py outputs/demo"
    monkeypatch.setattr(sys, "argv", ["src/train.py", "a=b c"])
    assert (as_typed(text), command_line()) == (text, "python src/train.py 'a=b c'")
    monkeypatch.setattr(sys, "argv", [str(REPO / "src" / "report.py")])  # from another folder
    assert as_typed("python src/train.py") == shlex.join(["python", str(REPO / "src" / "train.py")])
    monkeypatch.setattr(sys, "argv", [str(installation.COMMANDS / "train.py"), "a=b c"])
    assert as_typed(text) == "svhn-vae train -m seed=0,1 and svhn-vae report outputs/demo"
    assert command_line() == "svhn-vae train 'a=b c'"


def test_the_commit_is_gits(monkeypatch):
    head = subprocess.run(["git", "-C", REPO, "rev-parse", "HEAD"], capture_output=True, text=True, encoding="utf-8")
    if head.returncode:
        pytest.skip("not in a git repository")
    assert head.stdout.startswith(commit().rstrip("+"))
    monkeypatch.setenv("PATH", "")
    assert commit() == f"version {installation.VERSION}"


def test_a_repository_around_an_unpacked_checkout_has_no_say(monkeypatch, tmp_path):
    """Its commits are not the framework's."""
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / "unpacked").mkdir()
    monkeypatch.setattr(installation, "CHECKOUT", tmp_path / "unpacked")
    assert commit() == f"version {installation.VERSION}"
