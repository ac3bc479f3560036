"""The page with everything that was measured; a pure function of a run's JSON."""

from typing import Any

from bench.cells import (
    NONE,
    Row,
    by_workload,
    cell,
    disturbed,
    dtypes,
    ms,
    own_cells,
    ratio,
    rounded,
    table,
    threads,
)
from bench.disturbance import TOLERATED
from bench.peers import OPERATIONS, PEERS

__all__ = ["document"]

_INTRODUCTION = """\
# Benchmarks

Made by `{command}` on {date}{duration}; the next run replaces this page.

{machine}. {versions}.

- Every peer computes the same layer on the same numbers in a process of its own. Its answers were compared with
  lcnumba's before anything was timed; building and compiling are not part of the times.
- lcnumba and the peer take turns, so that whatever else the machine does hits both alike. Times are medians with
  quartiles over all turns; ratios are medians over the turns. Figures of different runs do not compare; ratios do.
- `forward` has a bias and no activation. `step` is forward, the derivative by the input, the gradients of kernel and
  bias, and plain SGD: in lcnumba `y, backward = layer.forward(x); dx = backward.step(dy, lr)`.
- Memory of a process includes the interpreter, the framework and the data.
"""

_ROOFLINE = """\
## How close to the machine's limit

The limit is the larger of two times: that of the operation's memory traffic at the rates measured for reading and for
updating buffers of its size, and that of its multiplications and additions at the rate of NumPy's large matrix
products, all with the same threads in the same run. Only connections that exist count. The share is that limit by
the measured time.
"""


def document(results: dict[str, Any]) -> str:
    """Return the page with everything that was measured."""
    about = results["environment"]
    memory = f", {about['memory_gb']} GB of memory free" if about.get("memory_gb") else ""
    machine = f"{about['cpu']}, {about['cores']} cores{memory}, {about['system']}; {threads(about)}"
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    duration = f", in {results['minutes']:.0f} minutes" if "minutes" in results else ""
    introduction = _INTRODUCTION.format(
        command=about["command"], date=about["date"], duration=duration, machine=machine, versions=versions
    )
    parts = [introduction]
    for dtype in dtypes(results["rows"]):
        rows = [row for row in results["rows"] if row["dtype"] == dtype]
        parts += [_ratios(rows, dtype), _efficiencies(rows, dtype, results.get("tile", {})), _details(rows, dtype)]
    parts += [_choices(results["rows"], results.get("auto", {}))]
    parts += [_failures(results["rows"]), _startup(results.get("startup", [])), _memory(results.get("memory", []))]
    parts += [_overhead(results.get("overhead", []))]
    return "\n".join(part for part in parts if part)


def _ratios(rows: list[Row], dtype: str) -> str:
    """How many times as long the peers take, an operation a table."""
    seen = {row["peer"] for row in rows if row["status"] != "missing"}
    peers = [name for name in PEERS if name in seen and name != "own1"]
    if not peers:
        return ""
    text = [f"## Times as long as lcnumba, {dtype}", "", _wins(rows)]
    for operation in OPERATIONS:
        of_operation = by_workload(row for row in rows if row["operation"] == operation)
        head = [operation, "lcnumba, ms", *(PEERS[name].label for name in peers)]
        body = [
            [f"`{workload}`", own_cells(of)[0], *(ratio(of.get(name)) for name in peers)]
            for workload, of in of_operation.items()
        ]
        text += ["", table(head, body)]
    return "\n".join([*text, ""])


def _wins(rows: list[Row]) -> str:
    compared = [row for row in rows if "ratio" in row]
    lost = [row for row in compared if row["ratio"] < 1]
    legend = "Below 1, in bold, the other one is faster"
    if not lost:
        return f"{legend}: in none of {len(compared)} comparisons."
    where = ", ".join(f"{row['workload']} {row['operation']} ({PEERS[row['peer']].label})" for row in lost)
    return f"{legend}, which is so in {len(lost)} of {len(compared)} comparisons: {where}."


def _efficiencies(rows: list[Row], dtype: str, tile: dict[str, float]) -> str:
    own = [row for row in rows if row["peer"] == "own1" and row["status"] == "ok"]
    if not own:
        return ""
    head = ["layer", "operation", "ms", "GFLOP/s", "GB/s", "limit, ms", "bound by", "share"]
    head += ["read, GB/s", "update, GB/s", "products, GFLOP/s"]
    body = [
        [
            f"`{row['workload']}`", row["operation"], ms(row["median"]), rounded(row["gflops"]), rounded(row["gbs"]),
            ms(row["roof"]), row["bound"], f"{row['efficiency']:.0%}",
            *(rounded(row["limits"][limit] / 1e9) for limit in ("read", "update", "gemm")),
        ]
        for row in own
    ]  # fmt: skip
    fastest = f"{tile[dtype] / 1e9:.0f} GFLOP/s, what a register tile reaches on data in L1" if dtype in tile else ""
    bound = f"\nNo product of {dtype} numbers is faster here than {fastest}.\n" if fastest else ""
    title = _ROOFLINE if dtype == "float32" else f"## The same in {dtype}\n"
    return f"{title}{bound}\n{table(head, body)}\n"


