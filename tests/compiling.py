"""What a test spends on compiling: counted, limited, and shown at the end of the log.

Compiling is most of what the suite costs.  A test that spends more than `LIMIT` seconds on it, and is not
marked `@pytest.mark.compiles("why")`, is listed in the log; with `--limit-compiling` it fails.  The seconds
are CPU time of the process, no more than the wall time of each compilation.  Even so they depend on the
machine, and double beside other work, so that no check of a change hangs on them.  Read from a warm cache,
programs cost half.
"""

import os
import time
from collections import Counter, defaultdict

import jax
import pytest

LIMIT = 5.0  # CPU seconds
SLOWEST = 10  # lines of each table

_LOWERED = "/jax/core/compile/jaxpr_to_mlir_module_duration"
_COMPILED = "/jax/core/compile/backend_compile_duration"


def cpu_time() -> float:
    """Of this process and of the children that have ended."""
    return sum(os.times()[:4])


class Compiling:
    """Plugin of pytest; under xdist the workers count and the controller shows."""

    def __init__(self, fails: bool):
        self.fails = fails  # a test above the limit
        self.exceeded: dict[str, str] = {}
        self.seconds, self.programs, self.started = 0.0, 0, 0.0
        self.tests: dict[str, Counter] = defaultdict(Counter)
        jax.monitoring.register_event_duration_secs_listener(self.listen)

    def listen(self, event: str, duration: float, **_) -> None:
        if event == _LOWERED:  # the compilation follows
            self.started = time.process_time()
        elif event == _COMPILED:
            self.seconds += min(time.process_time() - self.started, duration)
            self.programs += 1

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item):
        self.seconds, self.programs = 0.0, 0
        self.reported, self.cpu = (0.0, 0), cpu_time()
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item, call):
        report = yield
        seconds, programs = self.seconds - self.reported[0], self.programs - self.reported[1]
        cpu, self.cpu = cpu_time() - self.cpu, cpu_time()
        self.reported = self.seconds, self.programs
        report.user_properties += [("compile_s", seconds), ("programs", programs), ("cpu_s", cpu)]
        # What fixtures compiled before the call counts.
        excused = item.get_closest_marker("compiles") is not None
        if report.when == "call" and report.passed and self.seconds > LIMIT and not excused:
            exceeded = (
                f"compiled {self.programs} programs in {self.seconds:.1f} s of CPU time, and {LIMIT:.0f} is "
                "the limit: compile less (one jit around helpers, one shape, NumPy for references), or say "
                '@pytest.mark.compiles("why it must")'
            )
            report.user_properties.append(("exceeded", exceeded))
            if self.fails:
                report.outcome, report.longrepr = "failed", exceeded
        return report

    def pytest_runtest_logreport(self, report):
        properties = dict(report.user_properties)
        exceeded = properties.pop("exceeded", None)
        if exceeded is not None:
            self.exceeded[report.nodeid] = exceeded
        self.tests[report.nodeid].update({"wall_s": report.duration, **properties})

    def pytest_terminal_summary(self, terminalreporter):
        if not self.tests:
            return
        write = terminalreporter.write_line
        total = sum(self.tests.values(), Counter())
        terminalreporter.section("what took longest")
        write("   wall s    CPU s  compile s  programs")

        def line(numbers: Counter, name: str) -> None:
            write(
                f"{numbers['wall_s']:9.2f}{numbers['cpu_s']:9.2f}{numbers['compile_s']:11.2f}"
                f"{numbers['programs']:10d}  {name}"
            )

        for name, numbers in sorted(self.tests.items(), key=lambda t: -t[1]["wall_s"])[:SLOWEST]:
            line(numbers, name)
        files: dict[str, Counter] = defaultdict(Counter)
        for name, numbers in self.tests.items():
            files[name.split("::")[0]].update(numbers)
        for name, numbers in sorted(files.items(), key=lambda f: -f[1]["cpu_s"])[:SLOWEST]:
            line(numbers, name)
        line(total, f"all {len(self.tests)} tests")
        for name, exceeded in self.exceeded.items():
            write(f"{name} {exceeded}")
