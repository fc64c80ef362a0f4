"""The same weights in transformers' own model, to compare with."""

from __future__ import annotations

from typing import Any

from hope_runtime.models.decoder.weights import BaseModel


def reference_model(model: BaseModel) -> Any:
    """A transformers LlamaForCausalLM with the weights and the dtype of `model`."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = model.config
    reference = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.d_model,
            intermediate_size=config.d_ff,
            num_hidden_layers=config.n_layers,
            num_attention_heads=config.n_heads,
            num_key_value_heads=config.n_kv_heads,
            head_dim=config.head_dim,
            rms_norm_eps=config.norm_eps,
            rope_theta=config.rope_theta,
            max_position_embeddings=config.max_positions,
            tie_word_embeddings=config.tie_embeddings,
        )
    )
    queries = config.n_heads * config.head_dim
    keys = config.n_kv_heads * config.head_dim
    state = {
        "model.embed_tokens.weight": model.weights.embedding,
        "model.norm.weight": model.weights.final_norm,
        "lm_head.weight": model.weights.lm_head,
    }
    for index, layer in enumerate(model.weights.layers):
        prefix = f"model.layers.{index}"
        q, k, v = layer.qkv.split([queries, keys, keys])
        gate, up = layer.gate_up.chunk(2)
        state |= {
            f"{prefix}.input_layernorm.weight": layer.attn_norm,
            f"{prefix}.post_attention_layernorm.weight": layer.mlp_norm,
            f"{prefix}.self_attn.q_proj.weight": q,
            f"{prefix}.self_attn.k_proj.weight": k,
            f"{prefix}.self_attn.v_proj.weight": v,
            f"{prefix}.self_attn.o_proj.weight": layer.out,
            f"{prefix}.mlp.gate_proj.weight": gate,
            f"{prefix}.mlp.up_proj.weight": up,
            f"{prefix}.mlp.down_proj.weight": layer.down,
        }
    reference.load_state_dict(state)
    return reference.to(model.dtype).eval()
