"""The authors' released weights, key by key, as a state dict of our fuser (spec 4).

Each of our four networks has one file of theirs. Our keys are translated to theirs, never the
other way: so a key that our model lacks is found as left over, and one that the file lacks by its
official name.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from models.dspfusion.config import DSPFusionConfig
from models.dspfusion.denoiser import Denoiser
from models.dspfusion.fuser import DSPFusionFuser
from models.dspfusion.fusion import FusionNetwork
from models.dspfusion.priors import DegradationEncoder, SemanticEncoder

Network = Literal["fusion", "degradation", "semantic", "denoiser"]

# Which file holds which network.
OFFICIAL_FILES: dict[Network, str] = {
    "fusion": "net_g",
    "degradation": "net_dp",
    "semantic": "net_sp",
    "denoiser": "net_dm",
}

# Left in some files by the authors' profiler; their own loader ignores them too.
_PROFILER_MARKS = ("total_ops", "total_params")

# Ours → theirs, the start of a key; the first match wins.
_FUSION_STARTS = {
    "semantic_pyramid.to_level2": "down_1",
    "semantic_pyramid.to_level3": "down_2",
    "degradation_pyramid.to_level2": "type_down_1",
    "degradation_pyramid.to_level3": "type_down_2",
    "patch_embed": "patch_embed.proj",
    "encoders.0": "encoder_level1",
    "encoders.1": "encoder_level2",
    "encoders.2": "encoder_level3",
    "encoders.3": "latent",
    "downs.0": "down1_2",
    "downs.1": "down2_3",
    "downs.2": "down3_4",
    "fusions.0": "fusion_level1",
    "fusions.1": "fusion_level2",
    "fusions.2": "fusion_level3",
    "fusions.3": "fusion_latent",
    "ups.0": "up2_1",
    "ups.1": "up3_2",
    "ups.2": "up4_3",
    "reductions.1": "reduce_chan_level2",
    "reductions.2": "reduce_chan_level3",
    "decoders.0": "decoder_level1",
    "decoders.1": "decoder_level2",
    "decoders.2": "decoder_level3",
    "head.refinement": "refinement",
    "head.output": "output",
    "fused_head.blocks": "f_header.refinement.blocks",
    "fused_head": "f_header",
    "ir_head.blocks": "ir_header.refinement.blocks",
    "ir_head": "ir_header",
    "vi_head.blocks": "vi_header.refinement.blocks",
    "vi_head": "vi_header",
}

# Ours → theirs, the rest of a key, by the part of the network that the rest lies in.
_FUSION_PARTS = {
    "tokens": "1",
    "channels": "3",
    "spim.pixel_norm": "spmm.norm1.body",
    "spim.prior_norm": "spmm.norm2.body",
    "spim.query": "spmm.q",
    "spim.key_value": "spmm.kv",
    "spim.project_out": "spmm.proj",
    "spim": "spmm",
    "dpmm.token_weights": "dpmm.weight_linear",
    "dpmm.prior_norm": "dpmm.prior_norm.body",
    "dpmm.scale_shift": "dpmm.prior_linear",
    "dpmm.conv_out": "dpmm.conv3x3",
    "cross_attention.norm": "cross_att.norm.body",
    "cross_attention.query_context": "cross_att.q_dwconv",
    "cross_attention.query": "cross_att.q",
    "cross_attention.key_value_context": "cross_att.kv_dwconv",
    "cross_attention.key_value": "cross_att.kv",
    "cross_attention": "cross_att",
    "attention_norm": "norm1.body",
    "attention.qkv_context": "attn.qkv_dwconv",
    "attention": "attn",
    "feed_forward_norm": "norm2.body",
    "feed_forward.context": "ffn.dwconv",
    "feed_forward": "ffn",
    "conv": "body.0",
    "reduce": "body.0",
    "smooth": "body.2",
    "token_pool": "ca.1",
    "channel_gate": "ca.3",
    "spatial_gate": "sa.conv",
    "gate.squeeze": "CA.fc1",
    "gate.excite": "CA.fc2",
}

_MIXER_PARTS = {
    "token_mlp": "patch_mixer",
    "channel_mlp": "channel_mixer",
    "token_norm": "norm1",
    "channel_norm": "norm2",
}

_ENCODER_STARTS = {
    "encoder.stem": "conv1.0",
    "encoder.narrow": "conv1.2",
    "encoder.conv_out": "conv2",
    "encoder.mixer": "mlp",
    "encoder.expand": "end.0",
    "encoder.blocks": "blocks",
    "type_mlp": "type_mlp.1",
}
_ENCODER_PARTS = {"conv_in": "0", "conv_out": "2", **_MIXER_PARTS}

_DENOISER_STARTS = {
    "time_scale": "time_mlp",
    "linear_in": "first_layer.0",
    "linear_out": "final_layer.0",
    "mixers": "blocks",
}


def official_name(network: Network, name: str) -> str:
    """Return the official name of one of our modules or parameters ("encoders.0.spim.query")."""
    match network:
        case "fusion":
            return _translate(name, _FUSION_STARTS, _FUSION_PARTS)
        case "degradation" | "semantic":
            return _translate(name, _ENCODER_STARTS, _ENCODER_PARTS)
        case "denoiser":
            return _translate(name, _DENOISER_STARTS, _MIXER_PARTS, after_index=".0")


def import_released(
    config: DSPFusionConfig, files: Mapping[str, Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """Return a state dict of `DSPFusionFuser(config)` from the authors' state dicts.

    `files` maps "net_g", "net_dp", "net_sp" and, with diffusion, "net_dm" to what stands under
    the key "params" of the `.pth` file. A key that is missing, left over or of another shape is a
    ValueError; a leading "module." is stripped and the profiler's left-overs are ignored.
    """
    networks = _networks(config)
    expected = sorted(OFFICIAL_FILES[network] for network in networks)
    if sorted(files) != expected:
        raise ValueError(f"this configuration needs the files {expected}, got {sorted(files)}")
    state: dict[str, Tensor] = {}
    for network, module in networks.items():
        file = OFFICIAL_FILES[network]
        official = _clean(files[file])
        for key, parameter in module.state_dict().items():
            tensor = _take(official, official_name(network, key), parameter.shape, file=file)
            state[f"{network}.{key}"] = tensor
        _check_left_over(official, file=file, three_heads=config.three_heads)
    return state


def convert(files: Mapping[str, Mapping[str, Tensor]]) -> tuple[DSPFusionConfig, DSPFusionFuser]:
    """The full-size config and its fuser from the authors' four state dicts, strictly."""
    config = DSPFusionConfig()
    fuser = DSPFusionFuser(config)
    fuser.load_state_dict(import_released(config, files))
    return config, fuser


