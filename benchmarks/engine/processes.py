"""Steps per second of one GPU: processes that train one candidate each, beside one process with a pack of as many.

    python benchmarks/engine/processes.py [--count 16] [--seconds 10] [--graphs off auto]

DINOv2's ViT-S at 70 px with random weights, batches of 64, LoRA of rank 8; each with CUDA graphs and without.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from multiprocessing.synchronize import Barrier
from typing import Any

import torch
from packs import ALIKE, ON_GPU, STEPS, Members


def rate(members: Members, alone: bool, seconds: float) -> float:
    """Steps per second, those of each member counted."""
    act = members.one_by_one if alone else members.pack.train_epoch
    for _ in range(3):
        act()
    torch.cuda.synchronize()
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        act()
        done += STEPS * members.count
    torch.cuda.synchronize()
    return done / (time.perf_counter() - start)


def one(graphs: str, seconds: float, ready: Barrier, results: Any) -> None:
    """A process that trains one."""
    torch.set_num_threads(1)
    members = Members(ON_GPU[1], ALIKE, 1, "bf16", graphs)
    members.one_by_one()
    ready.wait()
    results.put(rate(members, True, seconds))


def processes(count: int, graphs: str, seconds: float) -> float:
    """Steps per second of so many at once."""
    context = multiprocessing.get_context("spawn")
    ready, results = context.Barrier(count), context.Queue()
    started = [context.Process(target=one, args=(graphs, seconds, ready, results)) for _ in range(count)]
    for process in started:
        process.start()
    found = [results.get(timeout=120) for _ in started]
    for process in started:
        process.join()
    return sum(found)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--graphs", nargs="*", choices=("off", "auto"), default=["off", "auto"])
    args = parser.parse_args()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}\n")
    print("| what | graphs | steps per second |\n|---|---|---|")
    for graphs in args.graphs:
        print(f"| one process | {graphs} | {processes(1, graphs, args.seconds):.0f} |", flush=True)
        print(f"| {args.count} processes | {graphs} | {processes(args.count, graphs, args.seconds):.0f} |", flush=True)
        members = Members(ON_GPU[1], ALIKE, args.count, "bf16", graphs)
        print(f"| a pack of {args.count} | {graphs} | {rate(members, False, args.seconds):.0f} |", flush=True)


if __name__ == "__main__":
    main()
