"""Language models that see a window. Oracle: a word changed at every place, and the layers written out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from course_lib.models.window import PAD_ID, CausalConvolution, WindowMLP


def models() -> list[WindowMLP | CausalConvolution]:
    torch.manual_seed(0)
    return [
        WindowMLP(9, reach=1, d_model=5),
        WindowMLP(9, reach=4, d_model=5),
        CausalConvolution(9, (1,), kernel=2, d_model=5),
        CausalConvolution(9, (1, 1), kernel=3, d_model=5),
        CausalConvolution(9, (1, 2, 4), kernel=2, d_model=5),
    ]


@pytest.mark.parametrize("model", models(), ids=["mlp 1", "mlp 4", "conv 2", "conv 5", "conv 8"])
def test_a_prediction_sees_exactly_its_reach(model: WindowMLP | CausalConvolution) -> None:
    model = model.double()
    ids = torch.randint(1, 9, (1, 14), generator=torch.Generator().manual_seed(1))
    logits = model(ids)
    assert logits.shape == (1, 14, 9)
    for position in range(14):
        changed = ids.clone()
        changed[0, position] = ids[0, position] % 8 + 1
        moved = (model(changed) != logits).any(dim=2)[0].nonzero().flatten().tolist()
        assert moved == list(range(position, min(14, position + model.reach)))


def test_the_reach_adds_up() -> None:
    assert [model.reach for model in models()] == [1, 4, 2, 5, 8]


def test_the_mlp_is_a_table_look_up_and_two_layers() -> None:
    torch.manual_seed(2)
    model = WindowMLP(6, reach=3, d_model=2, d_hidden=4)
    ids = torch.tensor([[4, 1, 5, 2]])
    seen = torch.tensor([1, 5, 2])
    vectors = torch.cat([model.embedding.weight[word] for word in seen])
    hidden = torch.tanh(model.hidden.weight @ vectors + model.hidden.bias)
    torch.testing.assert_close(model(ids)[0, 3], model.head.weight @ hidden + model.head.bias)
    beginning = model(torch.tensor([[PAD_ID, PAD_ID, 4]]))[0, 2]
    torch.testing.assert_close(model(ids)[0, 0], beginning)


def test_a_convolution_of_dilation_two_skips_every_other_word() -> None:
    torch.manual_seed(3)
    model = CausalConvolution(6, (2,), kernel=2, d_model=3)
    ids = torch.tensor([[1, 2, 3, 4]])
    layer = model.layers[0]
    assert isinstance(layer, nn.Conv1d) and layer.bias is not None
    before, now = layer.weight.unbind(dim=2)
    vectors = model.embedding.weight[ids[0]]
    change = torch.relu(before @ vectors[1] + now @ vectors[3] + layer.bias)
    torch.testing.assert_close(model(ids)[0, 3], model.head(vectors[3] + change))
