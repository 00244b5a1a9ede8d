"""Random commands pass the look before the first job or are refused, a line for each fault; more in stress/fuzz.py."""

from hypothesis import given

from stress import fuzz


def test_a_command_is_refused_in_lines_or_passes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    codes = []

    @fuzz.examples(100)
    @given(fuzz.command())
    def try_one(words: tuple[str, ...]) -> None:
        codes.append(fuzz.check(words, tmp_path).code)

    with fuzz.one_composer():
        try_one()
    assert codes.count(0) >= 10
    assert codes.count(1) >= 30
