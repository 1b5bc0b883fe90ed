"""The tables of settings for the pages of those who move in."""

from __future__ import annotations

from recognition.migration.rules import Program


def table(program: Program) -> str:
    """Every setting of a program, and what becomes of it, as Markdown; the dropped ones by their reason."""
    lines = ["| setting | becomes | remark |", "|---|---|---|"]
    lines += [f"| `{name}` | {rule.becomes} | {rule.remark} |" for name, rule in sorted(program.rules.items())]
    reasons: dict[str, list[str]] = {}
    for name, why in sorted(program.dropped.items()):
        reasons.setdefault(why, []).append(f"`{name}`")
    lines += [f"| {', '.join(names)} | dropped | {why} |" for why, names in reasons.items()]
    return "\n".join(lines) + "\n"