def _details(rows: list[Row], dtype: str) -> str:
    head = [
        "layer",
        "operation",
        "who",
        "median, ms",
        "quartiles, ms",
        "calls",
        "GFLOP/s",
        "process, MB",
        "build, s",
        "others",
    ]
    body = [
        [
            f"`{row['workload']}`", row["operation"], PEERS[row["peer"]].label, ms(row["median"]),
            f"{ms(row['low'])} - {ms(row['high'])}", str(row["repeats"]), rounded(row["gflops"]),
            f"{row['peak'] / 1e6:.0f}", f"{row['build']:.1f}", _others(row),
        ]
        for row in sorted(rows, key=lambda row: _order(rows, row))
        if row["status"] == "ok"
    ]  # fmt: skip
    legend = f"Build is everything up to the end of the first call. {_disturbances(rows)}"
    return f"## All times, {dtype}\n\n{legend}\n\n{table(head, body)}\n"


def _order(rows: list[Row], row: Row) -> tuple[int, int, int]:
    workloads = list(dict.fromkeys(row["workload"] for row in rows))
    return workloads.index(row["workload"]), OPERATIONS.index(row["operation"]), list(PEERS).index(row["peer"])


def _disturbances(rows: list[Row]) -> str:
    """Say whether other programs had a hand in the figures."""
    timed = [row for row in rows if row["status"] == "ok"]
    marked = sum(disturbed(row) for row in timed)
    if not marked:
        return f"Other programs never had more than {TOLERATED:.0%} of the processors meanwhile."
    return (
        f"Others is what other programs had of the processors\nmeanwhile: more than {TOLERATED:.0%} in {marked} of "
        f"{len(timed)} rows, in bold, which are not to be trusted."
    )


def _others(row: Row) -> str:
    share = row.get("disturbance")
    if share is None:
        return NONE
    return f"**{share:.0%}**" if disturbed(row) else f"{share:.0%}"


def _choices(rows: list[Row], auto: dict[str, int]) -> str:
    """The implementation that shapes speak for, beside what a step took with each."""
    body = []
    for workload, of in by_workload(row for row in rows if _single_step(row)).items():
        own = {number: of[f"own{number}"] for number in (1, 2, 3) if f"own{number}" in of}
        times = {number: row["median"] for number, row in own.items() if row["status"] == "ok"}
        chosen = auto.get(workload)
        if len(times) > 1 and chosen in times:
            cells = [ms(times[number]) if number in times else NONE for number in (1, 2, 3)]
            body.append([f"`{workload}`", str(chosen), *cells, f"{times[chosen] / min(times.values()):.2f}"])
    if not body:
        return ""
    head = ["layer", "chosen", "step by 1, ms", "by 2, ms", "by 3, ms", "chosen by fastest"]
    return (
        '## What implementation="auto" chooses\n\n'
        "The choice is made by shapes alone; here it is, beside what each implementation took.\n\n"
        f"{table(head, body)}\n"
    )


def _single_step(row: Row) -> bool:
    """Whether a row is a step in the type that the choice is reckoned for."""
    return bool(row["operation"] == "step" and row["dtype"] == "float32")


def _failures(rows: list[Row]) -> str:
    missing = dict.fromkeys(PEERS[row["peer"]].label for row in rows if row["status"] == "missing")
    body = [
        [f"`{row['workload']}`", row["dtype"], row["operation"], PEERS[row["peer"]].label, cell(row["reason"])]
        for row in rows
        if row["status"] not in ("ok", "missing")
    ]
    parts = []
    if missing:
        parts.append(f"Not installed: {', '.join(missing)}.\n")
    if body:
        parts.append(f"{table(['layer', 'type', 'operation', 'who', 'why'], body)}\n")
    return "\n".join(["## What did not run\n", *parts]) if parts else ""


def _startup(rows: list[Row]) -> str:
    if not rows:
        return ""
    body = [
        [PEERS[row["peer"]].label, row["cache"] or NONE, cell(row["reason"]), "", ""]
        if "reason" in row
        else [
            PEERS[row["peer"]].label, row["cache"] or NONE, f"{row['seconds']:.2f}", f"{row['import']:.2f}",
            f"{row['peak'] / 1e6:.0f}",
        ]
        for row in rows
    ]  # fmt: skip
    head = ["who", "cache", "first output, s", "import alone, s", "memory, MB"]
    return (
        "## From nothing to the first output\n\n"
        "A whole process, from its start to the first output of `seed1`; medians. With a cold cache lcnumba compiles\n"
        "its kernels; with a warm one it loads them from disk.\n\n"
        f"{table(head, body)}\n"
    )


def _memory(rows: list[Row]) -> str:
    if not rows:
        return ""
    body = [
        [f"`{row['workload']}`", cell(row["reason"]), "", ""]
        if "reason" in row
        else [f"`{row['workload']}`", *(f"{row[part] / 1e6:.1f}" for part in ("parameters", "activations", "extra"))]
        for row in rows
    ]
    head = ["layer", "kernel and bias, MB", "x, y, dy and dx, MB", "anything else, MB"]
    return (
        "## Memory of a training step\n\nWhat a fused step of lcnumba needs at its peak, in a process that has already "
        "compiled everything.\n\n"
        f"{table(head, body)}\n"
    )


def _overhead(rows: list[Row]) -> str:
    if not rows:
        return ""
    body = []
    for row in rows:
        if "reason" in row:
            body.append([f"`{row['workload']}`", cell(row["reason"]), "", "", ""])
            continue
        for name, label in (("forward", "layer(x)"), ("step", "forward and fused step")):
            call, compiled = (1e6 * seconds for seconds in row[name])
            body.append([f"`{row['workload']}`", label, f"{call:.0f}", f"{compiled:.0f}", f"{call - compiled:.0f}"])
    head = ["layer", "call", "all of it, us", "compiled code alone, us", "the rest, us"]
    return (
        "## What a call costs\n\n"
        "Small layers, one thread: calls in turn with the compiled functions that they run, called with the same\n"
        "arguments.\n\n"
        f"{table(head, body)}\n"
    )
