"""Techniques as text, JSON and Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, fields
from typing import Any

from reports import terminal
from reports.units import text
from roofline.tables import as_data
from workloads.convention import CONVENTIONS
from workloads.techniques.base import Technique
from workloads.techniques.serving import SERVING, ServingMethod

FACTS = ("level", "category", "paper", "removes", "adds", "needs", "quality")


def record(technique: type[Technique]) -> dict[str, Any]:
    """A technique's description and parameters."""
    return {
        "name": technique.name,
        "aliases": [*technique.aliases, *technique.variants],
        "variants": {name: dict(meant) for name, meant in technique.variants.items()},
        "summary": " ".join((technique.__doc__ or "").split()),
        **{fact: getattr(technique, fact) for fact in FACTS},
        "served": technique.served,
        "decides": "; ".join(technique.decides()),
        "assumes": ", ".join(technique.assumed),
        "counted": technique.counted(CONVENTIONS["fused"]),
        "applied_by": f"--with {technique.name}",
        "parameters": [
            {
                "name": option.name,
                "default": None if option.default is MISSING else option.default,
                "allowed": _allowed(option.metadata),
                "why": option.metadata["why"],
            }
            for option in fields(technique)  # type: ignore[arg-type]
        ],
    }


def serving_record(method: ServingMethod) -> dict[str, Any]:
    """The same for a method of serving, which has no parameters here."""
    return {
        "name": method.name,
        "aliases": list(method.aliases),
        "variants": {},
        "summary": method.summary,
        "level": "system",
        "category": "serving",
        **{fact: getattr(method, fact) for fact in FACTS if hasattr(method, fact)},
        "quality": "exact",
        "served": "",
        "decides": "how requests share an engine",
        "assumes": "",
        "counted": False,
        "applied_by": f"roofline serve {method.option}",
        "parameters": [],
    }


def _allowed(metadata: Any) -> str:
    if metadata["among"]:
        return ", ".join(metadata["among"])
    return "a name" if metadata["low"] is None else f"{metadata['low']:g} to {metadata['high']:g}"


def listing(techniques: Sequence[type[Technique]], format: str) -> str:
    """Every technique and method of serving: name, level, category, quality, paper."""
    records = [*map(record, techniques), *map(serving_record, SERVING)]
    if format != "table":
        return as_data(records, format, nested=("variants", "parameters"))
    columns: terminal.Columns = {
        "name": ("technique", text),
        "level": ("level", text),
        "category": ("category", text),
        "quality": ("output", text),
        "paper": ("paper", text),
    }
    return terminal.table(records, columns) + (
        f"{len(techniques)} techniques, and {len(SERVING)} methods that `roofline serve` applies; "
        "`roofline techniques show NAME`.\n"
    )


def _said(found: dict[str, Any], name: str) -> str:
    """A name with the parameters that it sets."""
    meant = ", ".join(f"{key}={value}" for key, value in found["variants"].get(name, {}).items())
    return f"{name} ({meant})" if meant else name


def book(techniques: Sequence[type[Technique]]) -> str:
    """All techniques as one Markdown document, by level and category."""
    lines = [
        "# Techniques",
        "",
        "`--with` applies techniques, and `roofline whatif` tries all of them. This page is printed by",
        "the command `roofline techniques list --format markdown`.",
        "",
        "**Quality** says what becomes of the output: *exact* leaves it as it is, *lossy* changes it,",
        "*retrained* needs training first. It is a label and not a number, because the loss depends on",
        "the model and the task. **Assumes** names parameters that depend on the data: measure yours,",
        "as gains are shown for the defaults. **Served by** names engines whose documentation lists it.",
        "Techniques that **decide** the same exclude each other.",
    ]
    at: tuple[str, ...] = ()
    for technique in techniques:
        if at != (technique.level, technique.category):
            at = (technique.level, technique.category)
            lines += ["", f"## {at[0].capitalize()} level: {at[1]}"]
        lines += ["", page(technique).replace("# ", "### ", 1).rstrip()]
    lines += ["", "## System level: serving"]
    for method in SERVING:
        lines += ["", serving_page(method).replace("# ", "### ", 1).rstrip()]
    return "\n".join([*lines, ""])


def page(technique: type[Technique]) -> str:
    """One technique as Markdown: the same text in a terminal and in the documentation."""
    found = record(technique)
    lines = [f"# {found['name']}", "", found["summary"], ""]
    lines += [f"- **{fact}**: {found[fact]}" for fact in FACTS]
    if found["served"]:
        lines += [f"- **served by**: {found['served']}"]
    if found["assumes"]:
        lines += [f"- **assumes**: {found['assumes']} (depends on the model and the data: measure yours)"]
    if found["counted"]:
        lines += [f"- **counted**: by default; `--without {found['name']}` leaves it out"]
    lines += [f"- **decides**: {found['decides']} (one technique of a kind)"]
    if found["aliases"]:
        lines += [f"- **also called**: {', '.join(_said(found, name) for name in found['aliases'])}"]
    if found["parameters"]:
        lines += ["", "| parameter | default | allowed | why |", "| --- | --- | --- | --- |"]
        lines += [
            f"| `{p['name']}` | {p['default']} | {p['allowed']} | {p['why']} |" for p in found["parameters"]
        ]
    applied = f"--without {found['name']}" if found["counted"] else f"--with {technique().told()}"
    return "\n".join([*lines, "", f"`roofline predict {technique.example} {applied}`", ""])


def serving_page(method: ServingMethod) -> str:
    """One method of serving as Markdown."""
    found = serving_record(method)
    lines = [f"# {found['name']}", "", found["summary"], ""]
    lines += [f"- **{fact}**: {found[fact]}" for fact in FACTS]
    lines += [f"- **also called**: {', '.join(found['aliases'])}"]
    return "\n".join([*lines, "", f"`roofline serve {method.example}` ([serving](serving.md))", ""])
