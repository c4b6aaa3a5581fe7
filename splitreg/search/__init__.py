"""Search for the Pareto front of accuracy, bytes and device work over cut, bottleneck and rate; needs optuna."""

from splitreg.search.search import SearchOptions, SearchResult, Trial, search
from splitreg.search.space import Range, default_space, parse_dimension

__all__ = ["Range", "SearchOptions", "SearchResult", "Trial", "default_space", "parse_dimension", "search"]
