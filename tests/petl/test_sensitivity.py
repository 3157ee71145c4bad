import pytest
import torch
import torch.nn.functional as F

from petlas.petl.sensitivity import sensitivities


@pytest.fixture
def case(make, images):
    """A model, two batches and some of its parameters."""
    model = make("plain").double().eval()
    batches = [(images(model, 3, seed).double(), torch.tensor([0, 1, 2])) for seed in (1, 2)]
    paths = [path for path, _ in model.named_parameters() if path.startswith("blocks.")]
    return model, batches, paths


def gradients(model, images, labels, paths):
    parameters = [model.get_parameter(path) for path in paths]
    loss = F.cross_entropy(model(images).float(), labels)
    return torch.autograd.grad(loss, parameters, materialize_grads=True)


def expected(criterion, model, batches, paths):
    if criterion == "fisher":
        batches = [(x[i : i + 1], y[i : i + 1]) for x, y in batches for i in range(len(y))]
    each = [gradients(model, x, y, paths) for x, y in batches]
    if criterion == "taylor":
        sums = [sum(g) for g in zip(*each, strict=True)]
        return [(g * model.get_parameter(path)).abs() for g, path in zip(sums, paths, strict=True)]
    return [sum(part**2 for part in g) for g in zip(*each, strict=True)]


@pytest.mark.parametrize("criterion", ["spt", "taylor", "fisher"])
def test_the_sum_is_that_of_the_definition(case, criterion):
    model, batches, paths = case
    found = sensitivities(model, batches, paths, F.cross_entropy, criterion)
    assert list(found) == paths
    for path, want in zip(paths, expected(criterion, *case), strict=True):
        torch.testing.assert_close(found[path], want)


def test_the_model_is_left_as_it_was(case):
    model, batches, paths = case
    model.head.requires_grad_(False)
    before = {path: (p.detach().clone(), p.requires_grad) for path, p in model.named_parameters()}
    sensitivities(model, batches, paths, F.cross_entropy)
    for path, parameter in model.named_parameters():
        assert torch.equal(parameter, before[path][0]) and parameter.requires_grad == before[path][1]
        assert parameter.grad is None and not parameter._post_accumulate_grad_hooks


def test_no_gradient_is_kept_while_others_are_computed(case, monkeypatch):
    """Peak memory is the model and one number for each entry: a gradient is gone before the next one is summed."""
    from petlas.petl import sensitivity

    model, batches, paths = case
    alive = []
    take_up = sensitivity._take_up

    def watched(total, criterion, parameter):
        alive.append(sum(model.get_parameter(path).grad is not None for path in paths))
        take_up(total, criterion, parameter)

    monkeypatch.setattr(sensitivity, "_take_up", watched)
    sensitivities(model, batches, paths, F.cross_entropy)
    assert set(alive) == {1} and len(alive) == 2 * len(paths)
