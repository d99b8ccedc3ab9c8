"""Comparing engines on one model, interleaved in one process, so that their ratios can be believed."""

from nncompile.bench.results import BenchReport
from nncompile.bench.runner import AGAINST, BATCHES, run
from nncompile.bench.scenarios import Scenario

__all__ = ["AGAINST", "BATCHES", "BenchReport", "Scenario", "run"]
