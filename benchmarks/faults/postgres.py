"""Four searches whose studies lie on one PostgreSQL server: one is killed, and another driver takes it over.

python benchmarks/faults/postgres.py --out benchmarks/faults/postgres.md

The server is Debian's, on a loopback port, in a temporary folder (`apt-get install postgresql`; `pip install
'petlas[postgres]'`). Each driver is a `petlas search` in a process and a run folder of its own. A second driver on a
study that is worked on must be refused at once; one that comes after a SIGKILL, in yet another folder as on another
machine, must go on. In the end each study must hold the trials and values of the same search in a folder of its own.
"""

from __future__ import annotations

import argparse
import atexit
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from petlas.search import load_config, search
from petlas.search.study import StorageError, StudyRecord, is_interrupted

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "search" / "study"))

from postgres_server import missing, server

COMMAND = [sys.executable, "-c", "from petlas.search.cli import main; main()", "search"]
NAMES = ("a", "b", "c", "d")
VICTIM, EPOCHS = NAMES[0], 10
"""Whose driver is killed, and how long its trainings are: a second driver starts in the meantime."""
CONFIG: dict[str, Any] = {
    "task": "digits",
    "backbone": {"name": "vit_mini_patch16_64", "img_size": 32},
    "space": {"methods": {"lora": {"blocks": "all", "sizes": [0, 2, 4]}}, "settings": {"lr": [1e-3, 3e-3, 1e-2]}},
    "strategy": "trials",
    "search": {"baselines": False, "sampler": "tpe"},
    "train": {"epochs": 2, "batch_size": 100, "warmup_epochs": 0, "amp": "off"},
    "resources": {"runner": "inline", "gpus": 0},
}


def write_config(folder: Path, name: str, place: str, trials: int, url: str | None) -> Path:
    """The configuration of a search, whose run folder is in `place`."""
    few = CONFIG["search"] | {"trials": trials}
    train = CONFIG["train"] | {"epochs": EPOCHS if name == VICTIM else CONFIG["train"]["epochs"]}
    run = CONFIG | {"name": name, "seed": NAMES.index(name), "search": few, "train": train, "runs": str(folder / place)}
    path = folder / f"{place}-{name}.yaml"
    path.write_text(yaml.safe_dump(run | ({} if url is None else {"storage": url})))
    return path


def start(folder: Path, name: str, place: str, trials: int, url: str) -> subprocess.Popen[str]:
    """A search in a process of its own."""
    command = [*COMMAND, str(write_config(folder, name, place, trials, url))]
    driver = subprocess.Popen(command, cwd=folder, stdout=-1, stderr=subprocess.STDOUT, text=True)
    atexit.register(driver.kill)  # where this script is interrupted
    return driver


def finish(*drivers: subprocess.Popen[str]) -> None:
    """Wait for drivers, which must end well."""
    for driver in drivers:
        told, _ = driver.communicate(timeout=600)
        if driver.returncode:
            raise RuntimeError(f"status {driver.returncode}: {told[-2000:]}")


def trials_of(folder: Path, url: str | None = None) -> list[Any]:
    """The trials of a study; none where there is none."""
    try:
        return StudyRecord.read(folder, url).trials()
    except StorageError:
        return []


def values(trials: list[Any]) -> list[tuple[Any, ...]]:
    """What a study says of the trials that were not cut off, without clocks and numbers."""
    whole = [trial for trial in trials if not is_interrupted(trial)]
    return [(t.user_attrs["key"], t.state.name, t.values, t.intermediate_values) for t in whole]


def scene(folder: Path, url: str, trials: int) -> tuple[list[str], bool]:
    """The four drivers; the lines of the table, and whether all went well."""
    drivers = {name: start(folder, name, "runs", trials, url) for name in NAMES}
    victim, elsewhere = VICTIM, folder / "elsewhere" / VICTIM
    while not any(trial.state.is_finished() for trial in trials_of(folder / "runs" / victim, url)):
        if drivers[victim].poll() is not None:
            raise RuntimeError(f"the driver ended before it was killed: {drivers[victim].communicate()[0]}")
        time.sleep(0.5)
    began = time.monotonic()
    second = start(folder, victim, "elsewhere", trials, url)
    told, _ = second.communicate(timeout=300)
    refused = second.returncode == 2 and "one process at a time" in told
    reason = " ".join(told.split()).replace(str(folder), "...")
    waited = time.monotonic() - began
    drivers.pop(victim).kill()
    print(f"refused: {refused}; {victim} is killed", flush=True)
    known = [trial for trial in values(trials_of(folder / "runs" / victim, url)) if trial[1] != "RUNNING"]
    began = time.monotonic()
    heir = start(folder, victim, "elsewhere", trials, url)
    finish(heir)
    took = time.monotonic() - began
    finish(*drivers.values())
    lines = ["| study | driver | trials | cut off | as in a folder of its own |", "|---|---|---|---|---|"]
    well = refused and len(known) < trials
    search([load_config(str(write_config(folder, name, "alone", trials, None))) for name in NAMES])
    for name in NAMES:
        found, alone = trials_of(folder / "runs" / name, url), values(trials_of(folder / "alone" / name))
        same = values(found) == alone and (name != victim or values(found)[: len(known)] == known)
        well &= same and len(alone) == trials
        whose = f"killed after {len(known)} trials, and taken over" if name == victim else "left alone"
        lines.append(
            f"| {name} | {whose} | {len(alone)} | {len(found) - len(values(found))} | {'yes' if same else '**NO**'} |"
        )
    answer = f"exit {second.returncode} after {waited:.0f} s" if refused else f"**not refused: {second.returncode}**"
    lines += ["", f"A second driver beside the living one: {answer}: `{reason[-260:]}`"]
    lines += ["", f"The one that took over ended {took:.0f} s after its start, in {elsewhere.relative_to(folder)}."]
    return lines, well


def main() -> None:
    """Run it and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=6, help="of each search")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if reason := missing():
        sys.exit(reason)
    os.environ.update(OMP_NUM_THREADS="1", COLUMNS="1000")
    with tempfile.TemporaryDirectory(prefix="postgres-") as scratch, server() as url:
        os.environ["PETLAS_CACHE"] = str(Path(scratch, "cache"))
        lines, well = scene(Path(scratch), url, args.trials)
    said = " ".join(["python benchmarks/faults/postgres.py", *sys.argv[1:]])
    table = "\n".join(["# Four drivers, one PostgreSQL server", "", f"`{said}`", "", *lines, ""])
    print(table)
    if args.out:
        args.out.write_text(table)
    sys.exit(not well)


if __name__ == "__main__":
    main()
