"""Numbers and tables as text."""

from __future__ import annotations

from nncompile_runtime.bootstrap import Estimate

NOTHING = "-"


def estimate(value: Estimate, digits: int = 2) -> str:
    """For example `1.83 [1.75, 1.90]`."""
    return f"{value.value:.{digits}f} [{value.low:.{digits}f}, {value.high:.{digits}f}]"


def microseconds(time: float) -> str:
    """Four figures or so: `9.31`, `52.8`, `1,204`."""
    return f"{time:,.{2 if time < 10 else 1 if time < 100 else 0}f}"


def percent(share: float | None) -> str:
    """A share of the attainable speed: `43 %`, `0.52 %`."""
    return (
        NOTHING if share is None else f"{100 * share:.{0 if share >= 0.1 else 1 if share >= 0.01 else 2}f} %"
    )


def markdown_table(columns: list[str], rows: list[list[str]], right: list[bool]) -> str:
    """A Markdown table; `right` says which columns are aligned to the right."""
    lines = [columns, ["---:" if aligned else ":---" for aligned in right], *rows]
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)
