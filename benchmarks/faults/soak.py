"""A soak: workers, raylets, nodes and drivers of small real searches are killed in turns, one after the other.

python benchmarks/faults/soak.py --kills 200 --out benchmarks/faults/soak.md

A Ray cluster on this machine has a head without work and two nodes of one CPU. A driver searches two runs at once, by
the command; when they are done, the next two. A worker is a process that trains; a raylet is what a node's
workers hang on; with a node all its processes go, and a new one comes; a driver that was killed is started again with
the same command. All kills are SIGKILL. One comes as soon as what the last one hit has learned an epoch more, at a
random moment of what follows; every fifth as soon as anything trains, be it that the last one is not yet overcome.

Before each kill the finished trials are noted down, and at the end nothing of them may be missing or changed, no
candidate may have been finished twice, and all searches must have come to the trials and values of the same searches in
one process that nobody disturbs. After Ctrl-C or SIGTERM the table says what was seen until then.
"""

from __future__ import annotations

import argparse
import collections
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from petlas.search import load_config, search
from petlas.search.study import StorageError, StudyRecord, is_interrupted

KINDS = ("worker", "raylet", "node", "driver")
_LATER = 1.5
"""Seconds within which a kill comes when it may."""
_PATIENCE = 180.0
"""Seconds to wait for what the last kill hit to recover, before the next one comes all the same."""
TOGETHER = 2
CONFIG: dict[str, Any] = {
    "task": "digits",
    "backbone": {"name": "vit_mini_patch16_64", "img_size": 32},
    "space": {"methods": {"lora": {"blocks": "all", "sizes": [0, 2, 4]}}, "settings": {"lr": [1e-3, 3e-3, 1e-2]}},
    "strategy": "trials",
    "search": {"baselines": False, "sampler": "random"},
    "train": {"epochs": 4, "batch_size": 100, "warmup_epochs": 0, "amp": "off"},
    "runs": "runs",
}


def write_config(folder: Path, number: int, trials: int, **resources: Any) -> Path:
    """The configuration of a search: each draws other candidates; none is stopped early, so that order is no matter."""
    few = CONFIG["search"] | {"trials": trials, "grace_epochs": CONFIG["train"]["epochs"]}
    run = {"name": f"run{number}", "seed": number, "search": few, "resources": {"gpus": 0} | resources}
    path = folder / f"{run['name']}.yaml"
    path.write_text(yaml.safe_dump(CONFIG | run))
    return path


Finished = dict[str, tuple[str, tuple[float, ...]]]


def finished(folder: Path) -> tuple[Finished, list[str]]:
    """The trials of a run that came to their end: state and values by candidate; and those that did so twice."""
    try:
        record = StudyRecord.read(folder)
    except StorageError:
        return {}, []
    found: Finished = {}
    twice = []
    for trial in record.trials():
        if trial.state.is_finished() and not is_interrupted(trial):
            twice += [trial.user_attrs["key"]] if trial.user_attrs["key"] in found else []
            found[trial.user_attrs["key"]] = trial.state.name, tuple(trial.values or ())
    return found, twice


def reached(folder: Path) -> dict[str, float]:
    """How many epochs the trials of a run have had so far that are not finished, by candidate; infinity of others."""
    try:
        trials = StudyRecord.read(folder).trials()
    except StorageError:
        return {}
    found: dict[str, float] = {}
    for trial in trials:
        done = trial.state.is_finished() and not is_interrupted(trial)
        found[trial.user_attrs["key"]] = math.inf if done else max(trial.intermediate_values, default=0)
    return found


class Lane:
    """A driver that searches runs, two at a time, and is started again when it was killed.

    Args:
        folder: Where configurations and runs lie.
        address: Of the cluster.
        trials: Of each run.
    """

    def __init__(self, folder: Path, address: str, trials: int) -> None:
        self._folder, self._address, self._trials = folder, address, trials
        self.runs, self.starts, self.ended_badly = 0, 0, list[str]()
        self._configs: list[Path] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._killed = False

    def begin(self) -> None:
        """Start the driver of the next runs."""
        resources = {"runner": "ray", "address": self._address}
        numbers = range(self.runs, self.runs + TOGETHER)
        self._configs = [write_config(self._folder, number, self._trials, **resources) for number in numbers]
        self.runs += TOGETHER
        self._start()

    def _start(self) -> None:
        command = [
            sys.executable,
            "-c",
            "from petlas.search.cli import main; main()",
            "search",
            *map(str, self._configs),
        ]
        with (self._folder / "driver.log").open("ab") as told:
            self._process = subprocess.Popen(
                command, cwd=self._folder, stdout=told, stderr=told, start_new_session=True
            )
        self._killed = False
        self.starts += 1

    @property
    def folders(self) -> list[Path]:
        """Of the runs that are searched now."""
        return [self._folder / "runs" / path.stem for path in self._configs]

    def reached(self) -> dict[tuple[str, str], float]:
        """How many epochs its trials had so far that are not finished, by run and candidate; infinity of others."""
        return {(folder.name, key): epochs for folder in self.folders for key, epochs in reached(folder).items()}

    def kill(self) -> bool:
        """End the driver; whether there was one."""
        if self._process is None or self._process.poll() is not None:
            return False
        self._process.kill()
        self._killed = True
        return True

    def look(self) -> bool:
        """Whether its runs are done; a driver that ended before is started again."""
        assert self._process is not None
        status = self._process.poll()
        if status is None or status == 0:
            return status == 0
        if not self._killed:
            self.ended_badly.append(f"{status}: {(self._folder / 'driver.log').read_text()[-2000:]}")
        self._start()
        return False


