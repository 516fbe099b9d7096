"""What a forward refuses is repaired: one small model for each way to refuse."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gradlint.errors import InputError
from gradlint.trace import trace
from gradlint.trace.assertions import compared
from gradlint.trace.leaves import Leaf
from gradlint.trace.omitted import omitted
from gradlint.trace.probe import Prober


class Takes(nn.Module):
    """Has the layers that the class statement names."""

    def __init_subclass__(cls, **layers):
        cls.layers = layers

    def __init__(self):
        super().__init__()
        for name, layer in self.layers.items():
            setattr(self, name, layer())


class Halves(Takes, fc=lambda: nn.Linear(10, 2)):
    def forward(self, left, right):
        return self.fc(torch.cat([left, right], -1))


class Beside(Takes, table=lambda: nn.Embedding(7, 4), fc=lambda: nn.Linear(10, 2)):
    def forward(self, first, label):
        return self.fc(torch.cat([first, self.table(label)], -1))


class Pairs(Takes, conv=lambda: nn.Conv2d(6, 4, 3)):
    def forward(self, before, after):
        return self.conv(torch.cat([before, after], 1))


class Flattens(Takes, conv=lambda: nn.Conv2d(1, 4, 5, 2), fc=lambda: nn.Linear(4 * 9 * 9, 2)):
    def forward(self, x):
        return self.fc(F.max_pool2d(self.conv(x), 2).flatten(1))


class Later(Takes, fc=lambda: nn.Linear(6, 6), conv=lambda: nn.Conv2d(3, 6, 3)):
    def forward(self, x, scale):
        return self.conv(x) * self.fc(scale)[:, :, None, None]


class Frames(Takes, conv=lambda: nn.Conv2d(3, 6, 3)):
    def forward(self, clip):
        b, t, c, h, w = clip.shape
        return self.conv(clip.reshape(b * t, c, h, w)).view(b, t, -1)


class Unpacks(Takes, fc=lambda: nn.Linear(5, 2)):
    def forward(self, pair):
        left, right = pair.unbind(1)
        return self.fc(left - right)


class Permutes(Takes, fc=lambda: nn.Linear(5, 2)):
    def forward(self, x):
        return self.fc(x.permute(0, 3, 1, 2))


class Indexes(Takes, fc=lambda: nn.Linear(5, 2)):
    def forward(self, rows, which):
        return self.fc(rows)[which]


class Gathers(Takes, table=lambda: nn.Embedding(9, 5), fc=lambda: nn.Linear(5, 2)):
    def forward(self, tokens, places):
        x = self.fc(self.table(tokens))
        return x.gather(1, places[:, :, None].expand(-1, -1, x.size(-1)))


class Bounded(Takes, users=lambda: nn.Embedding(900, 5), items=lambda: nn.Embedding(3, 5)):
    def forward(self, a, b):
        return self.users(a) * self.items(b)


class OneHot(Takes, fc=lambda: nn.Linear(5, 2)):
    def forward(self, x):
        return self.fc(F.one_hot(x, 5).float())


class Masks(Takes, fc=lambda: nn.Linear(5, 5)):
    def forward(self, x, keep):
        scores = torch.bmm(self.fc(x), x.mT)
        return scores.masked_fill(~keep[:, None], float("-inf")).softmax(-1) @ x


class Drops(Takes, fc=lambda: nn.Linear(5, 5)):
    def forward(self, x, mask):
        scores = torch.bmm(self.fc(x), x.mT)
        return scores.masked_fill(mask[:, None], float("-inf")).softmax(-1) @ x


class Attends(Takes, attn=lambda: nn.MultiheadAttention(6, 2, batch_first=True)):
    def forward(self, x, memory, memory_mask):
        return self.attn(x, memory, memory, key_padding_mask=memory_mask)[0]


class Steps(Takes, cell=lambda: nn.GRUCell(4, 6)):
    def forward(self, x, before):
        return self.cell(x, before)


class Contracts(Takes, fc=lambda: nn.Linear(5, 2)):
    def forward(self, x, weights):
        return self.fc(torch.einsum("bnd,nm->bmd", x, weights))


class Repeats(Takes, fc=lambda: nn.Linear(8, 2), table=lambda: nn.Embedding(9, 4)):
    def forward(self, query, keys):
        keys = self.table(keys)
        return self.fc(torch.cat([self.table(query).unsqueeze(1).expand(-1, keys.size(1), -1), keys], -1))


class Asserts(Takes, table=lambda: nn.Embedding(9, 4)):
    def forward(self, board):
        assert board.dim() == 3
        assert board.shape[1:] == (6, 7)
        return self.table(board)


class Keywords(Takes, fc=lambda: nn.Linear(5, 2), table=lambda: nn.Embedding(9, 5)):
    def forward(self, x, **options):
        return self.fc(x) * self.table(options["labels"]).mean(-1, keepdim=True)


class Anything(Takes, fc=lambda: nn.Linear(5, 2)):
    def forward(self, *views):
        return self.fc(views[0]) - self.fc(views[1])


class Optional(Takes, fc=lambda: nn.Linear(5, 2), side=lambda: nn.Linear(3, 2)):
    def forward(self, x, side=None):
        return self.fc(x) + self.side(side * 1.0)


class Differentiates(Takes, fc=lambda: nn.Linear(2, 1)):
    def forward(self, x, y):
        x.requires_grad_()
        u = torch.tanh(self.fc(torch.cat([x, y], 1)))
        return torch.autograd.grad(u.sum(), x, create_graph=True)[0]


class Generates(Takes, fc=lambda: nn.Linear(5, 28)):
    def forward(self, task, x):
        weights = self.fc(task)
        return torch.baddbmm(weights[:, 21:].unsqueeze(1), x, weights[:, :21].view(-1, 3, 7))


class Detects(Takes, conv=lambda: nn.Conv2d(3, 4, 3)):
    def forward(self, samples):
        x = self.conv(samples.tensors)
        return x * F.interpolate(samples.mask[None].float(), size=x.shape[-2:])[0][:, None]


class Graph(Takes, fc=lambda: nn.Linear(5, 4)):
    def forward(self, data):
        row, col = data.edge_index
        return torch.zeros(data.x.size(0), 4).index_add(0, col, self.fc(data.x)[row])


CASES = {
    Halves: {"left": (2, 5), "right": (2, 5)},
    Beside: {"first": (2, 6), "label": (2,)},
    Pairs: {"before": (2, 3, 32, 32), "after": (2, 3, 32, 32)},
    Flattens: {"x": (2, 1, 39, 39)},
    Later: {"x": (2, 3, 32, 32), "scale": (2, 6)},
    Frames: {"clip": (2, 4, 3, 32, 32)},
    Unpacks: {"pair": (2, 2, 5)},
    Bounded: {"a": (2, 16), "b": (2, 16)},
    Masks: {"x": (2, 16, 5), "keep": (2, 16)},
    Drops: {"x": (2, 16, 5), "mask": (2, 16)},
    Steps: {"x": (2, 4), "before": (2, 6)},
    Asserts: {"board": (2, 6, 7)},
    Keywords: {"x": (2, 5), "labels": (2,)},
    Anything: {"input_0": (2, 5), "input_1": (2, 5)},
    Optional: {"x": (2, 5), "side": (2, 3)},
    Differentiates: {"x": (2, 1), "y": (2, 1)},
}
ACCEPTED = (Permutes, Indexes, Gathers, OneHot, Attends, Contracts, Repeats, Graph, Generates, Detects)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_shapes(case):
    traced = trace(case)
    assert {spec.name: spec.shape for spec in traced.inputs} == CASES[case]
    assert traced.arguments.origin == "guessed"


@pytest.mark.parametrize("case", ACCEPTED, ids=lambda case: case.__name__)
def test_accepted(case):
    assert trace(case).output


def test_types():
    assert {spec.name: spec.dtype for spec in trace(Gathers).inputs} == {"tokens": "int64", "places": "int64"}
    assert [spec.dtype for spec in trace(OneHot).inputs] == ["int64"]
    assert [spec.dtype for spec in trace(Keywords).inputs] == ["float32", "int64"]


def test_bounds_are_those_of_the_tables():
    bounds = {spec.name: spec.high for spec in trace(Bounded).inputs}
    assert bounds["b"] == 3
    assert bounds["a"] <= 900


@pytest.mark.parametrize("case", [Masks, Drops])
def test_masks_leave_something_to_see(case):
    traced = trace(case)
    with torch.no_grad():
        assert traced.model(*traced.arguments.args).isfinite().all()


def test_a_misspelt_attribute_is_no_field():
    class Typo(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x):
            return self.fc(x.shap)

    with pytest.raises(InputError, match="has no attribute 'shap'"):
        trace(Typo)


class Says(Takes, table=lambda: nn.Embedding(7, 4), boxes=lambda: nn.Linear(4, 4)):
    def forward(self, input_ids=None, unused=None, bbox=None):
        if bbox is None:
            raise ValueError("You have to specify bbox")
        return self.table(input_ids) + self.boxes(bbox.float())


class Reads(Takes, fc=lambda: nn.Linear(5, 4), cond=lambda: nn.Linear(3, 4)):
    def forward(self, x, unused=None, cond=None):
        return self.fc(x) + self._more(cond)

    def _more(self, cond):
        return self.cond(cond.reshape(cond.shape[0], -1))


@pytest.mark.parametrize(("case", "names"), [(Says, ["input_ids", "bbox"]), (Reads, ["x", "cond"])])
def test_arguments_without_which_it_does_not_run(case, names):
    assert [spec.name for spec in trace(case).inputs] == names


def test_what_an_error_is_about():
    def inner(text, given, left):
        if text:
            raise ValueError(text)
        return left.shape, given

    def caught(*args):
        with pytest.raises((ValueError, AttributeError)) as error:
            inner(*args)
        return omitted(error.value, ["given", "left", "other"])

    assert caught("other is needed beside given", 1, 2) == ("other", "given")
    assert caught("", 1, None) == ("left",)
    assert caught("", None, None) == ("left", "given")
    assert caught("others are not", 1, 2) == ()


def test_huge_inputs_are_not_made():
    outcome = Prober(nn.Linear(3, 3), work=1000).run({"input": Leaf((1 << 30, 1 << 20), "float32")})
    assert isinstance(outcome.error, MemoryError)


def test_sides_of_an_assertion():
    size = torch.Size([2, 3])
    with pytest.raises(AssertionError) as caught:
        assert size[1:] == (4,)
    assert compared(caught.value) == (torch.Size([3]), (4,))
    with pytest.raises(AssertionError) as caught:
        assert size is None
    assert compared(caught.value) is None
    assert compared(ValueError()) is None


class Spelt(Takes, conv=lambda: nn.Conv2d(3, 4, 3)):
    def forward(self, pairs):
        if pairs.ndim != 5 or pairs.size(1) != 2:
            raise ValueError("Input must be of shape (batch_size, 2, num_channels, height, width)")
        return self.conv(pairs.flatten(0, 1))


def test_a_shape_that_an_error_spells_out():
    [spec] = trace(Spelt).inputs
    assert (len(spec.shape), spec.shape[1:3]) == (5, (2, 3))


class Patches(Takes, embed=lambda: nn.Conv3d(3, 8, (2, 4, 4), stride=(2, 4, 4))):
    def forward(self, hidden_states, grid_thw):
        x = self.embed(hidden_states.view(-1, 3, 2, 4, 4)).flatten(1)
        return torch.cat([x[:n].mean(0, keepdim=True) + x[n - 1] for n in grid_thw.prod(-1).tolist()])


def test_patches_in_a_row_with_their_grid():
    patches, grid = trace(Patches).inputs
    assert (patches.shape, grid.shape) == ((64, 96), (1, 3))
