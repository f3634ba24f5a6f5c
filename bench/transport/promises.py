"""What the suite is for, as one table of Markdown: our figure, the peers', and the ratio."""

from collections.abc import Sequence

from .. import specs, table
from ..record import Record
from .problems import options

NEWTON = "sinkhorn_newton"
OTT = ("ott:sinkhorn", "ott:momentum", "ott:lehmann", "ott:anderson")


def promises(records: Sequence[Record]) -> str:
    """The table; lines whose records are missing are left out."""
    book = _Book(records)
    lines = ["| work | nsolve | beside | ratio |", "|---|---:|---|---:|"]
    for name, problem, size in (
        ("random assignment, n = 500", "assignment[eta=1200]", 500),
        ("digits, squared L2", "digits[eta=1200]", 784),
        ("digits, L1", "digits[cost=l1,eta=1200]", 784),
    ):
        lines += book.steps(f"{name}, epsilon 1/1200, steps to 1e-12", problem, size, 1e-12)
        for peers in (OTT, ("pot:log",), ("pot:stabilized",)):
            lines += book.seconds(f"{name}, epsilon 1/1200, to 1e-6", problem, size, 1e-6, peers)
    for problem in ("assignment", "cloud"):
        text = f"{problem}, n = 2000, epsilon 1e-3, to 1e-9"
        lines += book.seconds(text, f"{problem}[eta=1000]", 2000, 1e-9, OTT)
    lines += book.memory() + book.gradients() + book.batches()
    return "\n".join(lines) + "\n"


class _Book:
    """Records by problem, size, tolerance and column."""

    def __init__(self, records: Sequence[Record]):
        self.records = records
        self.rows = {(r["problem"], r["size"], r["rtol"], r["solver"]): r for r in records}

    def steps(self, work: str, problem: str, size: int, rtol: float) -> list[str]:
        ours = self.rows.get((problem, size, rtol, NEWTON))
        if ours is None or not table.succeeded(ours):
            return []
        found = [self.rows.get((problem, size, rtol, name)) for name in OTT]
        solved = [r for r in found if r is not None and table.succeeded(r)]
        parts = [ours[name] for name in ("num_sweeps", "num_newton_steps") if ours.get(name) is not None]
        text = " + ".join(map(str, parts)) or str(ours["num_steps"])
        beside, ratio = "", ""
        if solved:
            least = min(solved, key=lambda r: r["num_steps"])
            beside = f"`{least['solver']}`: {least['num_steps']} sweeps"
            ratio = f"{least['num_steps'] / ours['num_steps']:.1f}"
        return [f"| {work} | {text} | {beside} | {ratio} |"]

    def seconds(self, work: str, problem: str, size: int, rtol: float, peers: Sequence[str]) -> list[str]:
        """Ours beside the fastest of some columns; where none of them got there, beside their limit."""
        ours = self.rows.get((problem, size, rtol, NEWTON))
        found = [r for name in peers if (r := self.rows.get((problem, size, rtol, name))) is not None]
        if ours is None or not table.succeeded(ours) or not found:
            return []
        mine = table.median_seconds(ours) or float("inf")
        solved = [r for r in found if table.succeeded(r)]
        if solved:
            best = min(solved, key=lambda r: table.median_seconds(r) or float("inf"))
            theirs = table.median_seconds(best) or float("inf")
            beside, ratio = f"`{best['solver']}`: {table.seconds(theirs)}", f"{theirs / mine:.1f}"
        elif all(r["result"] == "time_limit" for r in found):
            limit = max(r["limit_s"] for r in found)
            name = peers[0] if len(peers) == 1 else "no mode of ott-jax"
            beside = f"`{name}`: not in {limit:g} s" if len(peers) == 1 else f"{name} in {limit:g} s"
            ratio = f"> {limit / mine:.0f}"
        else:
            reasons = {table.reason(r) for r in found}
            beside, ratio = f"`{peers[0]}`: {', '.join(sorted(reasons))}", ""
        return [f"| {work} | {table.seconds(mine)} | {beside} | {ratio} |"]

    def memory(self) -> list[str]:
        lines = []
        for r in self.records:
            if r.get("memory_bytes") is None or table.library(r) != "nsolve" or not table.succeeded(r):
                continue
            matrix = r["size"] ** 2 * 8 / 2**20
            what = "gradient of" if "gradient" in specs.parse(r["solver"]).mode else "solving"
            mine = r["memory_bytes"] / 2**20
            lines.append(
                f"| {what} {r['size']} points against as many, `{r['solver']}` | {mine:.0f} MiB |"
                f" the matrix alone: {matrix:.0f} MiB | {matrix / mine:.1f} |"
            )
        return lines

    def gradients(self) -> list[str]:
        lines = []
        for r in self.records:
            if r["solver"] != f"{NEWTON}@gradient" or r.get("potential_gradient_error") is None:
                continue
            peer = self.rows.get((r["problem"], r["size"], r["rtol"], "ott:sinkhorn@gradient"))
            has = peer is not None and peer.get("potential_gradient_error") is not None
            for which, name in (("cost", "the cost's"), ("potential", "a potential's")):
                error, seconds = r[f"{which}_gradient_error"], r[f"{which}_gradient_s"]
                beside, ratio = "", ""
                if peer is not None and has:
                    theirs, time = peer[f"{which}_gradient_error"], peer[f"{which}_gradient_s"]
                    beside = f"ott-jax: {table.scientific(theirs)} in {table.seconds(time)}"
                    ratio = f"{time / seconds:.1f}"
                work = (
                    f"{name} gradient, {_label(r)}: error and time ({seconds / r['forward_s']:.2f}x a solve)"
                )
                mine = f"{table.scientific(error)} in {table.seconds(seconds)}"
                lines.append(f"| {work} | {mine} | {beside} | {ratio} |")
        return lines

    def batches(self) -> list[str]:
        lines = []
        for r in self.records:
            if r["solver"] != NEWTON or not r.get("slowest_s"):
                continue
            each = r["solve_s"]["min"] / r["count_of_batch"]
            work = (
                f"{r['count_of_batch']} problems at once, {_label(r)}: seconds of one; {r['solved']} solved"
            )
            beside = f"the slowest alone: {table.seconds(r['slowest_s'])}"
            lines.append(f"| {work} | {table.seconds(each)} | {beside} | {r['slowest_s'] / each:.1f} |")
        return lines


def _label(record: Record) -> str:
    part = specs.parse_part(record["problem"])
    eta = (options(part.name) | part.options)["eta"]
    return f"{part.name}, n = {record['size']}, epsilon 1/{eta}"
