"""The model card of a retrained design."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from petlas.petl.design import Design
from petlas.search.config import RunConfig
from petlas.search.objectives import Metric
from petlas.search.reports.provenance import provenance
from petlas.search.reports.text import error_text, points, shown, spread, unit
from petlas.search.selection import Pooled

_CARD = """\
---
{front}
---
# {task}: {backbone} with a design found by petlas

| | |
|---|---|
{facts}

The design was selected on {selection} and retrained on train+val for {epochs} epochs; the test split was {read}, after
that. The adapter file is the first seed's.

```yaml
{design}
```

## Use
```python
from petlas.petl import load_adapter

model = load_adapter("adapter.safetensors")  # checkpoint=... if the backbone's weights are a local file
```
or `petlas predict adapter.safetensors IMAGE...`

## Training
| | |
|---|---|
{training}

## Made with
| | |
|---|---|
{made}
"""

_NAMED = 20
"""Classes that are named."""


def model_card(
    config: RunConfig,
    outcome: Mapping[str, Any],
    classes: Sequence[str],
    metric: Metric,
    *,
    pooled: Pooled | None = None,
    readings: int = 1,
    licence: str | None = None,
) -> str:
    """The card's Markdown, filled from the run.

    Args:
        config: The run's configuration.
        outcome: Of the retraining, as plain data: design, settings, params, val, val_error, believed, test_mean,
            test_std, seeds.
        classes: Their names.
        metric: What val and test are values of.
        pooled: The value over all folds, where finalists were compared on them.
        readings: How often the test split was read for this run.
        licence: Of the backbone's weights, as timm names it; None where it is not known.
    """
    seeds, settings, believed = outcome["seeds"], outcome.get("settings") or {}, outcome.get("believed", False)
    test = spread(metric, outcome["test_mean"], outcome["test_std"], len(seeds)) + unit(metric).strip()
    facts = [
        ("backbone", f"`{config.backbone.name}` (frozen)"),
        ("tuned parameters, head excluded", f"{outcome['params']:,}"),
        (
            f"{metric.name} {'believed after the search' if believed else 'on the selection split'}",
            _selected_by(outcome, metric),
        ),
    ]
    if pooled is not None:
        value = metric.format(pooled.value) + error_text(pooled.error, pooled.images)
        facts.append((f"{metric.name} over all folds", value))
    facts.append((f"{metric.name} on test, {len(seeds)} seed(s)", test))
    if settings:
        facts.append(("settings", ", ".join(f"{name} {value:.4g}" for name, value in settings.items())))
    more = f", ... ({len(classes)} in all)" if len(classes) > _NAMED else ""
    facts.append(("classes", ", ".join(map(markdown, classes[:_NAMED])) + more))
    design = dict(outcome["design"]) | ({"settings": dict(settings)} if settings else {})
    return _CARD.format(
        front=_front(config, outcome, metric, licence),
        training=_rows(_training(config, settings)),
        task=markdown(config.task.name),
        backbone=config.backbone.name,
        facts=_rows(facts),
        selection="the validation split" if pooled is None and not believed else "folds of train and val",
        epochs=config.train.epochs,
        read="read once" if readings == 1 else f"read {readings} times for this run",
        design=yaml.safe_dump(design, sort_keys=False).rstrip(),
        made=_rows(_made_with(config, seeds)),
    )


def _selected_by(outcome: Mapping[str, Any], metric: Metric) -> str:
    """The value that it was selected by, and how sure that is."""
    value, error = outcome["val"], outcome.get("val_error")
    if value is None:
        return "not measured"
    sure = [] if error is None else [f"standard error {points(metric, error)}"]
    sure += ["by all trainings on all folds together"] if outcome.get("believed") else []
    return metric.format(value) + (f" ({', '.join(sure)})" if sure else "")


def _front(config: RunConfig, outcome: Mapping[str, Any], metric: Metric, licence: str | None) -> str:
    """What the Hub reads of a card."""
    name = config.backbone.name
    result = {
        "task": {"type": "image-classification"},
        "dataset": {"name": shown(config.task.name), "type": "other", "split": "test"},
        "metrics": [{"type": metric.name, "value": outcome["test_mean"]}],
    }
    front: dict[str, Any] = {
        "license": licence or "other",
        "library_name": "petlas",
        "pipeline_tag": "image-classification",
        "tags": ["petlas", "timm", *Design.from_dict(outcome["design"]).by_method],
        "metrics": [metric.name],
        "model-index": [{"name": shown(f"{config.task.name} on {name}"), "results": [result]}],
    }
    if licence is not None:  # else it is no model of the Hub's that timm knows
        front["base_model"] = f"timm/{name}"
    else:
        front["license_name"] = "that of the weights of the backbone"
    return yaml.safe_dump(front, sort_keys=False, allow_unicode=True).rstrip()


def _training(config: RunConfig, settings: Mapping[str, float]) -> list[tuple[str, str]]:
    """How it was trained: the run's settings, and in their place the candidate's own."""
    known = {name: value for name, value in config.train.model_dump(mode="json").items() if value is not None}
    return [(name, markdown(str(value))) for name, value in (known | dict(settings)).items()]


def _made_with(config: RunConfig, seeds: Sequence[int]) -> list[tuple[str, str]]:
    found = provenance(config)
    return [
        ("versions", ", ".join(f"{package} {number}" for package, number in found["versions"].items())),
        ("command", markdown(found["command"])),
        ("seed of the search", str(config.seed)),
        ("seeds of the retraining", ", ".join(map(str, seeds))),
        ("seed of the split, where val or test was set aside", str(config.task.split_seed)),
    ]


def _rows(facts: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"| {name} | {value} |" for name, value in facts)


def markdown(name: str) -> str:
    """A name as it is, in Markdown: none of its marks is taken for markup."""
    escaped = re.sub(r"([\\`*\[\]<>|&~]|(?<!\w)_|_(?!\w))", r"\\\1", shown(name))
    return re.sub(r"^([#+-])", r"\\\1", escaped)
