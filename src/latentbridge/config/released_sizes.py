"""Sizes of released models (spec OmniBridge 1.1)."""

from __future__ import annotations

from latentbridge.config.model_config import AlignerConfig, BackboneConfig, ModelConfig, RetrievalConfig

QWEN2_VL_7B = BackboneConfig(
    hidden_size=3584,
    num_layers=28,
    num_heads=28,
    num_kv_heads=4,
    intermediate_size=18944,
    vision_width=1280,
    vision_layers=32,
    vision_heads=16,
    patch_size_px=14,
    image_size_px=0,
    vocab_size=152064,
    rope_theta=1e6,
    tied_embeddings=False,
    system_prompt="You are a helpful assistant.",
)
OMNIBRIDGE_8B = ModelConfig(
    parts=("backbone", "bridge"),
    backbone=QWEN2_VL_7B,
    aligner=AlignerConfig(
        d_model=2048,
        d_ff=5120,
        d_kv=64,
        num_heads=32,
        num_layers=24,
        num_queries=256,
        cross_layers=(0, 2, 4, 8, 12, 16, 20),
    ),
    retrieval=RetrievalConfig(num_image_queries=128, num_text_queries=96, embedding_size=1024, num_heads=16),
    text_length=256,
)
"""The released model without its decoder, an unchanged HunyuanDiT v1.2 that is stored separately."""
