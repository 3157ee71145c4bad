"""Bad and odd inputs through the commands: what was given, how it ended, and what was said.

python benchmarks/faults/sweep.py --out benchmarks/faults/sweep.md

Every case is run as a user would run it, in a process and a folder of its own. None may end in a traceback, a user's
mistake ends with status 2 and one line that says what to do, and what is only odd works.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from inputs import Case, cases, truncate


def petlas(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """The command, as a user runs it."""
    code = "from petlas.search.cli import main; main()"
    environment = os.environ | {"PETLAS_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", "COLUMNS": "160"}
    environment.pop("PETLAS_DATA", None)
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        errors="backslashreplace",
        check=False,
    )


def run(case: Case, folder: Path) -> tuple[int, str, str]:
    """Status, the telling line, and what is wrong with them."""
    case.make(folder)
    for step in [["search", "c.yaml"]] if case.before else []:
        if (first := petlas(step, folder)).returncode:
            return first.returncode, first.stderr.strip()[-200:], "the command before failed"
    if case.before[:1] == ["retrain"]:
        petlas(["retrain", "run"], folder)
    if case.before[1:] == ["cut"]:
        truncate("runs/run/best/adapter.safetensors")(folder)
    if "torn" in case.given:
        with (folder / "runs/run/study.journal").open("ab") as file:
            file.write(b'{"op_code": 5, "wor')
    found = petlas(case.command, folder)
    said = (found.stderr if found.returncode else found.stderr + found.stdout).strip()
    match = re.search(rf"^.*({case.says}).*$", said, re.MULTILINE)
    wrong = []
    if found.returncode != case.status:
        wrong.append(f"status {found.returncode}, not {case.status}")
    if "Traceback" in said:
        wrong.append("a traceback")
    if not match:
        wrong.append(f"nothing says {case.says!r}")
    last = said.splitlines()[-1] if said else ""
    return found.returncode, (match[0] if match else last).strip(), "; ".join(wrong)


def main() -> None:
    """Run the cases and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", default="", help="cases that have this in their description")
    arguments = parser.parse_args()
    rows, failures = [], 0
    for case in cases():
        if arguments.only not in case.given:
            continue
        with tempfile.TemporaryDirectory(prefix="sweep-") as scratch:
            status, line, wrong = run(case, Path(scratch))
            line = line.replace(scratch, "").replace("|", "\\|")
        failures += bool(wrong)
        print(f"{status:3d}  {case.given:45s} {line[:110]}  {'!! ' + wrong if wrong else ''}", flush=True)
        command = " ".join(case.command).replace("|", "\\|")
        rows.append(f"| {case.given.replace('|', chr(92) + '|')} | `petlas {command}` | {status} | {line[:200]} |")
    print(f"{len(rows)} cases, {failures} not as they should be")
    if arguments.out:
        head = "# Bad and odd inputs\n\n`python benchmarks/faults/sweep.py --out benchmarks/faults/sweep.md`\n\n"
        table = "| given | command | status | what was said |\n|---|---|---|---|\n"
        arguments.out.write_text(
            head + table + "\n".join(rows) + f"\n\n{len(rows)} cases, {failures} not as they should be.\n"
        )
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
