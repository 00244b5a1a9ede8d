"""What is typed and cannot be meant is refused in a line that names it; what can be meant passes."""

import pytest

from conftest import composed, options
from svhn_vae.experiment import commandline
from svhn_vae.experiment.commandline import StudyTable, check
from svhn_vae.experiment.configuration import plain

GROUPS = ("data", "model", "variance", "trainer")


def checked(*overrides: str) -> None:
    chosen = [override for override in overrides if override.split("=")[0] in GROUPS]
    check(plain(composed(*overrides)), plain(composed(*chosen)))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("pca.whiten=maybe", r"pca\.whiten must be true or false, got maybe"),
        ("rerun=no_thanks", "rerun must be true or false, got no_thanks"),
        ("shuffle=1", "shuffle must be true or false, got 1"),
        ("batch_size=abc", "batch_size must be a whole number, got abc"),
        ("batch_size=1.5", "batch_size must be a whole number, got 1.5"),
        ("batch_size=true", "batch_size must be a whole number, got True"),
        ("optimizer.lr=fast", "optimizer.lr must be a number, got fast"),
        ("data.splits=train", r"data\.splits must be a list such as \['train'\], got train"),
        ("trainer.max_epochs=0", r"trainer\.max_epochs must be 1 or more, got 0"),
        ("checkpoint_every_n_epochs=0", "checkpoint_every_n_epochs must be 1 or more, got 0"),
        ("iw_samples=-1", "iw_samples must be 0 or more, got -1"),
        ("impossible=perhaps", "impossible must be one of refuse, skip, got perhaps"),
        ("on_error=ignore", "on_error must be one of continue, stop, got ignore"),
        ("trainer.check_val_every_n_epoch=3000", r"must be in 1\.\.2000.*validates at least once, got 3000"),
        ("trainer.precision=bf16-true", r"trainer\.precision must be one of 32-true, bf16-mixed"),
        ("monitor=val/kl", "monitor must be one of val/negative_elbo"),
        ("seed=-1", "seed must be 0 or more, got -1"),
        ("study=${data}", "study must be a name under outputs/"),
        ("study=../elsewhere", "study must be a name under outputs/"),
        ("study=/tmp/elsewhere", "study must be a name under outputs/"),
    ],
)
def test_refused(override, message):
    with pytest.raises(ValueError, match=message):
        checked(override)


@pytest.mark.parametrize(
    "override",
    [
        *(f"{group}={choice}" for group in GROUPS for choice in options(group)),
        "variance.epsilon=1", "data.limit=0.2", "data.limit=5000", "trainer.gradient_clip_val=10.0", "study=a/b",
        "trainer.limit_train_batches=3", "data.splits=[train,extra]", "trainer.precision=bf16-mixed", "pca.whiten=true",
    ],
)  # fmt: skip
def test_accepted(override):
    checked(override)


def test_a_command_that_cannot_be_noted_is_tried_once_and_has_its_table(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commandline, "print_study", lambda study, console: print(f"the table of {study}"))
    (tmp_path / "outputs").write_text("")  # no folder
    table = StudyTable({"study": "mine", "question": None, "hypotheses": []})
    table.end()
    assert capsys.readouterr().out == ""
    with pytest.raises(OSError, match="outputs"):
        table.begin()
    table.begin()
    table.end()
    first, second = capsys.readouterr().out.splitlines()
    assert first == "the table of outputs/mine"
    assert second.startswith("the report of outputs/mine cannot be made: ")
