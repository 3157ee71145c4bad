"""Run a session's trials one after the other in this process: for notebooks, tests, and machines without Ray."""

from __future__ import annotations

import torch

from petlas.search.samplers import SpaceExhausted
from petlas.search.session import Session
from petlas.search.training import TrainingRun


def run_inline(session: Session) -> None:
    """Run trials until the session is exhausted."""
    threads = torch.get_num_threads()
    torch.set_num_threads(session.config.resources.cpus)
    try:
        while not session.exhausted():
            try:
                trial = session.record.study.ask()
                proposal = session.define(trial)
            except SpaceExhausted:
                break
            result = None
            run = TrainingRun(session.config, proposal.design, session.config.seed)
            while not run.finished:
                result = run.epoch()
                if not session.on_epoch(proposal.number, result):
                    break
            session.on_end(proposal.number, result)
    finally:
        torch.set_num_threads(threads)
