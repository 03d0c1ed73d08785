"""Positions inside attention: what a query adds to a key's score depends on how far apart they stand.

With fewer queries than keys, the queries are the last positions: query i stands at k - q + i.

Axes: b batch, h heads, q query positions, k key positions, d width of one head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from course_lib.layers.multi_head import explicit_weights, fused_heads, merge_heads, split_heads
from course_lib.layers.positions import frequencies


def relative_positions(n_query: int, n_key: int, device: torch.device | str | None = None) -> Tensor:
    """Key's position minus query's, (q, k): negative for keys that came before.

    >>> relative_positions(2, 3).tolist()
    [[-1, 0, 1], [-2, -1, 0]]
    """
    query_position = torch.arange(n_key - n_query, n_key, device=device)[:, None]
    return torch.arange(n_key, device=device)[None, :] - query_position


# --- T5: one learned number a head and bucket of distances ----------------------------------------------


def relative_bucket(
    relative_position: Tensor,
    num_buckets: int = 32,
    max_distance: int = 128,
    bidirectional: bool = True,
) -> Tensor:
    """The bucket of each relative position (key minus query), integers of the same shape.

    Half of the buckets hold one distance each; the others grow like a logarithm up to max_distance, and the
    last one takes all beyond (Raffel et al. 2020, §2.1). bidirectional: the upper half of all buckets is for
    keys after the query; otherwise such keys share bucket 0.
    Oracle: `transformers`' T5. Raises ValueError for an odd number of buckets where both directions are asked
    for, for fewer than 2 a direction, and for a max_distance within the buckets of one distance each.

    >>> relative_bucket(torch.tensor([-200, -20, -9, -1, 0, 1])).tolist()
    [15, 10, 8, 1, 0, 17]
    """
    if bidirectional and num_buckets % 2:
        raise ValueError(f"num_buckets={num_buckets} is odd; both directions need the same number")
    own = num_buckets // 2 if bidirectional else num_buckets
    exact = own // 2
    if exact < 1 or max_distance <= exact:
        raise ValueError(
            f"{own} buckets a direction, {exact} of them for one distance each, and max_distance="
            f"{max_distance}; expected at least 2 buckets and a larger max_distance"
        )
    if bidirectional:
        start = own * (relative_position > 0).long()
        distance = relative_position.abs()
    else:
        start = torch.zeros_like(relative_position)
        distance = (-relative_position).clamp(min=0)
    # float32 and this order of operations, as in T5: elsewhere a distance on an edge may fall to either side.
    share = torch.log(distance.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    far = (exact + (share * (own - exact)).long()).clamp(max=own - 1)
    return start + torch.where(distance < exact, distance, far)


class RelativeBias(nn.Module):
    """T5's relative position bias: a learned number for each head and bucket, added to the scores.

    T5 shares one such table among all layers, and does not divide its scores by √d.
    """

    def __init__(
        self, num_heads: int, num_buckets: int = 32, max_distance: int = 128, bidirectional: bool = True
    ) -> None:
        super().__init__()
        self.num_buckets, self.max_distance, self.bidirectional = num_buckets, max_distance, bidirectional
        self.embedding = nn.Embedding(num_buckets, num_heads)
        nn.init.zeros_(self.embedding.weight)

    def forward(self, n_query: int, n_key: int) -> Tensor:
        """The bias, (1, h, q, k)."""
        positions = relative_positions(n_query, n_key, self.embedding.weight.device)
        buckets = relative_bucket(positions, self.num_buckets, self.max_distance, self.bidirectional)
        return self.embedding(buckets).permute(2, 0, 1)[None]


# --- ALiBi: a fixed number, the distance times a slope --------------------------------------------------


def alibi_slopes(num_heads: int) -> Tensor:
    """Each head's slope, (h,): 2^(-8/n), 2^(-16/n), … for n a power of two (Press et al. 2022, §3).

    For other numbers of heads: those of the next lower power of two n, then the first, third, fifth … of 2n.

    >>> alibi_slopes(6).tolist()
    [0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125]
    """
    if num_heads < 1:
        raise ValueError(f"num_heads={num_heads}; expected at least 1")
    lower = 2 ** (num_heads.bit_length() - 1)
    own = 2.0 ** (-8 / lower * torch.arange(1, lower + 1, dtype=torch.float64))
    between = 2.0 ** (-4 / lower * (2 * torch.arange(num_heads - lower, dtype=torch.float64) + 1))
    return torch.cat([own, between]).float()


def alibi_bias(
    num_heads: int, n_query: int, n_key: int | None = None, device: torch.device | str | None = None
) -> Tensor:
    """Minus slope times distance, (h, q, k), to be added to the scores. n_key: default n_query.

    Later keys get the same as earlier ones; a causal mask hides them.
    Oracle: `transformers`' BLOOM, which leaves out what is the same for all keys of a query.
    """
    distance = relative_positions(n_query, n_query if n_key is None else n_key, device).abs()
    return -alibi_slopes(num_heads).to(device)[:, None, None] * distance


# --- Shaw, Transformer-XL: the content of the query decides what a distance is worth ---------------------


class ShawAttention(nn.Module):
    """Self-attention with a learned vector for each distance, at the keys and at the values.

    Distances beyond max_distance share one vector (Shaw et al. 2018, eqs. 3 and 4).
    Oracle: the sums of the paper, written as loops.
    """

    def __init__(self, d_model: int, num_heads: int, max_distance: int) -> None:
        super().__init__()
        self.num_heads, self.max_distance = num_heads, max_distance
        self.query, self.key, self.value, self.output = (nn.Linear(d_model, d_model) for _ in range(4))
        rows = 2 * max_distance + 1
        self.key_distances = nn.Parameter(0.02 * torch.randn(rows, d_model // num_heads))
        self.value_distances = nn.Parameter(0.02 * torch.randn(rows, d_model // num_heads))

    def forward(self, hidden_states: Tensor, mask: Tensor | None = None) -> Tensor:
        """(b, n, d_model) → the same. mask: boolean, True = may attend, broadcastable to (b, h, q, k)."""
        query, key, value = (
            split_heads(project(hidden_states), self.num_heads)
            for project in (self.query, self.key, self.value)
        )
        n = hidden_states.shape[-2]
        rows = relative_positions(n, n, query.device).clamp(-self.max_distance, self.max_distance)
        rows = rows + self.max_distance  # (q, k), which row of the tables
        # q · (k + a) = q · k + q · a, and q · a is worked out once for each row of the table.
        by_distance = take_by_pair(query @ self.key_distances.T, rows) / math.sqrt(query.shape[-1])
        weights = explicit_weights(query, key, mask, by_distance)  # (b, h, q, k)
        # Σ w (v + a) = Σ w v + Σ w a, and the weights of one row of the table are added up first.
        totals = weights.new_zeros(*weights.shape[:-1], len(self.value_distances))
        totals = totals.scatter_add(-1, rows.expand_as(weights), weights)
        return self.output(merge_heads(weights @ value + totals @ self.value_distances))


class TransformerXLAttention(nn.Module):
    """Self-attention with sinusoidal distances and two learned biases (Dai et al. 2019, §3.3).

    score = (query + content_bias) · key + (query + position_bias) · distance_key, where distance_key is
    a projection of the sine and cosine of query's position minus key's.
    Oracle: the four terms of the paper, written as loops.
    """

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.d_model = num_heads, d_model
        self.query, self.key, self.value, self.output = (nn.Linear(d_model, d_model) for _ in range(4))
        self.distance = nn.Linear(d_model, d_model, bias=False)
        self.content_bias = nn.Parameter(torch.zeros(num_heads, 1, d_model // num_heads))
        self.position_bias = nn.Parameter(torch.zeros(num_heads, 1, d_model // num_heads))

    def forward(self, hidden_states: Tensor, mask: Tensor | None = None) -> Tensor:
        """(b, n, d_model) → the same. mask: boolean, True = may attend, broadcastable to (b, h, q, k)."""
        query, key, value = (
            split_heads(project(hidden_states), self.num_heads)
            for project in (self.query, self.key, self.value)
        )
        n = hidden_states.shape[-2]
        table = distance_table(n, self.d_model).to(hidden_states)
        distance_key = split_heads(self.distance(table)[None], self.num_heads)  # (1, h, 2n - 1, d)
        rows = n - 1 - relative_positions(n, n, query.device)  # query's position minus key's, from 0
        by_distance = take_by_pair((query + self.position_bias) @ distance_key.mT, rows)
        by_distance = by_distance / math.sqrt(query.shape[-1])
        heads = fused_heads(query + self.content_bias, key, value, mask, by_distance, dropout=0.0)
        return self.output(merge_heads(heads))


def distance_table(n_positions: int, d_model: int) -> Tensor:
    """Sines, then cosines, of the distances -(n - 1) … n - 1: (2n - 1, d), as Transformer-XL orders them."""
    distances = torch.arange(1 - n_positions, n_positions, dtype=torch.float64)
    angles = distances[:, None] * frequencies(d_model)
    return torch.cat([angles.sin(), angles.cos()], dim=-1).float()


def take_by_pair(scores: Tensor, rows: Tensor) -> Tensor:
    """From the scores of each query with each row of a table, (…, q, r), those of its keys: (…, q, k).

    rows: (q, k), which row of the table belongs to this query and this key.
    """
    return scores.take_along_dim(rows.expand(*scores.shape[:-1], -1), dim=-1)
