"""Every row of the table under every law."""

import pytest

from .cases import CASES
from .laws import LAWS

# One process takes all laws of a row, since they share compiled programs.
ROWS = [pytest.param(case, marks=pytest.mark.xdist_group(case.id), id=case.id) for case in CASES]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("case", ROWS)
def test_law(case, law):
    law(case)
