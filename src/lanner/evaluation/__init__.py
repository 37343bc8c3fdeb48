"""Evaluation: ``evaluate(scorer, split)`` measures anything that scores items."""

from lanner.evaluation.intervals import Comparison
from lanner.evaluation.protocol import Scorer, evaluate
from lanner.evaluation.report import Report, compare

__all__ = ["Comparison", "Report", "Scorer", "compare", "evaluate"]
