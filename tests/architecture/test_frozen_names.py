"""Names that are stored or hashed stay what they are, whatever the code calls them.

Digests, file formats, blob and record names outlive every refactoring: a session that was stored
years ago is found by them. A change here is a migration, not a rename.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace

import torch

from hope_runtime.checkpoints import converted_cache as converted_cache
from hope_runtime.checkpoints import fast_memory as fast_memory_files
from hope_runtime.checkpoints.fast_memory import shipped_fast_memory
from hope_runtime.layers.config import ModelConfig, RopeScaling
from hope_runtime.models.decoder import weights as decoder
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.models.fast_memory.session import tensor_name
from hope_runtime.models.fast_memory.weights import (
    FastMemory,
    FastMemoryConfig,
    FastMemoryWeights,
    expected_shapes,
)
from hope_runtime.models.hope.config import PRESETS, preset
from hope_runtime.session import codec
from hope_runtime.session.log import RecordKind, Speaker
from hope_runtime.session.policy import POLICIES
from hope_runtime.tokenizer import byte_tokenizer


def test_digests_of_policies() -> None:
    assert {name: policy.digest()[:16] for name, policy in POLICIES.items()} == {
        "default": "534726da2aff0fad",
        "unguarded": "33165dee967a5658",
        # The defaults of earlier versions, and their unguarded forms.
        "unasked": "7d4ecb0955139d67",
        "unguarded_unasked": "b8799a9be4812f08",
        "replay": "ad65123b2f9690e6",
        "unguarded_replay": "a149777567e1285a",
        "summed_gradient": "d8bc0b4c09c94277",
        "forward": "e518b5d3fa62f8c6",
    }


def test_the_digest_of_a_fast_memory_names_what_it_wrote() -> None:
    config = FastMemoryConfig(
        8, (0, 1), 2, n_heads=1, key_width=4, value_width=4, input_width=4, hidden=4
    )
    zeros = {name: torch.zeros(shape) for name, shape in expected_shapes(config).items()}
    fast_memory = FastMemory(config, FastMemoryWeights.from_named(zeros))
    assert fast_memory.digest == "611173a4e0c342b7f84ea48a8d5fd0e99598d55379a1187e8a8ddbb2e2d1ec40"
    assert tensor_name(fast_memory) == "branch.611173a4e0c342b7"


def test_the_default_model_and_its_fast_memory(base_model: BaseModel) -> None:
    # The second hashed the chat template too; older sessions are stored under it.
    assert base_model.fingerprint.startswith("87592d13a3dd569d")
    assert [each[:16] for each in base_model.former] == ["fa9ca9bb680e6d4f"]
    fast_memory = shipped_fast_memory(base_model)
    assert fast_memory is not None
    assert fast_memory.digest.startswith("2d3c21a94ea30602")


def test_a_field_that_a_model_does_not_use_enters_no_fingerprint() -> None:
    """Fails when a new field of ModelConfig changes the fingerprint of models that lack it."""
    config = ModelConfig(
        vocab_size=8, d_model=4, n_layers=1, n_heads=2, n_kv_heads=1, head_dim=2, d_ff=8,
        norm_eps=1e-5, rope_theta=1e4, max_positions=16, tie_embeddings=True,
    )  # fmt: skip
    assert list(config.to_fields()) == [
        "vocab_size", "d_model", "n_layers", "n_heads", "n_kv_heads", "head_dim", "d_ff",
        "norm_eps", "rope_theta", "max_positions", "tie_embeddings",
        "rope_scaling", "attention_bias", "rope_factors",
    ]  # fmt: skip
    scaled = replace(config, rope_scaling=RopeScaling(8.0, 1.0, 4.0, 8192))
    for one in (config, scaled, replace(config, rope_factors=(2.0,))):
        assert ModelConfig.from_fields(json.loads(json.dumps(one.to_fields()))) == one

    @dataclass(frozen=True)
    class Wider(ModelConfig):
        from_next_year: str = "none"

    wider = Wider(**config.to_fields())
    assert wider.to_fields() == config.to_fields()
    normed = replace(wider, from_next_year="head")
    assert normed.to_fields() == config.to_fields() | {"from_next_year": "head"}
    shapes = decoder.expected_shapes(config)
    weights = decoder.from_named(
        config, {name: torch.zeros(shape) for name, shape in shapes.items()}
    )
    for fingerprint in (decoder.fingerprint_of, decoder.first_fingerprint_of):
        of_config, of_wider, of_normed = (
            fingerprint(one, weights, byte_tokenizer()) for one in (config, wider, normed)
        )
        assert of_config == of_wider != of_normed


def test_a_sliding_width_was_a_bound_on_positions_once() -> None:
    """Fails when a Mistral that was served before loses its memories."""
    before = ModelConfig(
        vocab_size=8, d_model=4, n_layers=1, n_heads=2, n_kv_heads=1, head_dim=2, d_ff=8,
        norm_eps=1e-5, rope_theta=1e4, max_positions=8, tie_embeddings=True,
    )  # fmt: skip
    slides = replace(before, max_positions=16, sliding_window=8, sliding_layers=(0,))
    shapes = decoder.expected_shapes(before)
    weights = decoder.from_named(
        before, {name: torch.zeros(shape) for name, shape in shapes.items()}
    )
    for fingerprint in (decoder.fingerprint_of, decoder.first_fingerprint_of):
        one, other = (fingerprint(each, weights, byte_tokenizer()) for each in (before, slides))
        assert one == other


def test_configurations_of_hope_models_as_they_are_stored() -> None:
    presets = {
        name: preset(name, vocab_size=32, d_model=16, n_layers=2, n_heads=2) for name in PRESETS
    }
    stored = json.dumps({name: one.to_fields() for name, one in presets.items()}, sort_keys=True)
    assert hashlib.sha256(stored.encode()).hexdigest()[:16] == "1625c8d38f58cff4"


def test_formats_of_files_and_numbers_in_records() -> None:
    assert (converted_cache.FORMAT, converted_cache.VERSION) == ("hope-native", 1)
    assert (fast_memory_files.FORMAT, fast_memory_files.VERSION) == ("hope-branch", "1")
    assert codec.context_blob("a") == "context.ca978112ca1bbdca"
    assert (codec.STATE_BLOB, codec.FAST_BLOB, codec.level_blob(0)) == ("state", "fast", "level.0")
    assert [kind.value for kind in RecordKind] == [
        "turn", "document", "end_conversation", "consolidate", "consolidation",
        "rollback", "reset", "forget", "freeze", "unfreeze",
    ]  # fmt: skip
    assert [one.value for one in Speaker] == ["template", "system", "user", "assistant", "document"]
