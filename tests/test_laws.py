"""Every row of the table under every law."""

import pytest

from .cases import CASES
from .laws import LAWS


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_law(law, case):
    law(case)
