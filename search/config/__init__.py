"""The configuration of a run: one strict schema, all faults at once, and the same check for overrides. Torch-free."""

from petlas.search.config.faults import ConfigError, Fault
from petlas.search.config.loading import (
    apply_overrides,
    dump_config,
    find_config,
    load_config,
    load_configs,
    read_yaml,
    space_of,
)
from petlas.search.config.rules import missing_inputs
from petlas.search.config.schema import (
    HEAD,
    LR_FACTOR,
    SETTINGS,
    BackboneConfig,
    BudgetConfig,
    EvolutionConfig,
    ProtocolConfig,
    ResourcesConfig,
    RunConfig,
    SearchConfig,
    SensitivityConfig,
    SupernetConfig,
    TaskConfig,
    TrainConfig,
)

__all__ = [
    "HEAD",
    "LR_FACTOR",
    "SETTINGS",
    "BackboneConfig",
    "BudgetConfig",
    "ConfigError",
    "EvolutionConfig",
    "Fault",
    "ProtocolConfig",
    "ResourcesConfig",
    "RunConfig",
    "SearchConfig",
    "SensitivityConfig",
    "SupernetConfig",
    "TaskConfig",
    "TrainConfig",
    "apply_overrides",
    "dump_config",
    "find_config",
    "load_config",
    "load_configs",
    "missing_inputs",
    "read_yaml",
    "space_of",
]
