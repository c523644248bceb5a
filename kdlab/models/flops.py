"""FLOPs of encoders and decoders by their shape, and the cost formulas of the papers.

A FLOP is half a multiply-add: a matrix product of (m, k) by (k, n) is 2 m k n. Only matrix products count, as in
the papers and in torch's FlopCounterMode; embedding lookups, biases, norms, softmax and activations are free (about
0.3 % of BERT-base). All counts are exact Python integers.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

from kdlab.errors import UserError

# Published forward FLOPs of a sample at length 128: TinyBERT (Jiao et al. 2020, Table 1), quoted in Dynamic KD 3.2.2.
# This module counts 22.35, 11.17 and 1.25 G: 11.3 is half of 22.5, rounded up.
BERT_BASE = 22_500_000_000
BERT_6_LAYERS = 11_300_000_000
TINYBERT_4 = 1_200_000_000

BACKWARD_DYNAMIC_KD = 1  # Dynamic KD 3.2.2 takes Bs = Fs
BACKWARD_ADADS = 2  # reproduces the 3.6x of AdaDS; also the true ratio if every parameter trains


@dataclass(frozen=True)
class EncoderShape:
    """Sizes that determine the FLOPs of a transformer encoder.

    `layers`: number of blocks of width `hidden` (H), with a feed-forward of width `intermediate`; `heads`: for
    information only, the count does not depend on it; `vocab`: V of the masked-LM head; `outputs`: C of a classifier
    (None: no classifier); `embedding`: width of the token embeddings if it is not H (ELECTRA: projected to H at the
    input, and back before the vocabulary); `attention`, `keys`: widths of all query heads and of all key heads together if
    they are not H (grouped-query attention); `head_transform`: the masked-LM head has a dense layer before the
    vocabulary; `gated`: the feed-forward has a gate (three matrices, ModernBERT, Llama); `relative`: number of relative
    position vectors that each token is multiplied with (DeBERTa: 2 x span for each of c2p, p2c); `adapters`: weights of a
    layer's low-rank adapters (`kdlab.models.lora`), which every token passes.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    vocab: int
    outputs: int | None = None
    embedding: int | None = None
    head_transform: bool = True
    gated: bool = False
    relative: int = 0
    attention: int | None = None
    keys: int | None = None
    adapters: int = 0


def forward(shape: EncoderShape, rows: int, length: int, positions: int = 0) -> int:
    """FLOPs of one forward over `rows` sequences padded to `length` tokens.

    Encoder, masked-LM head at `positions` positions in total (0: the head does not run), and classifier if the shape
    has one. BERT-base at 128 is 22.35 G a row.
    """
    total = encoder(shape, rows * length, rows * length * length) + masked_lm_head(shape, positions)
    return total + (classifier_head(shape, rows, shape.outputs) if shape.outputs else 0)


def encoder(shape: EncoderShape, tokens: int, pairs: int, chosen: int | None = None, chosen_pairs: int = 0) -> int:
    """FLOPs of one pass through the blocks over `tokens` tokens, attention over `pairs` (query, key) pairs.

    Padded rows: tokens = B L, pairs = B L^2. Packed rows of lengths l: tokens = sum l, pairs = sum l^2. `chosen`:
    number of tokens for which the last block runs, with queries in `chosen_pairs` pairs (None: all tokens, as in the
    papers).
    """
    if tokens == 0:
        return 0
    h, width = shape.hidden, shape.attention or shape.hidden
    per_token = 4 * h * width + (6 if shape.gated else 4) * h * shape.intermediate  # query, output, feed-forward
    keys = 4 * tokens * h * (shape.keys or width)  # key and value
    relative = 2 * shape.relative * h * (h + tokens)  # projected once a pass, then multiplied with every token
    embedding = 0 if shape.embedding in (None, h) else 2 * tokens * shape.embedding * h
    always = keys + relative + 2 * tokens * shape.adapters
    full = always + tokens * per_token + 4 * pairs * width  # scores and weighted values of the pairs
    last = full if chosen is None else always + chosen * per_token + 4 * chosen_pairs * width
    return embedding + (shape.layers - 1) * full + last


def masked_lm_head(shape: EncoderShape, positions: int) -> int:
    """FLOPs of dense transform and vocabulary projection at `positions` positions."""
    width = shape.embedding or shape.hidden
    transform = 2 * shape.hidden * width if shape.head_transform else 0
    return positions * (transform + 2 * width * shape.vocab)


def classifier_head(shape: EncoderShape, rows: int, outputs: int) -> int:
    """FLOPs of pooler and classifier (C = `outputs`) on the first token of `rows` rows."""
    return rows * (2 * shape.hidden * shape.hidden + 2 * shape.hidden * outputs)


def backward(forward_flops: int) -> int:
    """FLOPs of the backward pass if every parameter trains: two products for each forward product."""
    return BACKWARD_ADADS * forward_flops


PLAIN_DECODERS = {"gpt2", "gpt_neox", "phi"}  # feed-forwards of two matrices
GATED_DECODERS = {
    "llama", "mistral", "qwen2", "qwen3", "smollm3", "gemma", "gemma2", "gemma3_text", "phi3", "olmo2",
}  # fmt: skip
COUNTED = {
    *PLAIN_DECODERS,
    *GATED_DECODERS,
    "bert",
    "roberta",
    "xlm-roberta",
    "distilbert",
    "electra",
    "albert",
    "mpnet",
    "modernbert",
    "deberta-v2",
}  # verified by tests


