"""A small BERT of the package transformers, with low-rank adapters (LoRA, Hu et al. 2022) that an inner loop can move.

The package is not one of metaray's: pip install transformers
"""

from tasks.vision import torchvision  # isort: skip - transformers imports it, and fails where it does not fit torch

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

assert torchvision


class LoRA(nn.Module):
    """A linear layer W x + b plus B A x, with A [rank, in] and B [out, rank], which begins as zero.

    Args:
        layer: gives W and b.
        rank: of the matrix that is added.
    """

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        """Wrap the layer."""
        super().__init__()
        self.layer = layer
        self.lora_a = nn.Parameter(torch.randn(rank, layer.in_features) / layer.in_features**0.5)
        self.lora_b = nn.Parameter(torch.zeros(layer.out_features, rank))

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns the outputs [..., out] for inputs [..., in]."""
        return self.layer(inputs) + F.linear(F.linear(inputs, self.lora_a), self.lora_b)


class LoRABert(BertForSequenceClassification):
    """BERT with adapters beside the query, key and value projections, the pooler and the classifier.

    Args:
        inputs: shapes by name, of which the tokens' length is taken.
        outputs: number of classes.
        words: size of the vocabulary.
        width: of the hidden states.
        layers: number of blocks.
        rank: of the adapters.
        dropout: rate of dropout in training.
    """

    def __init__(
        self,
        inputs: dict[str, tuple[int, ...]],
        outputs: int,
        words: int = 32,
        width: int = 32,
        layers: int = 2,
        rank: int = 4,
        dropout: float = 0.0,
    ) -> None:
        """Construct the network from a configuration of transformers; nothing is downloaded."""
        config = BertConfig(
            vocab_size=words,
            num_labels=outputs,
            max_position_embeddings=inputs["input_ids"][0],
            type_vocab_size=1,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=layers,
            num_attention_heads=2,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            initializer_range=0.1,
        )
        super().__init__(config)
        for block in self.bert.encoder.layer:
            attention = block.attention.self
            for name in ("query", "key", "value"):
                setattr(attention, name, LoRA(getattr(attention, name), rank))
        self.bert.pooler.dense = LoRA(self.bert.pooler.dense, rank)
        self.classifier = LoRA(self.classifier, rank)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        """Returns what transformers returns, with ``logits`` [B, outputs].

        Args:
            input_ids: tokens [B, L].
            attention_mask: 1 where there is a word, 0 where there is padding, [B, L].
        """
        # Of a mask [B, L] transformers asks whether it keeps everything, which no recorded program can; one that is
        # added to the attention, [B, 1, L, L], it takes as it is.
        kept = attention_mask[:, None, None, :].to(self.classifier.layer.weight.dtype)
        added = (1 - kept) * torch.finfo(kept.dtype).min
        return super().forward(input_ids, added.expand(-1, 1, input_ids.shape[1], -1))
