"""Which measured load points are worth having: the front, the choice from it, the recommendation, its attribution."""

from autotune.selection.attribution import Path, attribute, greedy_path, inert_knobs
from autotune.selection.comparison import compare, mean_difference, paired_difference, throughput_difference
from autotune.selection.front import pareto_front
from autotune.selection.policy import POLICIES, Pick, Policy, Rule, choose, parse_policy
from autotune.selection.recommendation import Reset, candidates, recommend, recommend_reset

__all__ = [
    "POLICIES",
    "Path",
    "Pick",
    "Policy",
    "Reset",
    "Rule",
    "attribute",
    "candidates",
    "choose",
    "compare",
    "greedy_path",
    "inert_knobs",
    "mean_difference",
    "paired_difference",
    "pareto_front",
    "parse_policy",
    "recommend",
    "recommend_reset",
    "throughput_difference",
]
