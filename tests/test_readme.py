"""What the README and the pages of docs/ print is true: commands compose and links lead somewhere."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from conftest import CONF, REPO, composed
from svhn_vae.commands.search import plan
from svhn_vae.experiment.configuration import register_resolvers

PAGES = {
    path.relative_to(REPO).as_posix(): path for path in [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))]
}
TEXTS = {name: path.read_text(encoding="utf-8") for name, path in PAGES.items()}
README = TEXTS["README.md"]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """The lines of the bash blocks, as words."""
    lines = "\n".join(blocks(text, "bash")).splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


# Each command once, with the name of the script: python src/train.py a=b -> ("train", "a=b").
SCRIPTS = sorted({
    (Path(words[1]).stem, *words[2:])
    for text in TEXTS.values()
    for words in commands(text)
    if words[0] == "python" and words[1].startswith("src/")
})  # fmt: skip
COMPOSED = ("train", "generate", "evaluate", "export", "judge", "baselines", "bench")
OF_HYDRA = [command for command in SCRIPTS if command[0] in COMPOSED]


def name(command: tuple[str, ...]) -> str:
    return " ".join(command)


def single(words: tuple[str, ...], number: int) -> list[str]:
    """One job of a sweep: of each list of choices the one with that number, or the last."""
    of_lists = (word.partition("=") for word in words if word not in ("-m", "--help"))
    choices = ((key, value.split(",") if "[" not in value else [value]) for key, _, value in of_lists)
    return [f"{key}={values[min(number, len(values) - 1)]}" for key, values in choices]


@pytest.mark.parametrize("command", OF_HYDRA, ids=name)
def test_a_command_is_composed_as_printed(command):
    script, *words = command
    longest = max((word.count(",") + 1 for word in words if "[" not in word), default=1)
    for number in range(longest):
        if script in ("train", "baselines"):
            composed(*single(tuple(words), number))
            continue
        register_resolvers()
        GlobalHydra.instance().clear()
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            compose(script, single(tuple(words), number))


@pytest.mark.parametrize("command", [command for command in SCRIPTS if command not in OF_HYDRA], ids=name)
def test_other_commands_have_the_arguments_of_their_script(command):
    """report.py takes a study, claims.py nothing; their own tests run them."""
    script, *words = command
    if script == "search":
        assert plan(words)[1]
        return
    assert (script, len(words)) in {("report", 1), ("claims", 0)}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", TEXTS[page]):
        assert (PAGES[page].parent / target).exists(), target


def test_the_readme_is_a_page_and_the_rest_is_in_docs():
    assert len(README.splitlines()) <= 160
    for page in PAGES:
        assert page == "README.md" or f"({page})" in README or page == "docs/index.md", f"{page} is not linked"


def test_every_page_is_in_the_navigation():
    navigation = (REPO / "mkdocs.yml").read_text(encoding="utf-8")
    assert set(re.findall(r": (\w+\.md)", navigation)) == {
        Path(page).name for page in PAGES if page.startswith("docs/")
    }


def test_documentation_is_built_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="make docs installs it")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(build, cwd=REPO, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr


def test_make_makes_the_environment_and_demo_runs_the_commands_of_the_front_page():
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    make = ["make", "-n", "-B", "demo"]
    plan = subprocess.run(make, cwd=REPO, check=True, capture_output=True, encoding="utf-8").stdout
    assert "-m venv" in plan
    assert "pip install" in plan
    runs = [line.split("python ")[1] for line in plan.splitlines() if "src/train.py" in line]
    assert runs
    assert all(run in README for run in runs)
    assert all(f"make {target}" in README for target in ("demo", "test", "check"))
