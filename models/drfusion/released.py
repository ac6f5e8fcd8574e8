"""The authors' keys, one for each of ours, and their file as a fuser (spec 3.6).

Our keys are translated to theirs, never the other way: so a key that our model lacks is found as left
over, and one that the file lacks by its official name.
"""

from collections.abc import Mapping

from torch import nn

from models.drfusion.config import DRFusionConfig
from models.drfusion.fuser import DRFusionFuser
from models.system import Weights

# No weights are published by a name; this is what their file has to be called.
OFFICIAL_FILE = "drfusion"

# Scalars of theirs that nothing reads (spec 3.6).
UNUSED = ("input_help_scale_factor", "merge_scale_factor")

# Ours -> theirs: the start of a key, and the rest of it.
_STARTS = {
    "chain.unet.stem": "unet.inBlock",
    "chain.unet.encoder": "unet.downBlock",
    "chain.unet.bottleneck": "unet.middleBlock",
    "chain.unet.noise_decoder.blocks": "unet.upBlock",
    "chain.unet.noise_decoder.gates": "unet.attention_block",
    "chain.unet.noise_decoder.norm": "unet.outBlock.0",
    "chain.unet.noise_decoder.head": "unet.outBlock.2",
    "chain.unet.weight_decoder.blocks": "unet.fusionBlock",
    "chain.unet.weight_decoder.gates": "unet.attention_block_1",
    "chain.unet.weight_decoder.norm": "unet.fusion_outBlock.0",
    "chain.unet.weight_decoder.head": "unet.fusion_outBlock.2",
    "chain.": "",
}
_IN_BLOCK = {
    "norm1": "conv1.0",
    "conv1": "conv1.2",
    "time": "time_emb.1",
    "norm2": "conv2.0",
    "conv2": "conv2.3",
    "shortcut": "shortcut",
    "conv": "op",
}
_IN_GATE = {"squeeze": "fc1", "excite": "fc2", "spatial": "conv"}


def official_name(key: str) -> str:
    """The authors' name of a key of the fuser's state."""
    start = next(start for start in _STARTS if key.startswith(start))
    rest, theirs = key.removeprefix(start), _STARTS[start]
    if not start.endswith(("encoder", "bottleneck", "blocks", "gates")):
        return theirs + rest
    _, place, part, kind = rest.split(".")
    if start.endswith("gates"):
        return f"{theirs}.{place}.{_IN_GATE[part]}.{kind}"
    return f"{theirs}.{place}.0.{_IN_BLOCK[part]}.{kind}"


def convert(files: Mapping[str, Weights]) -> tuple[DRFusionConfig, nn.Module]:
    """The fuser of the authors' state dict, with as many steps as it has coefficients.

    Raises ValueError naming the key that is missing, unexpected or of another shape.
    """
    official = dict(files[OFFICIAL_FILE])
    if "alpha" not in official:
        raise ValueError(f"{OFFICIAL_FILE}: has no key 'alpha'")
    config = DRFusionConfig(num_steps=len(official["alpha"]))
    fuser = DRFusionFuser(config)
    ours = {}
    for key, tensor in fuser.state_dict().items():
        name = official_name(key)
        if name not in official:
            raise ValueError(f"{OFFICIAL_FILE}: lacks the key {name!r}")
        ours[key] = official.pop(name)
        if ours[key].shape != tensor.shape:
            raise ValueError(
                f"{OFFICIAL_FILE}: {name!r} is {tuple(ours[key].shape)}, "
                f"but the model's is {tuple(tensor.shape)}"
            )
    if official:
        raise ValueError(f"{OFFICIAL_FILE}: the key {sorted(official)[0]!r} is unexpected")
    fuser.load_state_dict(ours)
    return config, fuser
