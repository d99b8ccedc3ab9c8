"""Tensors at other sizes: which entries they have."""

import torch

from nncompile.resizing import resized

X = torch.arange(6).reshape(3, 2)


def test_entries_are_repeated_in_their_order():
    assert torch.equal(resized(X, {0: 7}), torch.cat([X, X, X[:1]]))


def test_entries_are_cut_off_at_the_end():
    assert torch.equal(resized(X, {0: 2}), X[:2])
    assert resized(X, {1: 0}).shape == (3, 0)


def test_each_axis_has_its_own_size():
    found = resized(X, {0: 1, -1: 3})
    assert found.tolist() == [[0, 1, 0]]
    assert found.dtype == X.dtype


def test_no_sizes_change_nothing():
    assert resized(X, {}) is X
