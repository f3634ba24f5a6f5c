"""Plans that are fitted to a network: coefficients by gradient, times and orders by search."""

from .coefficients import fit_coefficients as fit_coefficients
from .coefficients import reference_path as reference_path
from .coefficients import tune as tune
from .search import Choice as Choice
from .search import SearchResult as SearchResult
from .search import plan_of_choices as plan_of_choices
from .search import search_plan as search_plan
