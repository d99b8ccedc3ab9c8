"""The errors: one family, two sentences, whole across processes."""

from __future__ import annotations

import pickle

import pytest

import nncompile
from nncompile import NncompileError
from nncompile_runtime import errors

FAMILY = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]


@pytest.mark.parametrize("kind", FAMILY)
def test_every_error_is_public_and_of_one_family(kind: type[NncompileError]) -> None:
    assert issubclass(kind, NncompileError)
    assert getattr(nncompile, kind.__name__) is kind
    assert kind.__name__ in nncompile.__all__


@pytest.mark.parametrize("kind", FAMILY)
def test_an_error_survives_pickling(kind: type[NncompileError]) -> None:
    again = pickle.loads(pickle.dumps(kind("It broke.", remedy="Mend it.")))
    assert type(again) is kind
    assert (again.problem, again.remedy, str(again)) == ("It broke.", "Mend it.", "It broke. Mend it.")


def test_an_error_without_a_remedy_is_one_sentence() -> None:
    assert str(NncompileError("It broke.")) == "It broke."


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="frobnicate"):
        nncompile.frobnicate  # noqa: B018
