from __future__ import annotations

from array import array
from pathlib import Path

import pytest
import torch

from selfalign.training import head, lora
from selfalign.training.batches import StepPlan, collate
from selfalign.training.encode import Row
from selfalign.training.module import Finetuning
from selfalign.training.settings import TrainerSettings, Training


@pytest.mark.parametrize("piece", [1, 7 * 11, 7 * 4 + 3, 10**6])
def test_in_pieces_of_any_size_loss_and_gradient_are_those_of_all_logits_at_once(
    piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(head.PIECE, "cpu", piece)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn((11, 5), generator=generator, requires_grad=True)
    weight = 30 * torch.randn((7, 5), generator=generator)
    targets = torch.randint(7, (11,), generator=generator)
    weights = torch.rand(11, generator=generator)
    expected = torch.nn.functional.cross_entropy(hidden @ weight.T, targets, reduction="none")
    (gradient,) = torch.autograd.grad((expected * weights).sum(), hidden)
    found = head.Loss.apply(hidden, weight, targets)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad((found * weights).sum(), hidden)[0], gradient)


def test_no_position_at_all_has_no_loss_and_no_gradient() -> None:
    hidden = torch.zeros((0, 5), requires_grad=True)
    head.Loss.apply(hidden, torch.zeros((7, 5)), torch.zeros(0, dtype=torch.int64)).sum().backward()
    assert hidden.grad is not None and hidden.grad.shape == (0, 5)


def module_of(folder: Path, **training) -> Finetuning:
    settings = Training(dropout=0.0, **training)
    module = Finetuning(Path(), settings, TrainerSettings(), StepPlan([], 1, 1, 0), [], 0)
    module.adopt(lora.add_lora(lora.load_base(folder, TrainerSettings()), settings, TrainerSettings()))
    return module


def losses(module: Finetuning) -> list[float]:
    rows = [Row("a", array("i", [7, 8, 9, 1, 2]), 3), Row("b", array("i", [7, 8, 3, 3]), 3)]
    with torch.no_grad():
        return module.losses(collate(rows, module.training_settings.batching)).tolist()


def test_the_head_is_put_back_and_gives_the_loss_of_the_model(tiny_model: Path) -> None:
    module = module_of(tiny_model)
    own = module.model.get_base_model().get_output_embeddings()
    in_pieces = losses(module)
    assert module.in_pieces and module.model.get_base_model().get_output_embeddings() is own
    module.in_pieces = False
    assert in_pieces == pytest.approx(losses(module), rel=1e-5)


def changed(module: Finetuning, change) -> Finetuning:
    """The module, its model's logits changed by a function."""
    base = module.model.get_base_model()
    forward = base.forward

    def changing(**inputs):
        output = forward(**inputs)
        output.logits = change(output.logits)
        return output

    base.forward = changing
    return module


def test_a_model_that_caps_its_logits_keeps_its_own_head_and_one_that_scales_them_need_not(tiny_model: Path) -> None:
    capped = changed(module_of(tiny_model), torch.tanh)
    scaled = changed(module_of(tiny_model), lambda logits: logits * 0.5)
    for module in (capped, scaled):
        module.check_batching()
    assert (capped.in_pieces, scaled.in_pieces) == (False, True)
    for module in (capped, scaled):
        found = losses(module)
        module.in_pieces = False
        assert found == pytest.approx(losses(module), rel=1e-5)


def test_a_head_that_is_trained_is_the_models_own(tiny_model: Path) -> None:
    assert not module_of(tiny_model, target_modules=["q_proj", "lm_head"]).in_pieces
    assert not module_of(tiny_model, batching="bucket").in_pieces
