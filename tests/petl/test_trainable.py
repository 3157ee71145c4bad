import pytest

from petlas.petl import DesignError, apply, everywhere, freeze, print_trainable, unfreeze


def trained(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("name", ["lora", "bitfit", "vpt"])
def test_freezing_is_taken_back_whatever_was_set_since(name, make):
    model = make()
    apply(model, everywhere(name, model))
    before = trained(model)
    assert trained(freeze(model)) == set()
    assert trained(unfreeze(model)) == before
    model.requires_grad_(True)
    assert trained(unfreeze(model)) == before


def test_what_is_trained_is_told_by_what_trains_it(make, capsys):
    model = make()
    apply(model, everywhere("lora", model, 8))
    print_trainable(model)
    total = sum(p.numel() for p in model.parameters())
    lora, head = 3 * 2 * 8 * (192 + 192), 192 * 5 + 5
    share = 100 * (lora + head) / total
    assert (
        capsys.readouterr().out == f"trainable: {lora + head:,} of {total:,} parameters ({share:.2f} %): "
        f"head {head:,}, lora {lora:,}\n"
    )
    model.patch_embed.proj.bias.requires_grad_(True)
    print_trainable(model)
    assert "others 192" in capsys.readouterr().out
    print_trainable(freeze(model))
    assert ": nothing" in capsys.readouterr().out


def test_a_model_without_a_design_is_refused(make):
    for call in (print_trainable, freeze, unfreeze):
        with pytest.raises(DesignError, match="carries no design"):
            call(make())
