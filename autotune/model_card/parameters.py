"""How many weights a decoder has, part by part."""

from dataclasses import dataclass

from autotune.model_card.dimensions import Dimensions


@dataclass(frozen=True, slots=True)
class Parameters:
    """Weights by what becomes of them: quantised or not, divided among tensor-parallel ranks or held by each.

    Counts are of the whole model, all layers.
    """

    embedding: int
    head: int  # of the output layer; 0 when it is the embedding table
    attention: int  # projections
    latent_inputs: int  # of `attention`, the low-rank ones of MLA and the indexer's, that every rank holds
    dense: int  # feed-forward parts of layers without experts
    shared: int  # shared experts
    experts: int  # routed experts
    active_experts: int  # of `experts`, what one token is multiplied with
    routers: int
    vectors: int  # norms and biases

    @property
    def linear(self) -> int:
        """Those that weight quantisation is about: every projection inside the layers, the routers not."""
        return self.attention + self.dense + self.shared + self.experts

    @property
    def total(self) -> int:
        """All of them, as model cards count."""
        return self.embedding + self.head + self.linear + self.routers + self.vectors

    @property
    def active(self) -> int:
        """Those in the layers that one token is multiplied with."""
        return self.linear - self.experts + self.active_experts + self.routers

    @property
    def replicated(self) -> int:
        """Those that vLLM does not divide among tensor-parallel ranks."""
        return self.routers + self.vectors + self.latent_inputs


def count(size: Dimensions) -> Parameters:
    """The weights that follow from the dimensions; multi-token-prediction layers are not loaded and not counted."""
    table = size.vocabulary * size.hidden
    dense_layers = size.layers - size.sparse_layers
    expert = 3 * size.hidden * size.expert_width  # gate, up and down
    router = size.hidden * size.experts + (size.experts if size.traits.router_bias else 0)
    if size.shared_width and size.traits.shared_gate:
        router += size.hidden
    return Parameters(
        embedding=table,
        head=0 if size.tied else table,
        attention=size.layers * _attention(size) + _indexers(size),
        latent_inputs=size.layers * _latent_inputs(size) + _indexers(size),
        dense=dense_layers * 3 * size.hidden * size.intermediate,
        shared=size.sparse_layers * 3 * size.hidden * size.shared_width,
        experts=size.sparse_layers * size.experts * expert,
        active_experts=size.sparse_layers * size.experts_per_token * expert,
        routers=size.sparse_layers * router,
        vectors=size.layers * _vectors(size) + _index_norms(size) + size.hidden,
    )


def _attention(size: Dimensions) -> int:
    """Query, key, value and output projections of one layer; with MLA their low-rank factors."""
    latent = size.latent
    if latent is None:
        return 2 * size.hidden * size.head_size * (size.heads + size.kv_heads)
    inner = latent.query_rank or size.hidden
    query = inner * size.heads * (latent.nope + latent.rope)
    keys_values = latent.rank * size.heads * (latent.nope + latent.value)
    return _latent_inputs(size) + query + keys_values + size.heads * latent.value * size.hidden


def _latent_inputs(size: Dimensions) -> int:
    latent = size.latent
    return 0 if latent is None else size.hidden * (latent.query_rank + latent.rank + latent.rope)


def _indexers(size: Dimensions) -> int:
    """Queries from the compressed ones, one key, and a weight for each head."""
    latent = size.latent
    if latent is None:
        return 0
    queries = latent.query_rank * latent.index_heads * latent.index_size
    return latent.index_layers * (queries + size.hidden * (latent.index_size + latent.index_heads))


def _index_norms(size: Dimensions) -> int:
    """One norm with a bias for each indexer's keys."""
    return 0 if size.latent is None else size.latent.index_layers * 2 * size.latent.index_size


def _vectors(size: Dimensions) -> int:
    """Norms and biases of one layer."""
    vectors = size.traits.norms * size.hidden
    if size.latent is not None:
        vectors += size.latent.rank + size.latent.query_rank  # a norm on each latent
    if size.traits.qk_norm:
        vectors += 2 * size.head_size
    if size.traits.qkv_bias:
        vectors += size.head_size * (size.heads + 2 * size.kv_heads)
    return vectors
