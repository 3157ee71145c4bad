"""Everything that the command line does, as typed Python calls."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from petlas.errors import UserError
from petlas.search.config import RunConfig
from petlas.search.reports.picture import check_picture
from petlas.search.results import RetrainResult, SearchesStopped, SearchResult
from petlas.search.run_folder import check_distinct, check_same, opened
from petlas.search.run_log import printing
from petlas.search.runners import check_address, check_resources, check_together, check_trackers, starting
from petlas.search.study import StudyRecord
from petlas.search.waiting import never_silent

if TYPE_CHECKING:
    from petlas.datasets import ValueRange
    from petlas.petl import Exported
    from petlas.search.attention import Attention
    from petlas.search.evaluate import Evaluation
    from petlas.search.plan import Plan
    from petlas.search.predict import Images, Prediction
    from petlas.search.reports.study_report import StudyReport
    from petlas.search.retraining import Outcome
    from petlas.search.sensitivity import SensitivityReport
    from petlas.search.tsne import Plane

log = logging.getLogger("petlas")


def search(configs: Sequence[RunConfig], report: bool = False) -> list[SearchResult]:
    """Run or resume the search of each configuration, all of them at once.

    Args:
        configs: The runs, as `petlas.search.load_configs` reads them.
        report: Whether `report.html` in each run folder is written anew behind every stage.

    Raises:
        UserError: When a configuration, its data, its backbone or the machine is at fault; with several runs, only
            where that is found before the first of them starts.
        SearchesStopped: When some of several runs stopped before their end; the others came to theirs.
    """
    check_distinct(configs)
    for config in configs:
        check_trackers(config)
        check_address(config)
        check_same(config)
    with printing(), never_silent(), starting(configs) as start:
        for config in configs:
            log.info("searching %s in %s", config.task.name, config.folder)
        from petlas.search.driver import search_together  # in the meantime: it takes seconds, too

        found = search_together(configs, start, _refresh if report else lambda config: None)
    results = [
        SearchResult(config.folder, study(config).best if each.best else None, each.error)
        for config, each in zip(configs, found, strict=True)
    ]
    errors = [each.error for each in found if each.error is not None]
    if errors and len(configs) == 1:
        raise errors[0]
    if errors:
        raise SearchesStopped(results)
    return results


def _refresh(config: RunConfig) -> None:
    """Write a run's page anew; a search does not end because its page cannot be written."""
    from petlas.search.reports.page import write_page

    try:
        write_page([str(config.folder)])
    except UserError as error:
        log.warning("%s", error)


def study(config: RunConfig) -> StudyReport:
    """The trials of a run, the chosen one, and what was made of them.

    Args:
        config: The run's, as `petlas.search.find_run` finds it.

    Raises:
        UserError: When the run has no study.
    """
    from petlas.search.reports.study_report import StudyReport

    return StudyReport.of(StudyRecord.read(config.folder, config.storage))


def retrain(
    config: RunConfig,
    trial: int | None = None,
    design: Path | None = None,
    seeds: int | None = None,
    baselines: bool = False,
    together: bool = False,
    distil: bool = False,
) -> RetrainResult:
    """Retrain a candidate on train+val, test it once, and write its adapter file.

    Args:
        config: The run's, as `petlas.search.find_run` finds it.
        trial: The number of a trial to retrain instead of the best one.
        design: The YAML file of a design to retrain instead.
        seeds: How many seeds; `protocol.retrain_seeds` by default.
        baselines: Whether the baselines are retrained too, to compare.
        together: Whether the seeds are tested together, too, as an ensemble and with the average of their weights.
        distil: Whether one more model is trained, which the seeds teach, and tested.

    Raises:
        UserError: When there is nothing to retrain, or the data is at fault.
        RuntimeError: When a training diverges.
    """
    check_address(config)
    from petlas.search.retraining import choose, retrain_with_baselines
    from petlas.search.retraining import retrain as retrain_one

    count = seeds or config.protocol.retrain_seeds
    others: list[Outcome] = []
    with printing(), never_silent():
        candidate, val = choose(config, trial, design)
        log.info("retraining %s in %s, with %d seed%s", candidate, config.folder, count, "" if count == 1 else "s")
        if baselines:
            outcome, others = retrain_with_baselines(config, candidate, count, val, together=together, distil=distil)
        else:
            outcome = retrain_one(config, candidate, count, val, together=together, distil=distil)
    return RetrainResult(outcome, config.folder / "best" / "adapter.safetensors", tuple(others))


