"""Predictors that are broken on purpose, and what a check said of them."""

from __future__ import annotations

from models.gpu_check.table import CHECKS
from nncompile import Predictor

BY_NAME = {check.name: check for check in CHECKS}
real = Predictor.predict


def verdicts(findings):
    return [finding.verdict for finding in findings]


def patch(monkeypatch, predict):
    monkeypatch.setattr(Predictor, "predict", predict)
    monkeypatch.setattr(Predictor, "__call__", predict)
