"""The Llama that is trained, in PyTorch: the same mathematics as mlx-lm's, by the names of a model folder.

PyTorch trains it three times as fast as MLX does on CPU cores (fused attention, vectorised exponentials).
"""

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from torch import Tensor, nn

from training.batches import Batch
from training.llama_folder import ROPE_THETA, Shape

if TYPE_CHECKING:
    from numpy.typing import NDArray

GUIDED: Final = 0.5
"""What the guide's loss weighs beside that of the answers' tokens."""
_EPS: Final = 1e-5
_EMBEDDING_RATE: Final = 2.0
_LOUDER: Final = 8.0
"""Embeddings begin at a standard deviation of 0.07, and their mean is smaller still."""


class Attention(nn.Module):
    """Causal attention with grouped keys and values, and rotary positions in halves."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self._heads, self._kv_heads, self._size = shape.heads, shape.kv_heads, shape.hidden // shape.heads
        self.q_proj = nn.Linear(shape.hidden, shape.hidden, bias=False)
        self.k_proj = nn.Linear(shape.hidden, shape.kv_heads * self._size, bias=False)
        self.v_proj = nn.Linear(shape.hidden, shape.kv_heads * self._size, bias=False)
        self.o_proj = nn.Linear(shape.hidden, shape.hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        rows, length, _ = x.shape

        def split(projected: Tensor, heads: int) -> Tensor:
            return projected.view(rows, length, heads, self._size).transpose(1, 2)

        def rotate(part: Tensor) -> Tensor:
            a, b = part.chunk(2, dim=-1)
            return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)

        shared = self._heads // self._kv_heads
        q = rotate(split(self.q_proj(x), self._heads))
        k = rotate(split(self.k_proj(x), self._kv_heads)).repeat_interleave(shared, dim=1)
        v = split(self.v_proj(x), self._kv_heads).repeat_interleave(shared, dim=1)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).reshape(rows, length, -1))


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden, shape.intermediate, bias=False)
        self.up_proj = nn.Linear(shape.hidden, shape.intermediate, bias=False)
        self.down_proj = nn.Linear(shape.intermediate, shape.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """One layer, normed before each half."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.self_attn = Attention(shape)
        self.mlp = MLP(shape)
        self.input_layernorm = nn.RMSNorm(shape.hidden, eps=_EPS)
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden, eps=_EPS)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(nn.Module):
    """A Llama with tied embeddings."""

    def __init__(self, shape: Shape, vocab: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocab, shape.hidden)
        nn.init.normal_(self.embed_tokens.weight, std=shape.hidden**-0.5)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.hidden, eps=_EPS)
        half = shape.hidden // shape.heads // 2
        self._frequencies = ROPE_THETA ** -(torch.arange(half) / half)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The normed states of (rows, length) tokens, and those from halfway through the layers."""
        angles = torch.arange(tokens.shape[1])[:, None] * self._frequencies
        cos, sin = angles.cos(), angles.sin()
        hidden = self.embed_tokens(tokens)
        middle = hidden
        for number, layer in enumerate(self.layers, 1):
            hidden = layer(hidden, cos, sin)
            if number == len(self.layers) // 2:
                middle = hidden
        return self.norm(hidden), middle

    def logits(self, hidden: Tensor) -> Tensor:
        """What is said next at some normed states."""
        return hidden @ self.embed_tokens.weight.T


class Guide(nn.Module):
    """Three read-outs that only training has: what a question is about, by its words alone and by what the first layers
    make of them, and which answer is due.

    The answer's own tokens teach the same, but a topic is decided among few of them, and each says little. The words
    alone, in any order, carry most of it: what is learnt of them holds for phrasings that were never seen.
    """

    def __init__(self, width: int, subjects: int, replies: int) -> None:
        super().__init__()
        self.words = nn.Linear(width, subjects)
        self.subject = nn.Linear(width, subjects)
        self.reply = nn.Linear(width, replies)


class Learner:
    """The model, its guide and their optimizers: Muon for the layers' matrices, AdamW for everything else.

    Muon (https://kellerjordan.github.io/posts/muon/) got as far in 400 steps as AdamW alone in 600.
    """

    def __init__(self, shape: Shape, vocab: int, subjects: int, replies: int, seed: int) -> None:
        torch.manual_seed(seed)
        self.llama = Llama(shape, vocab)
        self._guide = Guide(shape.hidden, subjects, replies)
        matrices = [parameter for parameter in self.llama.layers.parameters() if parameter.ndim == 2]
        others = [parameter for parameter in self.llama.parameters() if parameter.ndim == 1]
        groups: list[dict[str, Any]] = [
            {"params": [*others, *self._guide.parameters()], "scale": 1.0},
            {"params": [self.llama.embed_tokens.weight], "scale": _EMBEDDING_RATE},
        ]
        self._optimizers: list[Any] = [
            torch.optim.Muon(
                [{"params": matrices, "scale": 1.0}], lr=1e-3, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"
            ),
            torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.05, fused=True),
        ]
        self._parameters = [*self.llama.parameters(), *self._guide.parameters()]

    def step(self, batch: Batch, rate: float) -> float:
        """One update; the mean loss of the answers' tokens and of the guide, in nats."""
        loss = self._loss(*(torch.from_numpy(part) for part in batch))
        for optimizer in self._optimizers:
            optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self._parameters, 1.0)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["scale"]
            optimizer.step()
        return float(loss.detach())

    def _loss(
        self,
        tokens: Tensor,
        positions: Tensor,
        weights: Tensor,
        question_of: Tensor,
        answered_at: Tensor,
        subjects: Tensor,
        replies: Tensor,
    ) -> Tensor:
        hidden, middle = self.llama(tokens[:, :-1].long())
        hidden, middle = hidden.flatten(0, 1), middle.flatten(0, 1)
        targets = tokens[:, 1:].flatten()[positions].long()
        losses = F.cross_entropy(self.llama.logits(hidden[positions]), targets, reduction="none")
        spoken = (losses * weights).sum() / weights.sum()

        members = F.one_hot(question_of.flatten().long(), len(subjects) + 1).T[1:].float()
        members = members / members.sum(dim=1, keepdim=True)
        words = _LOUDER * (members @ self.llama.embed_tokens(tokens[:, :-1].long()).flatten(0, 1))
        about = F.cross_entropy(self._guide.subject(members @ middle), subjects.long())
        about = about + F.cross_entropy(self._guide.words(words), subjects.long())
        due = F.cross_entropy(self._guide.reply(hidden[answered_at]), replies.long())
        return spoken + GUIDED * (about + due)

    def weights(self) -> "dict[str, NDArray[np.float32]]":
        """All parameters by their names in a model folder."""
        return {f"model.{name}": value.detach().numpy() for name, value in self.llama.named_parameters()}
