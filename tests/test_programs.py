"""Programs that tests need: CI may not leave out in silence what a laptop skips."""

import shutil

import pytest

SKIPPED, FAILED = pytest.skip.Exception, pytest.fail.Exception


def test_one_of_several_names_is_found(program):
    assert program("first-of-none", "sh", package="thing") == shutil.which("sh")


@pytest.mark.parametrize(("ci", "outcome"), [("", SKIPPED), ("true", FAILED)])
def test_without_one_a_test_is_skipped_and_under_ci_fails(program, monkeypatch, ci, outcome):
    monkeypatch.setenv("CI", ci)
    reason = r"no first-of-none is installed \(Debian: apt-get install thing\)"
    with pytest.raises((SKIPPED, FAILED), match=reason) as stopped:
        program("first-of-none", "second-of-none", package="thing")
    assert stopped.type is outcome
