"""Run a session's trials one after the other in this process: for notebooks, tests, and machines without Ray."""

from __future__ import annotations

import logging

import torch

from petlas.search.session import Proposal, Session
from petlas.search.training import EpochResult, TrainingRun


def run_inline(session: Session) -> None:
    """Run trials until the session is exhausted."""
    threads = torch.get_num_threads()
    torch.set_num_threads(session.config.resources.cpus)
    try:
        while not session.exhausted():
            proposal = session.define(session.record.study.ask())
            _run_trial(session, proposal)
    finally:
        torch.set_num_threads(threads)


def _run_trial(session: Session, proposal: Proposal) -> None:
    """One trial to its end; a fault of the design ends this trial alone."""
    run: TrainingRun | None = None
    result: EpochResult | None = None
    while run is None or not run.finished:
        try:
            run = run or TrainingRun(session.config, proposal.design, session.config.seed)
            result = run.epoch()
        except Exception as error:
            logging.getLogger("petlas").debug("trial %d failed", proposal.number, exc_info=True)
            session.on_end(proposal.number, result, f"{type(error).__name__}: {error}")
            return
        if not session.on_epoch(proposal.number, result):
            break
    session.on_end(proposal.number, result)
