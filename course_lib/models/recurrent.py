"""Recurrent networks with their cells written out: RNN, LSTM and GRU.

Axes: b sentences, t tokens, i width of an input, h width of the state.

A recurrent layer reads one token after another and keeps a state of fixed size. Each of the three is a cell
(what happens at one token) and the same loop around it. Oracle: nn.RNN, nn.LSTM and nn.GRU with the same
weights, outputs and gradients.
"""

from __future__ import annotations

import math
from typing import ClassVar, Generic, Self, TypeVar

import torch
from torch import Tensor, nn

LSTMState = tuple[Tensor, Tensor]
State = TypeVar("State", Tensor, LSTMState)


# --- The cells: what was read of the input, and of the last hidden state, become the next state ----


def rnn_cell(from_input: Tensor, from_hidden: Tensor) -> Tensor:
    """The next hidden state of a plain RNN: (b, h), (b, h) → (b, h). Source: Elman 1990."""
    return torch.tanh(from_input + from_hidden)


def lstm_cell(from_input: Tensor, from_hidden: Tensor, cell: Tensor) -> LSTMState:
    """The next (hidden state, cell) of an LSTM: (b, 4h), (b, 4h), (b, h) → (b, h), (b, h).

    The four blocks are input gate, forget gate, candidate and output gate, in PyTorch's order.
    Source: Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000.
    """
    enter, keep, candidate, show = (from_input + from_hidden).chunk(4, dim=-1)  # (b, h) each
    cell = keep.sigmoid() * cell + enter.sigmoid() * candidate.tanh()
    return show.sigmoid() * cell.tanh(), cell


def gru_cell(from_input: Tensor, from_hidden: Tensor, hidden: Tensor) -> Tensor:
    """The next hidden state of a GRU: (b, 3h), (b, 3h), (b, h) → (b, h).

    The three blocks are reset gate, update gate and candidate, in PyTorch's order. The reset gate stands
    behind the matrix product, as in PyTorch. Source: Cho et al. 2014.
    """
    reset_in, update_in, candidate_in = from_input.chunk(3, dim=-1)
    reset_hidden, update_hidden, candidate_hidden = from_hidden.chunk(3, dim=-1)
    reset, update = (reset_in + reset_hidden).sigmoid(), (update_in + update_hidden).sigmoid()
    candidate = torch.tanh(candidate_in + reset * candidate_hidden)
    return (1 - update) * candidate + update * hidden


# --- The layers ---------------------------------------------------------------------------------