def heed_signals() -> None:
    """Let SIGTERM be as Ctrl-C is: each node that Ray starts takes it over."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


class Nodes:
    """The cluster: a head without work, and nodes of one CPU.

    Args:
        count: Of the nodes.
    """

    def __init__(self, count: int) -> None:
        import petlas.search.runners.ray  # noqa: F401, I001 (before Ray: what it sets is for these nodes, too)
        from ray.cluster_utils import Cluster

        self._options = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
        self._cluster = Cluster(initialize_head=True, head_node_args=self._options | {"num_cpus": 0})
        self.address: str = self._cluster.address
        heed_signals()
        for _ in range(count):
            self._add()

    def _add(self) -> None:
        self._cluster.add_node(**self._options)
        heed_signals()

    def _pick(self, rng: random.Random) -> Any:
        return rng.choice(sorted(self._cluster.worker_nodes, key=lambda node: str(node.unique_id)))

    @staticmethod
    def _raylet(node: Any) -> psutil.Process:
        return psutil.Process(node.all_processes["raylet"][0].process.pid)

    def kill_worker(self, rng: random.Random) -> bool:
        """End a process that trains; whether there was one."""
        workers = []
        for node in self._cluster.worker_nodes:
            with suppress(psutil.Error):
                workers += [p for p in self._raylet(node).children() if "Trainable" in " ".join(p.cmdline())]
        if not workers:
            return False
        rng.choice(sorted(workers, key=lambda process: process.pid)).kill()
        return True

    def kill_raylet(self, rng: random.Random) -> bool:
        """End what the workers of a node hang on; another node comes."""
        node = self._pick(rng)
        self._raylet(node).kill()
        self._replace(node)
        return True

    def kill_node(self, rng: random.Random) -> bool:
        """End all processes of a node; another one comes."""
        self._replace(self._pick(rng))
        return True

    def _replace(self, node: Any) -> None:
        self._cluster.remove_node(node, allow_graceful=False)
        self._add()

    def close(self) -> None:
        """End what is left."""
        self._cluster.shutdown()


@dataclass
class Tally:
    """What was seen."""

    kills: collections.Counter[str] = field(default_factory=collections.Counter)
    known: dict[str, Finished] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)

    def note(self, folders: Iterable[Path]) -> int:
        """Take note of the finished trials, and of those that were and are not any more; how many there are in all."""
        for folder in folders:
            found, twice = finished(folder)
            for key, value in self.known.get(folder.name, {}).items():
                if found.get(key) != value:
                    self.lost.append(f"{folder.name} {key}")
            self.known[folder.name] = found
            self.doubled += [f"{folder.name} {key}" for key in twice]
        return sum(map(len, self.known.values()))


class Soak:
    """The searches, and what is done to them.

    Args:
        folder: Where configurations and runs lie.
        trials: Of each search.
        seed: Of the moments and of which of several is killed.
    """

    def __init__(self, folder: Path, trials: int, seed: int) -> None:
        self.tally, self.trials, self._rng = Tally(), trials, random.Random(seed)
        self._runs, self._began = folder / "runs", time.monotonic()
        self._hit: dict[tuple[str, str], float] = {}
        self._nodes = Nodes(count=2)
        self.lane = Lane(folder, self._nodes.address, trials)
        self._ways: dict[str, Callable[[random.Random], bool]] = {
            "worker": self._nodes.kill_worker,
            "raylet": self._nodes.kill_raylet,
            "node": self._nodes.kill_node,
            "driver": lambda _: self.lane.kill(),
        }

    def run(self, kills: int, seconds: float) -> None:
        """Kill as many as asked for, or as the time allows, and then let what is left come to its end."""
        self.lane.begin()
        while True:
            count = self.tally.kills.total()
            over = count >= kills or time.monotonic() - self._began > seconds
            if over:
                self._wait(float("inf"), lambda: False)
                break
            if self._wait(_PATIENCE, lambda count=count: self._trains(count % 5 != 4)):  # type: ignore[misc]
                self.tally.note(self.lane.folders)
                self.lane.begin()
                self._hit = {}
            elif not self._wait(self._rng.uniform(0, _LATER), lambda: False):
                self._kill(KINDS[count % len(KINDS)], f"{count + 1}/{kills}")
        self.tally.note(sorted(self._runs.glob("run*")))

    def _trains(self, overcome: bool) -> bool:
        """Whether anything trains, and, if that is asked for, all that the last kill may have hit got further."""
        now = self.lane.reached()
        well = all(now.get(key, 0) > epochs for key, epochs in self._hit.items() if epochs < math.inf)
        return any(epochs < math.inf for epochs in now.values()) and (well or not overcome)

    def _kill(self, kind: str, number: str) -> None:
        known = self.tally.note(self.lane.folders)
        hit = self.lane.reached()
        if self._ways[kind](self._rng):
            self._hit = hit
            self.tally.kills[kind] += 1
            took = time.monotonic() - self._began
            print(f"{took:6.0f} s  {number:>8}  {kind:6}  {known} trials finished", flush=True)

    def _wait(self, seconds: float, enough: Callable[[], bool]) -> bool:
        """Wait so long, or until it is enough, or the lane's runs are done; whether they are."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self.lane.look():
                return True
            if enough():
                return False
            time.sleep(0.1)
        return False

    def close(self) -> None:
        """End what is left."""
        self.lane.kill()
        self._nodes.close()


