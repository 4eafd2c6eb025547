"""A flow of the sizes of the reference in fixtures/flow_small.safetensors."""

from speechbrain_emofilm.lobes.cosyvoice2.flow import CosyVoice2Flow


def small_flow(**changes):
    """Build the flow, with random weights."""
    sizes = dict(
        vocab_size=300,
        token_dim=64,
        encoder_dim=64,
        encoder_heads=2,
        encoder_ffn=144,
        encoder_blocks=2,
        encoder_up_blocks=4,
        estimator_channels=32,
        estimator_heads=4,
        estimator_head_dim=16,
        estimator_blocks=2,
        estimator_mid_blocks=2,
    )
    return CosyVoice2Flow(**{**sizes, **changes})
