"""Every class of torch.nn is tried or listed with a reason, and docs/coverage.md says which."""

import inspect
import re
from pathlib import Path

from cases import MEANINGLESS, all_cases, without_a_meaning
from torch import nn

DOCUMENT = (Path(__file__).parents[2] / "docs" / "coverage.md").read_text(encoding="utf-8")


def classes():
    found = inspect.getmembers(nn, lambda value: inspect.isclass(value) and issubclass(value, nn.Module))
    return {name for name, _ in found}


def tried():
    return {case.kind for case in all_cases()}


def test_every_class_is_tried_or_has_a_reason_why_not():
    assert classes() == tried() | set(MEANINGLESS)
    assert not tried() & set(MEANINGLESS)


def test_what_has_no_meaning_cannot_be_called():
    for kind in MEANINGLESS:
        assert getattr(nn, kind).forward is nn.Module.forward


def test_the_document_lists_what_has_no_meaning():
    assert DOCUMENT.endswith("\n\n" + without_a_meaning())


def test_the_document_has_a_row_for_every_class():
    assert set(re.findall(r"^\| (\w+) \| \d+ \|", DOCUMENT, re.MULTILINE)) == tried()