def score(configs: Sequence[RunConfig]) -> list[SensitivityReport]:
    """Measure how sensitive the loss of each run is to each weight, and give budgets to the most sensitive ones.

    Args:
        configs: The runs.

    Raises:
        UserError: When a configuration, its data or its backbone is at fault.
    """
    check_distinct(configs)
    check_together(configs)
    for config in configs:
        check_address(config)
        check_same(config)
    with ExitStack() as stack:
        stack.enter_context(printing())
        stack.enter_context(never_silent())
        for config in configs:
            log.info("measuring the sensitivity of %s in %s", config.task.name, config.folder)
        from petlas.search.stages.costs import costs_of_cluster
        from petlas.search.stages.doing import do_stages
        from petlas.search.stages.sensitivity import SensitivityStage
        from petlas.search.workbench import Workbench

        benches = [Workbench(config) for config in configs]
        costs_of_cluster([bench for bench in benches if bench.counts_costs])
        for bench in benches:
            check_resources(bench.config)
            bench.check()
        for config in configs:
            stack.enter_context(opened(config))
        stages = [SensitivityStage(bench) for bench in benches]
        for stage in stages:
            stage.all_threads = True
        do_stages(stages, jobs=len(stages))
    return [found for stage in stages if (found := stage.found) is not None]


def predict(
    adapter: str | Path, images: Images, checkpoint: str | None = None, value_range: ValueRange | None = None
) -> list[Prediction]:
    """Label images with an adapter file.

    Args:
        adapter: The adapter file.
        images: A file, a folder, a PIL image, an array of one (H, W[, 3]) or several in uint8, or an iterable of these;
            or a loader of normalised batches (B, 3, S, S), with targets behind them or without.
        checkpoint: The backbone's weights, where the adapter file does not know them or they were moved.
        value_range: What is black and white in images of more than 8 bits, where that is not as it was in training.

    Raises:
        UserError: When the adapter file or an image is at fault.
    """
    from petlas.search.predict import predict as predict_files

    return predict_files(Path(adapter), images, checkpoint, value_range)


def evaluate(
    adapter: str | Path,
    task: str | Images,
    root: str | Path | None = None,
    view: str = "test",
    split_seed: int = 0,
    checkpoint: str | None = None,
    labels: Sequence[Any] | None = None,
    value_range: ValueRange | None = None,
) -> Evaluation:
    """Measure an adapter on a task with the same classes: metrics, class by class, confusion and calibration.

    Args:
        adapter: The adapter file.
        task: The task's name or folder. Or images in any form that `predict` takes, with `labels`; or pairs of images
            and labels, as a loader of normalised batches and targets gives them.
        root: The folder that holds the task's data.
        view: Which part of it; by default the test images are read.
        split_seed: Of the val or test that is set aside where the data has none.
        checkpoint: The backbone's weights, where the adapter file does not know them or they were moved.
        labels: Of images that are given: the name of each one's class, or its number as the adapter counts them; where
            an image can be of several classes a list of names, or a row of yes and no.
        value_range: What is black and white in images of more than 8 bits, where that is not as it was in training.

    Raises:
        UserError: When the adapter, the task, an image or a label is at fault, or the classes are not the same.
    """
    from petlas.search.evaluate import evaluate as evaluate_one

    folder = None if root is None else Path(root)
    return evaluate_one(Path(adapter), task, folder, view, split_seed, checkpoint, labels, value_range)


