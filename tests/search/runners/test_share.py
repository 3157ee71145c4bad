import pytest

from petlas.search.config import ResourcesConfig
from petlas.search.runners import share as share_module
from petlas.search.runners.share import Footprint, gpus_here, share_of


@pytest.mark.parametrize(("visible", "devices", "gpus"), [("", ["nvidia0"], 0), ("0", ["nvidia0"], 1), ("0", [], 0)])
def test_a_trial_takes_a_gpu_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, visible: str, devices: list[str], gpus: int
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(share_module.Path, "glob", lambda self, pattern: iter(devices))
    monkeypatch.setattr(share_module.Path, "exists", lambda self: False)
    assert gpus_here(ResourcesConfig()) == gpus
    assert gpus_here(ResourcesConfig(gpus=0.5)) == 0.5
    assert gpus_here(ResourcesConfig(gpus=0)) == 0


@pytest.mark.parametrize(
    ("needed", "trials", "share"),
    [(20, 99, 1.0), (5, 99, 0.25), (7, 99, 0.3333), (5, 2, 0.5), (5, 0.5, 1.0), (0, 99, 0.0625), (40, 99, 1.0)],
    ids=["whole", "four", "three", "few CPUs", "less than one CPU", "nothing", "too large"],
)
def test_a_share_is_what_memory_and_cpus_have_room_for(needed: int, trials: float, share: float) -> None:
    assert share_of(Footprint(needed, 24), trials) == share
    assert needed * int(1 / share) <= 24 or share == 1


def test_what_is_not_known_has_a_gpu_to_itself() -> None:
    assert share_of(None, 8) == 1.0