class _Recurrent(nn.Module, Generic[State]):
    """The loop over tokens; a subclass says how many blocks its cell has, and what one step does."""

    blocks: ClassVar[int]

    def __init__(self, d_in: int, d_hidden: int) -> None:
        super().__init__()
        self.d_in, self.d_hidden = d_in, d_hidden
        self.read = nn.Linear(d_in, self.blocks * d_hidden)
        self.recall = nn.Linear(d_hidden, self.blocks * d_hidden)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -1 / math.sqrt(d_hidden), 1 / math.sqrt(d_hidden))

    def forward(
        self, inputs: Tensor, state: State | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Read the tokens from left to right: (b, t, i) → outputs (b, t, h) and the last state.

        state: what the layer knows before the first token; zeros when left out. (b, h), and for an LSTM
        the pair (hidden state, cell) of two such tensors.
        mask: boolean (b, t), True where there is a token. Where it is False the state stands still, and
        the output is the hidden state as it was.
        """
        if inputs.dim() != 3 or inputs.shape[2] != self.d_in:
            raise ValueError(f"inputs have shape {tuple(inputs.shape)}; expected (b, t, {self.d_in})")
        if mask is not None and mask.shape != inputs.shape[:2]:
            raise ValueError(f"mask has shape {tuple(mask.shape)}; expected {tuple(inputs.shape[:2])}")
        state = self.empty_state(inputs) if state is None else state
        from_inputs = self.read(inputs)  # One product for all tokens: (b, t, blocks · h)
        outputs = []
        for position, from_input in enumerate(from_inputs.unbind(dim=1)):
            following = self.step(from_input, state)
            state = following if mask is None else self._where(mask[:, position, None], following, state)
            outputs.append(self.hidden_of(state))
        if not outputs:
            return inputs.new_zeros(len(inputs), 0, self.d_hidden), state
        return torch.stack(outputs, dim=1), state

    def empty_state(self, inputs: Tensor) -> State:
        """Zeros, of the batch, dtype and device of `inputs`."""
        raise NotImplementedError

    def step(self, from_input: Tensor, state: State) -> State:
        """One token: what `read` made of it (b, blocks · h), and the state before it → the state after it."""
        raise NotImplementedError

    def hidden_of(self, state: State) -> Tensor:
        """The part of a state that is given out: (b, h)."""
        return state if isinstance(state, Tensor) else state[0]

    @staticmethod
    def _where(is_token: Tensor, following: State, state: State) -> State:
        if isinstance(following, Tensor):
            return torch.where(is_token, following, state)
        return torch.where(is_token, following[0], state[0]), torch.where(is_token, following[1], state[1])

    @classmethod
    def from_torch(cls, theirs: nn.RNNBase) -> Self:
        """This layer with the weights of torch's own: one layer, one direction, with biases.

        Raises ValueError for what has no equal here: more layers, two directions, projections, ReLU.
        """
        plain = theirs.num_layers == 1 and not theirs.bidirectional and theirs.bias
        if not plain or theirs.proj_size or getattr(theirs, "nonlinearity", "tanh") != "tanh":
            raise ValueError(f"{theirs} is more than one layer and direction with biases and tanh")
        ours, weights = cls(theirs.input_size, theirs.hidden_size), theirs.state_dict()
        if weights["weight_ih_l0"].shape != ours.read.weight.shape:
            raise ValueError(f"{theirs} is no {cls.__name__}")
        names = {"read.weight": "weight_ih_l0", "read.bias": "bias_ih_l0"}
        names |= {"recall.weight": "weight_hh_l0", "recall.bias": "bias_hh_l0"}
        ours.to(weights["weight_ih_l0"])
        ours.load_state_dict({name: weights[their] for name, their in names.items()})
        return ours


class RNN(_Recurrent[Tensor]):
    """A plain recurrent layer, hₜ = tanh(W xₜ + U hₜ₋₁ + b). Equal to nn.RNN."""

    blocks = 1

    def empty_state(self, inputs: Tensor) -> Tensor:
        return inputs.new_zeros(len(inputs), self.d_hidden)

    def step(self, from_input: Tensor, state: Tensor) -> Tensor:
        return rnn_cell(from_input, self.recall(state))


class LSTM(_Recurrent[LSTMState]):
    """Long short-term memory: a cell that is kept and added to, behind gates. Equal to nn.LSTM.

    forget_bias: added to the forget gate's bias at the start. With 1 or more the cell keeps what it holds
    until training says otherwise (Gers et al. 2000; Jozefowicz et al. 2015).
    """

    blocks = 4

    def __init__(self, d_in: int, d_hidden: int, forget_bias: float = 0.0) -> None:
        super().__init__(d_in, d_hidden)
        with torch.no_grad():
            self.recall.bias[d_hidden : 2 * d_hidden] += forget_bias

    def empty_state(self, inputs: Tensor) -> LSTMState:
        zeros = inputs.new_zeros(len(inputs), self.d_hidden)
        return zeros, zeros

    def step(self, from_input: Tensor, state: LSTMState) -> LSTMState:
        hidden, cell = state
        return lstm_cell(from_input, self.recall(hidden), cell)


class GRU(_Recurrent[Tensor]):
    """Gated recurrent unit: one gate decides how much of the state is replaced. Equal to nn.GRU."""

    blocks = 3

    def empty_state(self, inputs: Tensor) -> Tensor:
        return inputs.new_zeros(len(inputs), self.d_hidden)

    def step(self, from_input: Tensor, state: Tensor) -> Tensor:
        return gru_cell(from_input, self.recall(state), state)