def undisturbed(folder: Path, number: int, trials: int) -> Finished:
    """What the same search comes to in this process."""
    folder.mkdir(exist_ok=True)
    path = write_config(folder, number, trials, runner="inline")
    config = load_config(str(path), [f"runs={json.dumps(str(folder / 'alone'))}"])
    search([config])
    return finished(config.folder)[0]


def judge(folder: Path, soak: Soak) -> dict[str, int]:
    """How much went wrong, by what it is."""
    wrong = collections.Counter(unended=0, other_values=0)
    for number in range(soak.lane.runs):
        print(f"run{number} of {soak.lane.runs} once more, undisturbed", flush=True)
        found, alone = soak.tally.known.get(f"run{number}", {}), undisturbed(folder / "calm", number, soak.trials)
        failed = {key for key, (state, _) in found.items() if state == "FAIL"}
        wrong["unended"] += len(found) != soak.trials
        for key in sorted(found.keys() - failed):
            if alone.get(key) != found[key]:
                print(f"run{number} {key}: {found[key]}, undisturbed {alone.get(key)}", flush=True)
                wrong["other_values"] += 1
    return dict(wrong)


def seen(soak: Soak) -> dict[str, int]:
    """What went wrong as far as it was seen on the way, by what it is."""
    tally = soak.tally
    failed = sum(state == "FAIL" for found in tally.known.values() for state, _ in found.values())
    badly = len(soak.lane.ended_badly)
    return {"failed": failed, "lost": len(tally.lost), "doubled": len(set(tally.doubled)), "badly": badly}


def table(soak: Soak, wrong: dict[str, int], seconds: float, said: str) -> str:
    """What is committed."""
    tally, lane = soak.tally, soak.lane
    kills, count = tally.kills.total(), sum(map(len, tally.known.values()))
    unknown = "not known: interrupted"
    lines = ["# A soak", "", f"`python benchmarks/faults/soak.py {said}`", ""]
    lines += ["| killed | times |", "|---|---|", *(f"| {kind} | {tally.kills[kind]} |" for kind in KINDS)]
    lines += [f"| all | {kills} |", "", "| what came of it | |", "|---|---|", f"| searches begun | {lane.runs} |"]
    lines += [f"| searches that did not come to their end | {wrong.get('unended', unknown)} |"]
    lines += [f"| trials finished | {count} |", f"| of them lost again or changed | {wrong['lost']} |"]
    lines += [f"| candidates finished twice | {wrong['doubled']} |"]
    lines += [f"| trials with other values than in a search without kills | {wrong.get('other_values', unknown)} |"]
    lines += [f"| trials held to be at fault because their workers were killed | {wrong['failed']} |"]
    lines += [f"| starts of drivers | {lane.starts} |", f"| of them ended before their time | {wrong['badly']} |"]
    lines += [f"| minutes | {seconds / 60:.0f} |", f"| seconds for each kill | {seconds / max(kills, 1):.1f} |"]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="after them nothing more is killed")
    parser.add_argument("--trials", type=int, default=16, help="of each search")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", COLUMNS="200")
    with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as scratch:
        folder, began = Path(scratch), time.monotonic()
        os.environ["PETLAS_CACHE"] = str(folder / "cache")
        soak, compared = Soak(folder, args.trials, args.seed), dict[str, int]()
        try:
            soak.run(args.kills, args.seconds)
            took = time.monotonic() - began
            soak.close()
            compared = judge(folder, soak)
        except KeyboardInterrupt:
            took = time.monotonic() - began
        finally:
            soak.close()
        for told in (*soak.tally.lost, *sorted(set(soak.tally.doubled)), *soak.lane.ended_badly):
            print(told)
        wrong = seen(soak) | compared
        found = table(soak, wrong, took, " ".join(arg for arg in sys.argv[1:] if arg))
        print(found)
        if args.out:
            args.out.write_text(found)
    sys.exit(not compared or any(wrong.values()))


if __name__ == "__main__":
    heed_signals()
    main()
