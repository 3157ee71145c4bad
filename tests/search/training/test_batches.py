import numpy as np
import pytest
import torch

from petlas.petl import InputConfig
from petlas.search.training import ImageBatches
from petlas.search.training.batches import on_device

CPU = torch.device("cpu")
INPUTS = InputConfig(2, (0.5, 0.4, 0.3), (0.5, 0.25, 0.2), "bicubic")


def store(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 2, 2), dtype=np.uint8)


def test_batches_are_normalised_as_the_backbone_was_pretrained() -> None:
    images = store(5)
    data = ImageBatches(images, np.arange(5), INPUTS, CPU)
    pixels, labels = data.batch(torch.tensor([3, 0]))
    expected = np.empty((2, 3, 2, 2))
    for row, index in enumerate([3, 0]):
        for channel in range(3):
            value = images[index, channel].astype(np.float64) / 255
            expected[row, channel] = (value - INPUTS.mean[channel]) / INPUTS.std[channel]
    np.testing.assert_allclose(pixels.double().numpy(), expected, rtol=1e-5, atol=1e-6)
    assert labels.tolist() == [3, 0]
    assert len(data) == 5


def test_the_decoded_images_are_shared_not_copied_and_never_written() -> None:
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 2, 2)
    images.setflags(write=False)
    for indices in (None, np.array([1, 0])):
        data = ImageBatches(images, np.zeros(2, int), INPUTS, CPU, indices=indices)
        assert data._images.data_ptr() == images.ctypes.data
        before = images.copy()
        data.batch(slice(0, 2))[0].zero_()
        np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize("pick", [slice(0, 3), slice(2, 9), slice(None), torch.tensor([4, 0, 2])])
def test_indices_pick_from_the_store_what_the_targets_belong_to(pick: torch.Tensor | slice) -> None:
    images, indices, targets = store(9), np.array([8, 1, 5, 0, 3]), np.array([80, 10, 50, 0, 30])
    data = ImageBatches(images, targets, INPUTS, CPU, indices=indices)
    whole = ImageBatches(images[indices], targets, INPUTS, CPU)
    assert len(data) == 5
    for ours, theirs in zip(data.batch(pick), whole.batch(pick), strict=True):
        assert torch.equal(ours, theirs)


def test_iterating_gives_all_in_order_and_several_times() -> None:
    data = ImageBatches(store(9), np.arange(7), INPUTS, CPU, size=3, indices=np.arange(2, 9))
    for _ in range(2):
        assert [labels.tolist() for _, labels in data] == [[0, 1, 2], [3, 4, 5], [6]]


def test_targets_of_several_labels_stay_bools() -> None:
    targets = np.eye(4, 3, dtype=bool)
    _, found = ImageBatches(store(4), targets, INPUTS, CPU).batch(torch.tensor([2, 3]))
    assert found.dtype == torch.bool
    assert found.tolist() == targets[2:].tolist()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_images_indices_and_targets_live_there_and_give_the_same() -> None:
    gpu, images, indices = torch.device("cuda"), store(9), np.array([8, 1, 5])
    kept = on_device(images, gpu)
    data = ImageBatches(kept, np.arange(3), INPUTS, gpu, indices=indices)
    torch.cuda.set_sync_debug_mode("error")  # picking by what lies there must not wait for anything
    try:
        pick = torch.arange(2, device=gpu)
        found = data.batch(pick)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = ImageBatches(images, np.arange(3), INPUTS, CPU, indices=indices).batch(torch.arange(2))
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.device.type == "cuda"
        torch.testing.assert_close(ours.cpu(), theirs)
