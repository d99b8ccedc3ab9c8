"""Judge every case and write docs/coverage.md: `make coverage`. Exit code 1 where a class is not right."""

import argparse
import logging
import sys
import warnings
from collections import defaultdict
from pathlib import Path

import torch
from cases import all_cases, without_a_meaning
from judge import Verdict, judge
from rich.console import Console
from rich.progress import track

import nncompile
from nncompile_runtime.machine import this_machine


def main() -> int:
    """Run all cases, or those of the classes named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", help="classes; all of them without any")
    parser.add_argument("-o", "--output", type=Path, help="where to write the table")
    parser.add_argument(
        "--every", type=int, default=1, help="take every Nth case of a class, the first included"
    )
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.filterwarnings("ignore")
    by_kind = defaultdict(list)
    for case in all_cases():
        by_kind[case.kind].append(case)
    chosen = options.kinds or list(by_kind)
    cases = [case for kind in chosen for case in by_kind[kind][:: options.every]]
    console = Console(stderr=True)
    verdicts = defaultdict(list)
    for case in track(cases, "coverage", console=console, disable=not console.is_terminal):
        verdict = _judge(case)
        verdicts[case.kind].append(verdict)
        if verdict.outcome == "error":
            print(f"{case.kind} ({case.label}): {verdict.message}", file=sys.stderr, flush=True)
    text = _table(verdicts, options.every)
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    else:
        print(text)
    return int(any(v.outcome == "error" for group in verdicts.values() for v in group))


def _judge(case) -> Verdict:
    try:
        return judge(*case.build())
    except Exception as error:
        return Verdict("error", f"{type(error).__name__}: {error}")


def _table(verdicts, every) -> str:
    machine = this_machine()
    total = sum(map(len, verdicts.values()))
    right = sum(v.outcome != "error" for group in verdicts.values() for v in group)
    lines = [
        "# Coverage of torch.nn",
        "",
        "Written by `make coverage`: every class of `torch.nn`, with every constructor option and input of",
        "PyTorch's module database (`torch.testing._internal.common_modules`) and, for the classes that it",
        "leaves out, of tests/coverage/cases.py; compiled, verified, and compared with eager PyTorch (rtol",
        "1e-3, atol 1e-4). *dynamic* counts the cases whose dimension 0 takes any size; the others keep the",
        "size of their example (an input without a batch, a sequence that is unrolled).",
        "",
        f"{right} of {total} cases are right; {len(verdicts)} classes"
        + (f"; every {every}th case of each." if every > 1 else "."),
        f"torch {torch.__version__}, ONNX Runtime {machine.onnxruntime}, nncompile {nncompile.__version__}.",
        "",
        "| class | cases | right | dynamic | median seconds | first failure |",
        "|:--|--:|--:|--:|--:|:--|",
    ]
    for kind in sorted(verdicts):
        group = verdicts[kind]
        bad = [v for v in group if v.outcome == "error"]
        dynamic = sum(v.outcome == "dynamic" for v in group)
        seconds = sorted(v.seconds for v in group)[len(group) // 2]
        reason = bad[0].message.splitlines()[0][:160].replace("|", "\\|") if bad else ""
        lines.append(
            f"| {kind} | {len(group)} | {len(group) - len(bad)} | {dynamic} | {seconds:.1f} | {reason} |"
        )
    slow = [kind for kind, group in verdicts.items() for v in group if v.slow_path]
    if slow:
        lines += [
            "",
            f"{len(slow)} of these cases ({', '.join(sorted(set(slow)))}): PyTorch's fast path for attention",
            "answers 0 at padded positions, which something then reads; the layers as they are written do",
            "not. Compiling refuses and says so; with the fast path off it is right.",
        ]
    return "\n".join(lines) + "\n\n" + without_a_meaning()


if __name__ == "__main__":
    sys.exit(main())
