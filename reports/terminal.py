"""Predictions and comparisons as text for a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from reports.units import in_bytes, percent, seconds, si, text, usd
from reports.wording import plain
from workloads.dtypes import Precision, told
from workloads.traced_model import TRACED

Format = Callable[[Any], str]
Columns = dict[str, tuple[str, Format]]  # by key: a heading, and how values are shown
SENTENCES = ("why",)  # keys of columns that hold sentences
WRAPPED = (*SENTENCES, "sizes", "assumption", "message", "used")  # columns that wrap on a narrow terminal
LEAST = 24  # minimum characters of such a column
WIDE = 1000  # width where the output is not a terminal
LEFT = (
    *WRAPPED,
    "name",
    "aliases",
    "paper",
    "bar",
)  # keys of columns aligned to the left; right alignment drops spaces behind a bar
ONLY_WHERE = ("encoder_len",)  # keys of columns drawn only where a row has such a size
POINT: Columns = {  # the sizes of a measured step
    "phase": ("phase", text),
    "batch": ("batch", text),
    "kv_len": ("tokens", text),
    "encoder_len": ("encoder's", text),
}
PREDICTION: Columns = {
    "name": ("operator", text),
    "count": ("count", lambda v: text(v) if isinstance(v, int) else plain(v)),  # drafts: an expectation
    "flops": ("FLOP", lambda v: si(v, "FLOP")),
    "bytes": ("bytes", in_bytes),
    "intensity": ("FLOP/B", lambda v: text(None) if v is None else f"{v:.3g}"),
    "compute_s": ("compute", seconds),
    "memory_s": ("memory", seconds),
    "time_s": ("time", seconds),
    "total_s": ("x count", seconds),
    "share": ("share", percent),
    "bound": ("bound", text),
}


def table(rows: Sequence[dict[str, Any]], columns: Columns, title: str = "") -> str:
    """Records as an aligned table; `columns` maps keys to a heading and a formatter.

    Names, in the first column, sentences and bars are aligned to the left. Nothing is cut: what a terminal
    has no place for goes on in its next line.
    """
    from rich import box
    from rich.cells import cell_len
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    columns = {
        key: how for key, how in columns.items() if key not in ONLY_WHERE or any(row.get(key) for row in rows)
    }
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    cells = [[fmt(row.get(key)) for key, (_, fmt) in columns.items()] for row in rows]
    for index, (key, (heading, _)) in enumerate(columns.items()):
        left, wraps = index == 0 or key in LEFT, key in WRAPPED
        widest = max(map(cell_len, (heading, *(row[index] for row in cells))))
        drawn.add_column(
            heading,
            justify="left" if left else "right",
            no_wrap=not wraps,
            min_width=min(widest, LEAST) if wraps else widest,
        )
    for row in cells:
        drawn.add_row(*map(escape, row))
    is_terminal = sys.stdout.isatty()
    console = Console(width=None if is_terminal else WIDE, no_color=not is_terminal, highlight=False)
    needed = console.measure(drawn, options=console.options.update(width=WIDE)).minimum
    console.width = max(console.width, needed)
    with console.capture() as capture:
        console.print(drawn)
    return (f"{title}\n" if title else "") + capture.get()  # rich would wrap it to the table's width


def prediction(data: dict[str, Any]) -> str:
    """A prediction (its JSON form) as tables per phase and a summary."""
    parts = []
    for phase in dict.fromkeys(row["phase"] for row in data["operators"]):
        rows = [
            {**row, "total_s": row["count"] * row["time_s"]}
            for row in data["operators"]
            if row["phase"] == phase
        ]
        whole = sum(row["total_s"] for row in rows)
        rows = [{**row, "share": row["total_s"] / whole if whole else 0.0} for row in rows]
        parts.append(table(rows, _columns(rows), f"{phase}: {si(whole, 's')}"))
    return "\n".join([heading(data), *parts, summary(data)])


def _columns(rows: Sequence[dict[str, Any]]) -> Columns:
    """Those of a prediction; whether a time is corrected, where some may be."""
    if not any("corrected" in row for row in rows):
        return PREDICTION
    return {**PREDICTION, "corrected": ("corrected", lambda v: "yes" if v else "no")}


def heading(*points: dict[str, Any]) -> str:
    """The options of a prediction, or those shared by several that differ in sizes."""
    data = points[0]
    dtypes = data["dtypes"]
    phase = "one pass" if data["family"] == TRACED else data["phase"]
    asked = ", ".join([phase, *_sizes(points)])
    shared = [f"{n} {data[f'{name}_parallel']}" for n, name in SHARES if data[f"{name}_parallel"] > 1]
    formats = Precision(
        weights=dtypes["weights"],
        activations=dtypes["activations"],
        kv=dtypes["kv"],
        experts=dtypes["experts"],
        experts_in=dtypes["expert_activations"],
    )
    means = f"; with {' and '.join(data['techniques'])}" if data["techniques"] else ""
    return (
        f"{data['model']} on {', '.join([_devices(data), *shared])}: {asked}, "
        f"{told(formats, dtypes.get('others', ()))}"
        f"{means}; fidelity {data['fidelity']}, convention {data['convention']}\n"
    )


SHARES = (("tp", "tensor"), ("ep", "expert"), ("pp", "pipeline"))


def _devices(data: dict[str, Any]) -> str:
    """The device, their number where several share the model, and their node."""
    many = f"{data['devices']} x " if data["devices"] > 1 else ""
    where = f" in {data['node']}" if data.get("node") else ""
    return f"{many}{data['hardware']}{where}"


def _sizes(points: Sequence[dict[str, Any]]) -> list[str]:
    """The requested sizes, without those in which points differ, which are columns."""
    data = points[0]
    if data["family"] == TRACED:
        return ["its own inputs"]
    names = ["batch", "context" if data["phase"] == "decode" else "prompt"]
    names += ["output"] if data["phase"] == "generate" else []
    sizes = [f"{n} {data[n]}" for n in names if all(point[n] == data[n] for point in points)]
    sizes += [f"{data['steps']} denoising steps"] if data["steps"] is not None else []
    return [*sizes, f"{data['images']} images"] if data["images"] else sizes


def summary(data: dict[str, Any]) -> str:
    """The totals in a few lines."""
    t = data["totals"]
    fits = "fits" if t["fits"] else "DOES NOT FIT"
    passes = data["family"] == TRACED
    each = "" if passes else f"TTFT {si(t['ttft_s'], 's')}   TPOT {si(t['tpot_s'], 's')}   "
    pace = f"{plain(t['tokens_per_s'])} {'passes' if passes else 'tokens'}/s"
    lines = [
        f"time {si(t['time_s'], 's')}   {each}{pace}   MFU {percent(t['mfu'])}   MBU {percent(t['mbu'])}",
        f"memory {si(t['memory_bytes'], 'B')}: weights {si(t['weights_bytes'], 'B')}, "
        f"KV cache {si(t['kv_cache_bytes'], 'B')}, activations {si(t['activation_peak_bytes'], 'B')}; {fits}",
    ]
    if t["energy_j"] is not None and "energy_by" in data:
        lines.append(f"energy {si(t['energy_j'], 'J')}: {data['energy_by']}")
    if "usd_per_million_tokens" in t:
        lines.append(f"cost {usd(t['usd_per_million_tokens'])} USD per million tokens{_of(data)}")
    lines += engine_lines(data["engine"]) if "engine" in data else []
    lines += [f"note: {note}" for note in data["notes"]]
    return "\n".join(lines)


def _of(data: dict[str, Any]) -> str:
    """The tokens counted per second: read or generated ones."""
    return " of prompts" if data["phase"] == "prefill" else " written"


def engine_lines(engine: dict[str, Any]) -> list[str]:
    """Engine overheads, a line per row that takes time with its range, and the source of the constants."""
    rows = [
        f"  {row['name']} ({row['phase']}): {si(row['time_s'], 's')} x {text(row['count'])}, "
        f"{si(row['lower_s'], 's')} to {si(row['upper_s'], 's')}: {row['why']}"
        for row in engine["rows"]
        if row["upper_s"] > 0
    ]
    return [f"engine {engine['told']}", *rows]


SIZES: Columns = {name: (name, text) for name in ("batch", "prompt", "output", "context")}
RATES: Columns = {
    "ttft_s": ("TTFT", seconds),
    "tpot_s": ("TPOT", seconds),
    "tokens_per_s": ("tokens/s", plain),
}
MEMORY: Columns = {"memory_bytes": ("memory", in_bytes)}
ENERGY: Columns = {"energy_j": ("energy", lambda v: si(v, "J"))}
COST: Columns = {"usd_per_million_tokens": ("USD per million tokens", usd)}
SWEEP: Columns = {
    **SIZES,
    **RATES,
    "mfu": ("MFU", percent),
    "mbu": ("MBU", percent),
    **MEMORY,
    "fits": ("fits", lambda v: "yes" if v else "NO"),
    "bound": ("bound by", lambda v: ", ".join(v.values())),
    **COST,
}


def sweep(points: Sequence[dict[str, Any]]) -> str:
    """Several predictions of one model, a line each."""
    rows = [{"bound": _bounds(point), **point, **point["totals"]} for point in points]
    columns = {key: column for key, column in SWEEP.items() if key in rows[0]}
    if len({row["output"] for row in rows}) == 1:
        del columns["output"]
    phases = ", ".join(rows[0]["bound"])
    lines = [f"Bound by: the limit on most of each phase ({phases})."]
    lines += dict.fromkeys(f"engine {point['engine']['told']}" for point in points if "engine" in point)
    lines += dict.fromkeys(f"note: {note}" for point in points for note in point["notes"])
    return heading(*points) + table(rows, columns) + "\n".join(lines) + "\n"


def _bounds(point: dict[str, Any]) -> dict[str, str]:
    """The limit on most of each phase's time; of the points of a grid it is known."""
    seconds: dict[str, dict[str, float]] = {}
    for row in point.get("operators", ()):
        held = seconds.setdefault(row["phase"], {})
        held[row["bound"]] = held.get(row["bound"], 0.0) + row["count"] * row["time_s"]
    return {phase: max(held, key=lambda bound: held[bound]) for phase, held in seconds.items()}


LEDGER: Columns = {
    "operator": ("operator", text),
    "tensor": ("tensor", text),
    "role": ("role", text),
    "elements": ("elements", si),
    "bytes_per_element": ("B each", lambda v: text(None) if v is None else f"{v:.4g}"),
    "bytes": ("bytes", in_bytes),
    "count": ("count", lambda v: f"{v:g}"),
    "total_bytes": ("x count", in_bytes),
    "assumption": ("because", text),
}


def ledger(data: dict[str, Any]) -> str:
    """The byte ledger (JSON form): a line per tensor, sums, and assumptions per kind of operator."""
    parts = [heading(data)]
    for phase in dict.fromkeys(row["phase"] for row in data["ledger"]):
        parts.append(table([row for row in data["ledger"] if row["phase"] == phase], LEDGER, phase))
    sums = dict(data["totals"])
    whole = sums.pop("bytes")
    by_role = ", ".join(f"{role} {si(size, 'B')}" for role, size in sums.items() if size)
    parts.append(f"memory traffic {whole:,.0f} B: {by_role}")
    parts += [f"{kind}: {formula}" for kind, formula in data["formulas"].items()]
    return "\n".join(parts) + "\n"
