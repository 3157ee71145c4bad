"""The model card of a retrained design."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from petlas.search.config import RunConfig

_CARD = """\
# {task}: {backbone} with a design found by petlas

| | |
|---|---|
| backbone | `{backbone}` (frozen) |
| tuned parameters, head excluded | {params:,} |
| accuracy on the selection split | {val} |
| accuracy on test, {seeds} seed(s) | {test} |
| classes | {classes} |

The design was selected on the validation split and retrained on train+val for {epochs} epochs; the test split was read
once, after that. The adapter file is the first seed's.

```yaml
{design}
```

## Use
```python
from petlas.petl import load_adapter

model = load_adapter("adapter.safetensors")  # checkpoint=... if the backbone's weights are a local file
```
or `petlas predict adapter.safetensors IMAGE...`
"""


def model_card(config: RunConfig, outcome: dict[str, Any], classes: Sequence[str]) -> str:
    """The card's Markdown, filled from the run."""
    shown = ", ".join(classes[:20]) + (f", ... ({len(classes)} in all)" if len(classes) > 20 else "")
    spread = f" ± {100 * outcome['test_std']:.1f}" if len(outcome["seeds"]) > 1 else ""
    return _CARD.format(
        task=config.task.name,
        backbone=config.backbone.name,
        params=outcome["params"],
        val="not measured" if outcome["val"] is None else f"{100 * outcome['val']:.1f}%",
        seeds=len(outcome["seeds"]),
        test=f"{100 * outcome['test_mean']:.1f}{spread}%",
        classes=shown,
        epochs=config.train.epochs,
        design=yaml.safe_dump(outcome["design"], sort_keys=False).rstrip(),
    )
