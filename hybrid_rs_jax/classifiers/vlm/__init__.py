"""Vision-language checkpoints as base classifiers.

`settings`: what a user chooses. `prompt`: what stands around the certified text. `forward`: what is compiled.
`guard`: the classifier.
"""

from hybrid_rs_jax.classifiers.vlm.guard import VlmGuard
from hybrid_rs_jax.classifiers.vlm.settings import GuardSettings

__all__ = ["GuardSettings", "VlmGuard"]
