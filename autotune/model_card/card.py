"""The facts of a model that the tuner needs."""

from dataclasses import dataclass
from pathlib import Path

from autotune.model_card.dimensions import Dimensions
from autotune.model_card.kv_cache import KvLayers
from autotune.model_card.quantization import Scheme

GIB = 2**30
_BILLION = 10**9


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a model folder says. Sizes in bytes, as vLLM holds the model."""

    path: Path
    vocab_size: int  # rows of the embedding table
    token_ids: int  # 0 up to here are tokens: those of the tokenizer where there is one, for tables are padded
    special_ids: frozenset[int]
    max_positions: int
    weight_bytes: int  # of the files at hand, else as the dimensions say; 0 when neither is known
    kv_layers: tuple[KvLayers, ...] = ()  # empty when the attention is of a kind not known here
    layer_parameters: int = 0  # that a token is multiplied with in all layers; 0 when the architecture is not known
    head_parameters: int = 0  # of the output layer, which only tokens that are sampled from meet
    attention_flops: int = 0  # of one token for each position that it attends to, in all layers; 0: not known
    parameters: int = 0  # all of them, as model cards count; 0 when the architecture is not known
    expert_bytes: int = 0  # of `weight_bytes`, those of routed experts
    replicated_bytes: int = 0  # of `weight_bytes`, those that every tensor-parallel rank holds
    hidden: int = 0
    intermediate: int = 0
    heads: int = 0
    has_files: bool = False  # whether `weight_bytes` are those of files
    size: Dimensions | None = None  # when the architecture is known
    scheme: Scheme | None = None  # when the weights are quantised
    kinds: frozenset[str] = frozenset()  # its `model_type`, dense or moe, and hybrid if not every layer is attention

    @property
    def kv_bytes_per_token(self) -> int:
        """Of all layers, on one device; 0 when it is not the same for every token, or not known."""
        return (
            0 if any(kind.window for kind in self.kv_layers) else sum(kind.bytes_per_token for kind in self.kv_layers)
        )

    @property
    def latent(self) -> bool:
        """Whether it has multi-head latent attention."""
        return self.size is not None and self.size.latent is not None

    @property
    def summary(self) -> str:
        """Its size in words: `8.03 billion parameters, 15.0 GiB of weights`."""
        billions = self.parameters / _BILLION
        count = f"{billions:,.2f} billion" if billions >= 1 else f"{1000 * billions:,.1f} million"
        gib = self.weight_bytes / GIB
        size = f"{gib:,.1f} GiB" if gib >= 1 else f"{1024 * gib:,.1f} MiB"
        parts = [f"{count} parameters"] if self.parameters else []
        return ", ".join([*parts, f"{size} of weights", *([self.scheme.name] if self.scheme else [])])
