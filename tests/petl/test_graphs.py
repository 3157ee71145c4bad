import pytest
import torch

from petlas.petl.graphs import forget_graphs, graphs_kept


def test_graphs_are_forgotten_but_where_they_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    resets: list[int] = []
    monkeypatch.setattr(torch.compiler, "reset", lambda: resets.append(1))
    assert torch._dynamo  # a compiler is there
    with graphs_kept():
        forget_graphs()
    assert not resets
    forget_graphs()
    assert resets == [1]
