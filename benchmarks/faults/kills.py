"""Killed in every stage, by every signal, through Ray and in process: the resumed run is that which was not killed.

python benchmarks/faults/kills.py --out benchmarks/faults/kills.md

A search with a supernet, scores, finalists and folds, and its retraining, is ended in one stage and repeated. Its
trials, its choice and its value on test are held against those of the same search without an interruption. SIGTERM and
Ctrl-C must end with status 130 within ten seconds, in one line and without a traceback, and leave no process behind.
Where the head of its cluster is killed, a command must end with status 2 within a minute, in one line and without a
traceback.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import yaml
from audit import CONFIG, Found, command, result, start, write_data

STAGES = {
    "supernet": ("search", "supernet  epoch 1"),
    "scores": ("search", "scored 50"),
    "finalists": ("search", "COMPLETE finalist"),
    "folds": ("search", "COMPLETE folds"),
    "retraining": ("retrain", ""),
}
_OUTLIVE = 90  # seconds: Ray's two agents of a node look for its GCS for a minute before they end
HEAD = "head killed"
ENDS = {"inline": ("SIGKILL", "SIGTERM", "SIGINT"), "ray": ("SIGKILL", "SIGTERM", "SIGINT", HEAD)}
SETTINGS = CONFIG | {
    "strategy": "supernet",
    "supernet": {"epochs": 3, "warmup_epochs": 0},
    "search": {"scores": 80, "finalists": 3, "baselines": False, "sampler": "evolution", "trials": 3},
}
SETTINGS["protocol"] = CONFIG["protocol"] | {"retrain_seeds": 2}
SETTINGS["search"]["evolution"] = {"population": 20, "parents": 5, "mutations": 10, "crossovers": 10}
SETTINGS["space"] = {"methods": CONFIG["space"]["methods"]}


def fresh(folder: Path, runner: str) -> None:
    """A folder with the data and the configuration."""
    folder.mkdir(parents=True)
    write_data(folder)
    resources = {"runner": runner, "concurrent": 1}
    (folder / "c.yaml").write_text(yaml.safe_dump(SETTINGS | {"resources": resources}))


def end(folder: Path, stage: str, how: str) -> str:
    """Start the command of a stage and end it there; what is wrong with how it ended."""
    what, line = STAGES[stage]
    if what == "retrain":
        command(folder, "search", "c.yaml")
    process = start(folder, *(("search", "c.yaml") if what == "search" else ("retrain", "runs/run")))
    log, until = folder / "runs/run/log.txt", time.monotonic() + 300
    while process.poll() is None and time.monotonic() < until:
        if what == "retrain" and list((folder / "runs/run/checkpoints").glob("*trainval*")):
            break
        if line and log.exists() and line in log.read_text():
            break
        time.sleep(0.02)
    if process.poll() is not None:
        return "it had ended before"
    began = time.monotonic()
    if how == HEAD:
        for child in psutil.Process(process.pid).children(recursive=True):
            if "gcs_server" in child.name():
                child.kill()
    elif how == "SIGINT":
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    else:
        process.send_signal(signal.Signals[how])
    _, said = process.communicate(timeout=120)
    seconds, wrong = time.monotonic() - began, list[str]()
    if how == HEAD:
        wrong = judged(process, said, 2, "head", seconds, 60)
    elif how != "SIGKILL":
        wrong = judged(process, said, 130, "To go on:", seconds, 10)
    clean_up(process.pid, wrong, wait=_OUTLIVE if how in ("SIGKILL", HEAD) else 3)
    return "; ".join(wrong)


def judged(process: subprocess.Popen[str], said: str, status: int, line: str, seconds: float, most: float) -> list[str]:
    """What is wrong with the end of a command that had to stop."""
    wrong = [f"status {process.returncode}"] if process.returncode != status else []
    wrong += [f"{seconds:.0f} s"] if seconds > most else []
    wrong += ["a traceback"] if "Traceback" in said or "***" in said else []
    wrong += ["no line on how to go on"] if line not in said else []
    return wrong


def clean_up(session: int, wrong: list[str], wait: float) -> None:
    """Wait for the processes of a session to end; name those that do not."""
    until = time.monotonic() + wait
    while time.monotonic() < until:
        left = subprocess.run(["pgrep", "-s", str(session)], capture_output=True, text=True, check=False).stdout.split()
        if not left:
            return
        time.sleep(0.2)
    wrong.append(f"{len(left)} processes left")
    for pid in left:
        os.kill(int(pid), signal.SIGKILL)


def main() -> None:
    """Run all and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--runners", nargs="+", default=["inline", "ray"])
    parser.add_argument("--stages", nargs="+", default=[*STAGES], choices=[*STAGES])
    parser.add_argument("--ends", nargs="+", default=[*ENDS["ray"]], choices=[*ENDS["ray"]])
    arguments = parser.parse_args()
    rows, failures = [], 0
    with tempfile.TemporaryDirectory(prefix="kills-") as scratch:
        whole: dict[str, Found] = {}
        for runner in arguments.runners:
            fresh(Path(scratch, runner), runner)
            whole[runner] = result(Path(scratch, runner))
        print("all runners alike:", len({repr(found) for found in whole.values()}) == 1, flush=True)
        for runner, expected in whole.items():
            for stage in arguments.stages:
                for how in (how for how in ENDS[runner] if how in arguments.ends):
                    folder = Path(scratch, f"{runner}-{stage}-{how.replace(' ', '-')}")
                    fresh(folder, runner)
                    wrong = end(folder, stage, how)
                    found = result(folder)
                    same = found == expected
                    failures += bool(wrong) or not same
                    cells = (runner, stage, how, wrong or "as it should", "same" if same else "**differ**")
                    print(*cells, flush=True)
                    rows.append("| " + " | ".join(cells) + " |")
    if arguments.out:
        head = "# Killed in every stage\n\n`python benchmarks/faults/kills.py --out benchmarks/faults/kills.md`\n\n"
        columns = "runner", "stage", "ended by", "how it ended", "trials, choice and test after going on"
        table = f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|\n"
        arguments.out.write_text(head + table + "\n".join(rows) + "\n")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
