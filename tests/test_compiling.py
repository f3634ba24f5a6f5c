"""The limit on compiling: who exceeds it fails, unless marked."""

import time

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
def test_who_compiles_too_much_fails_unless_marked(pytester, monkeypatch):
    monkeypatch.setattr(compiling, "LIMIT", 0.0)
    monkeypatch.setattr(compiling, "is_crowded", lambda: False)
    pytester.makepyfile(TESTS)
    pytester.makeini("[pytest]\nmarkers =\n    compiles: may compile")
    result = pytester.inline_run("-p", "no:cacheprovider", plugins=[compiling.Compiling()])
    passed, _, failed = result.listoutcomes()
    assert [report.nodeid.split("::")[1] for report in passed] == ["test_none", "test_marked"]
    assert [report.nodeid.split("::")[1] for report in failed] == ["test_too_much", "test_in_a_fixture"]
    assert all("compiled 1 programs" in report.longrepr for report in failed)


def test_waiting_does_not_count():
    """CPU time, and no more than the compilation took."""
    counted = compiling.Compiling()
    counted.listen("/jax/core/compile/jaxpr_to_mlir_module_duration", 0.0)
    time.sleep(0.05)
    counted.listen("/jax/core/compile/backend_compile_duration", 10.0)
    assert counted.seconds < 0.04 and counted.programs == 1
    while time.process_time() - counted.started < 0.02:
        pass
    counted.listen("/jax/core/compile/backend_compile_duration", 1e-3)
    assert counted.seconds < 0.041 and counted.programs == 2