def attention(
    adapter: str | Path,
    image: str | Path,
    out: str | Path | None = None,
    block: int = -1,
    checkpoint: str | None = None,
) -> Attention:
    """What the output attends to in an image, with the design and without: roll-out, and each head of one block.

    Args:
        adapter: The adapter file.
        image: The image's file.
        out: A PNG to write; none by default.
        block: The block whose heads are told; negative from the end.
        checkpoint: The backbone's weights, where the adapter file does not know them or they were moved.

    Raises:
        UserError: When the adapter or the image is at fault, or the backbone does not attend among all tokens.
    """
    if out is not None:
        check_picture(Path(out))
    from petlas.search.attention import attention as attention_of

    found = attention_of(Path(adapter), Path(image), block, checkpoint)
    if out is not None:
        from petlas.search.reports.attention import write_attention

        write_attention(found, Path(out))
    return found


def tsne(
    adapter: str | Path,
    task: str,
    out: str | Path | None = None,
    root: str | Path | None = None,
    view: str = "test",
    images: int = 1000,
    seed: int = 0,
    checkpoint: str | None = None,
) -> Plane:
    """Lay the features of a task's images out in the plane by t-SNE, of the backbone alone and with the design.

    Args:
        adapter: The adapter file.
        task: The task's name or folder.
        out: A PNG to write; none by default.
        root: The folder that holds the task's data.
        view: Which part of it; by default the test images are read.
        images: At most how many, with classes as even as can be.
        seed: Of what is chosen, and of t-SNE.
        checkpoint: The backbone's weights, where the adapter file does not know them or they were moved.

    Raises:
        UserError: When the adapter or the task is at fault.
    """
    if out is not None:
        check_picture(Path(out))
    from petlas.search.tsne import tsne as tsne_of

    found = tsne_of(Path(adapter), task, None if root is None else Path(root), view, images, seed, checkpoint)
    if out is not None:
        from petlas.search.reports.tsne import write_tsne

        write_tsne(found, Path(out))
    return found


def export(
    adapter: str | Path,
    to: str,
    out: str | Path,
    task: str | None = None,
    root: str | Path | None = None,
    checkpoint: str | None = None,
    push: str | None = None,
) -> Exported:
    """Write an adapter in a form that others load, and prove that it computes the same.

    Args:
        adapter: The adapter file.
        to: One of `petlas.petl.EXPORTS`.
        out: The new file or folder.
        task: Whose training images are compared; without one, seeded noise is.
        root: The folder that holds the task's data.
        checkpoint: The backbone's weights, where the adapter file does not know them or they were moved.
        push: A repository of the Hugging Face Hub that the export, the adapter file and its model card go to; the token
            is read from HF_TOKEN.

    Raises:
        UserError: When the adapter, the task or the place is at fault, or the design has no such form; or where
            there is no token or the Hub cannot be reached.
        RuntimeError: When the logits differ by more than 1e-4; nothing is then written.
    """
    from petlas.search.export import export as export_one

    hub = None
    if push is not None:
        from petlas.search.hub import Push

        hub = Push(push, Path(adapter))
    with never_silent():
        done = export_one(Path(adapter), to, Path(out), task, None if root is None else Path(root), checkpoint)
        if hub is not None:
            log.info("pushed to %s", hub.upload(done.path))
    return done


def report(runs: Sequence[str | Path], out: str | Path | None = None) -> Path:
    """One self-contained HTML page on one run, or on several to compare them.

    Args:
        runs: Run folders, names in `runs/`, or folders of runs.
        out: The page; by default `report.html` in the run's folder, or beside the runs.

    Raises:
        UserError: When there is no such run, a package is missing, or the page cannot be written.
    """
    from petlas.search.reports.page import write_page

    return write_page([str(run) for run in runs], None if out is None else Path(out))


def plan(config: RunConfig) -> Plan:
    """What a search would cost at most.

    Args:
        config: The run.

    Raises:
        UserError: As the search itself would.
    """
    from petlas.search.plan import plan as plan_one

    with never_silent():
        return plan_one(config)
