from petlas.search.stages.losses import Losses


def test_only_losses_without_an_epoch_more_between_them_add_up() -> None:
    losses = Losses()
    assert [losses.lose(), losses.lose()] == [1, 2]
    losses.reach(1)
    assert [losses.lose(), losses.lose()] == [0, 1]
    losses.reach(1)  # where it stood: it was taken up there
    assert losses.lose() == 2
    losses.reach(3)
    assert losses.lose() == 0