def shape_of(config: Any, outputs: int | None = None) -> EncoderShape:
    """Shape of the encoder that a transformers config describes, with a classifier of `outputs` classes or none.

    A family outside `COUNTED` is counted as a BERT of the same sizes, with a warning. The pairs of a decoder are those
    that a causal mask leaves out, too: kernels differ in what they skip. UserError for a config without these sizes.
    """
    family = getattr(config, "model_type", "unknown")
    decodes = family in PLAIN_DECODERS | GATED_DECODERS
    layers, heads = _read(config, "num_hidden_layers", "n_layers"), _read(config, "num_attention_heads", "n_heads")
    hidden = _read(config, "hidden_size", "dim")
    head = (getattr(config, "head_dim", None) if decodes else None) or hidden // heads
    groups = (getattr(config, "num_key_value_heads", None) if decodes else None) or heads
    if family not in COUNTED:
        warnings.warn(f"FLOPs of model type {family!r} are counted as a BERT's of the same size", stacklevel=2)
    return EncoderShape(
        layers=layers,
        hidden=hidden,
        intermediate=_feed_forward(config, hidden),
        heads=heads,
        vocab=_read(config, "vocab_size"),
        outputs=outputs,
        embedding=getattr(config, "embedding_size", None),
        head_transform=not decodes,
        gated=family in {"modernbert", *GATED_DECODERS},
        attention=heads * head if decodes else None,
        keys=groups * head if decodes else None,
        relative=_relative_positions(config) if getattr(config, "relative_attention", False) else 0,
    )


def _read(config: Any, *names: str) -> int:
    for name in names:
        value = getattr(config, name, None)
        if value is not None:
            return int(value)
    raise UserError(
        f"cannot count FLOPs of model type {getattr(config, 'model_type', 'unknown')!r}: its config has no "
        f"{' or '.join(names)}; use an encoder such as BERT, RoBERTa, DistilBERT or ELECTRA"
    )


def _feed_forward(config: Any, hidden: int) -> int:
    if hasattr(config, "n_inner"):  # GPT-2: four times the width unless it says otherwise
        return int(config.n_inner or 4 * hidden)
    return 4 * hidden if config.model_type == "bloom" else _read(config, "intermediate_size", "hidden_dim", "ffn_dim")


def _relative_positions(config: Any) -> int:
    span = max(getattr(config, "position_buckets", -1), 0) or max(getattr(config, "max_relative_positions", -1), 0)
    return 2 * (span or config.max_position_embeddings) * len(config.pos_att_type or [])


@dataclass(frozen=True)
class MethodCost:
    """FLOPs of one sample: student forward Fs, student backward Bs, teacher forward Ft (AdaDS 3.2).

    Each method returns the average cost of a sample of the data at selection ratio r.
    """

    student_forward: float
    student_backward: float
    teacher_forward: float

    def vanilla(self) -> float:
        """Fs + Bs + Ft: distillation on all data (AdaDS Eq. 2)."""
        return self.student_forward + self.student_backward + self.teacher_forward

    def random(self, ratio: float) -> float:
        """r (Fs + Bs + Ft): random selection, without scores (Dynamic KD Tables 2 and 4)."""
        return ratio * self.vanilla()

    def scored(self, ratio: float) -> float:
        """Fs + r (Bs + Ft): every row scored, training on the selected rows (AdaDS Eq. 3, Dynamic KD Eq. 10)."""
        return self.student_forward + ratio * (self.student_backward + self.teacher_forward)

    def labels_on_all(self, ratio: float) -> float:
        """Fs + Bs + r Ft: label loss on all rows, teacher queried for the selected rows (Dynamic KD Table 4)."""
        return self.student_forward + self.student_backward + ratio * self.teacher_forward

    def adads(self, ratio: float, evaluations: int, samples: int, rows: int) -> float:
        """Scored selection plus n_eval M Fs in an epoch of `rows` rows (AdaDS Eq. 12).

        `evaluations`: n_eval of an epoch; `samples`: M. The published 3.4x at r = 0.1 implies n_eval M of 7 % of the
        rows (5 to 9 % round to 3.4); the paper gives neither number.
        """
        return self.scored(ratio) + evaluations * samples * self.student_forward / rows

    def honest(
        self,
        ratio: float,
        evaluations: int = 0,
        samples: int = 0,
        rows: int = 1,
        scored: bool = True,
        look: float = 1.0,
    ) -> float:
        """Full cost of selection: scores of the share `look` of the rows, Fs + Bs + Ft on the selected rows, evaluations of
        the selector.

        The papers omit the second student forward, r Fs, which computes the gradient of the selected rows. At r = 1
        there is no scoring.
        """
        scoring = look * self.student_forward if scored and ratio < 1 else 0
        return scoring + self.random(ratio) + evaluations * samples * self.student_forward / rows


def cost(student_forward: float, teacher_forward: float, backward_factor: float = BACKWARD_ADADS) -> MethodCost:
    """Cost of a student and a teacher by the convention of one paper, Bs = `backward_factor` x Fs."""
    return MethodCost(student_forward, backward_factor * student_forward, teacher_forward)