def _networks(config: DSPFusionConfig) -> dict[Network, nn.Module]:
    """Build the networks without memory: only their keys and shapes are needed."""
    with torch.device("meta"):
        networks: dict[Network, nn.Module] = {
            "fusion": FusionNetwork(config),
            "degradation": DegradationEncoder(config),
            "semantic": SemanticEncoder(config),
        }
        if config.prior == "diffusion":
            networks["denoiser"] = Denoiser(config)
    return networks


def _clean(official: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        key.removeprefix("module."): tensor
        for key, tensor in official.items()
        if not any(mark in key for mark in _PROFILER_MARKS)
    }


def _take(official: dict[str, Tensor], key: str, shape: torch.Size, *, file: str) -> Tensor:
    if key not in official:
        raise ValueError(f"{file} lacks the key {key!r}; is it another version of the model?")
    tensor = official.pop(key)
    if tensor.shape != shape:
        raise ValueError(
            f"{file}: {key!r} has shape {tuple(tensor.shape)}, the configuration asks for "
            f"{tuple(shape)}"
        )
    return tensor


def _check_left_over(official: dict[str, Tensor], *, file: str, three_heads: bool) -> None:
    """Refuse keys that found no place, except the SPIM that the three heads carry but never use."""
    unexpected = [
        key for key in official if not (three_heads and "_header.refinement.spmm." in key)
    ]
    if unexpected:
        raise ValueError(f"{file} has the key {unexpected[0]!r}, which the configuration lacks")


def _translate(
    name: str, starts: Mapping[str, str], parts: Mapping[str, str], *, after_index: str = ""
) -> str:
    """Translate the start of a dotted name, keep a block index, translate the part after it."""
    start = next((s for s in starts if name == s or name.startswith(f"{s}.")), None)
    if start is None:
        raise ValueError(f"no official name is known for {name!r}")
    rest = name[len(start) :].removeprefix(".").split(".")
    words = [starts[start]]
    while rest and (rest[0].isdigit() or rest[0] == "blocks"):
        words.append(rest.pop(0))
        words[-1] += after_index if words[-1].isdigit() else ""
    tail = ".".join(rest)
    part = next((p for p in parts if tail == p or tail.startswith(f"{p}.")), None)
    words.append(tail if part is None else parts[part] + tail[len(part) :])
    return ".".join(word for word in words if word)
