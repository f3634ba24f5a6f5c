"""The limit on compiling: who exceeds it is named, unless marked."""

import pytest

from . import compiling

pytest_plugins = "pytester"

TESTS = """
    import jax, jax.numpy as jnp, pytest

    def compile():
        return jax.jit(lambda x: jnp.sin(x) + 3.25)(0.5)

    @pytest.fixture
    def compiled():
        return compile()

    def test_none():
        pass

    def test_too_much():
        compile()

    def test_in_a_fixture(compiled):
        pass

    @pytest.mark.compiles("why")
    def test_marked():
        compile()
"""


@pytest.mark.compiles("the limit below is the limit of this test too")
@pytest.mark.parametrize("fails", [True, False])
def test_who_compiles_too_much_is_named_and_fails_where_asked(pytester, monkeypatch, fails):
    monkeypatch.setattr(compiling, "LIMIT", 0.0)
    pytester.makepyfile(TESTS)
    pytester.makeini("[pytest]\nmarkers =\n    compiles: may compile")
    counted = compiling.Compiling(fails)
    passed, _, failed = pytester.inline_run("-p", "no:cacheprovider", plugins=[counted]).listoutcomes()

    def names(ids):
        return [identity.split("::")[1] for identity in ids]

    assert names(counted.exceeded) == ["test_too_much", "test_in_a_fixture"]
    assert all("compiled 1 programs" in words for words in counted.exceeded.values())
    assert names(report.nodeid for report in failed) == (names(counted.exceeded) if fails else [])
    assert len(passed) + len(failed) == 4


def test_waiting_does_not_count(monkeypatch):
    """CPU time, and no more than the compilation took."""
    clock = iter([1.0, 1.25, 1.5])
    monkeypatch.setattr(compiling.time, "process_time", lambda: next(clock))
    counted = compiling.Compiling(fails=False)
    lowered, compiled = compiling._LOWERED, compiling._COMPILED
    counted.listen(lowered, 0.0)
    counted.listen(compiled, 10.0)  # of which the process computed for a quarter of a second
    assert (counted.seconds, counted.programs) == (0.25, 1)
    counted.listen(compiled, 0.125)  # beside other threads
    assert (counted.seconds, counted.programs) == (0.375, 2)
