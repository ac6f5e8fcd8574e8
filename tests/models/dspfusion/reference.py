"""DSPFusion built layer by layer from the specification, as the published code is structured.

A yardstick, not a product: the two modalities one after the other, layer norms by rearranging and
by hand, full projections in every attention, five encoder calls in a Stage I step. The golden
vectors hold it in place (`test_reference.py`); `python -m jobs.bench model` measures against it.
Module names are the authors' ("spmm" is SPIM), so that their keys are this state dict's.

Shapes: B batch, C channels, H W pixels, N prior tokens, D prior width, h heads, c = C / h.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_FFN_EXPANSION = 2.66
_LEVELS = ("1", "2", "3")


class LayerNormBody(nn.Module):
    """Mean and variance by hand over the last axis."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(-1, keepdim=True)
        variance = x.var(-1, keepdim=True, unbiased=False)
        return (x - mean) / torch.sqrt(variance + 1e-5) * self.weight + self.bias


class LayerNorm(nn.Module):
    """Over the channels of B×C×H×W, through B×HW×C and back; over the width of B×N×D as it is."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = LayerNormBody(width)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 3:
            return self.body(x)
        height, width = x.shape[-2:]
        return to_map(self.body(to_tokens(x)), height, width)


def to_tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2).contiguous()  # B HW C


def to_map(tokens: Tensor, height: int, width: int) -> Tensor:
    return tokens.transpose(1, 2).contiguous().unflatten(2, (height, width))  # B C H W


class Mixer(nn.Module):
    """M(x) of spec 1.1."""

    def __init__(self, num_tokens: int, width: int, expansion: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.patch_mixer = _mlp(num_tokens, num_tokens // 2)
        self.channel_mixer = _mlp(width, expansion * width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.patch_mixer(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channel_mixer(self.norm2(x))


def _mlp(width: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


class Encoder(nn.Module):
    """SPEN's graph; DPEN adds the type vector (spec 1.1, 1.2)."""

    def __init__(self, in_channels: int, width: int, num_blocks: int) -> None:
        super().__init__()
        stem = width * 3 // 2
        self.conv1 = nn.Sequential(
            nn.Conv2d(in_channels, stem, 7, 4, 3), nn.GELU(), nn.Conv2d(stem, width, 3, 1, 1)
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, 1, 1), nn.GELU(), nn.Conv2d(width, width, 3, 1, 1)
            )
            for _ in range(num_blocks)
        )
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1)
        self.mlp = Mixer(16, width, 4)
        self.end = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.conv1(x))
        for block in self.blocks:
            x = x + block(x)
        x = F.adaptive_avg_pool2d(self.conv2(x), 4)
        return self.end(self.mlp(x.flatten(2).transpose(1, 2)))


class DegradationEncoder(Encoder):
    """DPEN with its type vector, B×128 (spec 1.2)."""

    def __init__(self) -> None:
        super().__init__(3, 32, 4)
        self.type_mlp = nn.Sequential(nn.Identity(), nn.Linear(16, 1))

    def with_type(self, x: Tensor) -> tuple[Tensor, Tensor]:
        prior = self(x)
        return prior, F.gelu(self.type_mlp(prior.transpose(1, 2))).squeeze(-1)


class Denoiser(nn.Module):
    """f(x, c, t) of spec 1.4."""

    def __init__(self) -> None:
        super().__init__()
        self.time_mlp = nn.Parameter(torch.full((1,), 1e-3))
        self.first_layer = nn.Sequential(nn.Linear(1024, 512), nn.LeakyReLU(0.2))
        self.blocks = nn.ModuleList(nn.Sequential(Mixer(16, 512, 2), nn.GELU()) for _ in range(4))
        self.final_layer = nn.Sequential(nn.Linear(512, 256), nn.GELU())

    def forward(self, x: Tensor, condition: Tensor, timestep: int) -> Tensor:
        time = (self.time_mlp * timestep).expand_as(x)
        h = self.first_layer(torch.cat([x, time, condition], dim=-1))
        for block in self.blocks:
            h = block(h)
        return self.final_layer(h)


def schedule() -> tuple[list[float], list[float], list[float]]:
    """abar, k1 and k2 of spec 1.4, by timestep."""
    low, high = math.sqrt(0.1), math.sqrt(0.99)
    betas = [(low + t / 9 * (high - low)) ** 2 for t in range(10)]
    bars = [math.prod(1 - beta for beta in betas[: t + 1]) for t in range(10)]
    before = [1.0, *bars[:-1]]
    k1 = [betas[t] * math.sqrt(before[t]) / (1 - bars[t]) for t in range(10)]
    k2 = [(1 - before[t]) * math.sqrt(1 - betas[t]) / (1 - bars[t]) for t in range(10)]
    return bars, k1, k2


def sample(denoiser: Denoiser, x: Tensor, condition: Tensor) -> list[Tensor]:
    """The states after each reverse step, t = 9 .. 0."""
    _, k1, k2 = schedule()
    states = []
    for t in reversed(range(10)):
        x = k1[t] * denoiser(x, condition, t) + k2[t] * x
        states.append(x)
    return states


class Spim(nn.Module):
    """SPIM (spec 1.3): every pixel's query projected, attended, projected back."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1, self.norm2 = LayerNorm(channels), LayerNorm(256)
        self.q = nn.Linear(channels, channels, bias=False)
        self.kv = nn.Linear(256, 2 * channels, bias=False)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, prior: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        q = self.q(to_tokens(self.norm1(x)))
        k, v = self.kv(self.norm2(prior)).chunk(2, -1)
        q, k, v = (t.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for t in (q, k, v))
        attention = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)  # B h HW N
        content = self.proj((attention @ v).transpose(1, 2).flatten(2))
        return x + to_map(content, height, width)


class Dpmm(nn.Module):
    """DPMM (spec 1.3)."""

    def __init__(self, channels: int, num_tokens: int) -> None:
        super().__init__()
        self.weight_linear = nn.Linear(channels, num_tokens)
        self.prior_norm = LayerNorm(128)
        self.prior_linear = nn.Linear(128, 2 * channels, bias=False)
        self.conv3x3 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)

    def forward(self, x: Tensor, prior: Tensor) -> Tensor:
        weights = self.weight_linear(x.mean((2, 3))).softmax(-1)
        summary = (weights.unsqueeze(-1) * prior).sum(1, keepdim=True)  # B 1 128
        alpha, beta = self.prior_linear(self.prior_norm(summary)).squeeze(1).chunk(2, -1)
        return self.conv3x3(alpha[..., None, None] * x + beta[..., None, None])


def depthwise(channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, 1, 1, groups=channels, bias=False)


def transposed_attention(q: Tensor, k: Tensor, v: Tensor, temperature: Tensor) -> Tensor:
    """L2-normalised rows, c×c softmax, times v (spec 1.3, MDTA)."""
    size = q.shape[-2:]
    q, k, v = (t.flatten(2).unflatten(1, (len(temperature), -1)) for t in (q, k, v))
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    attention = (q @ k.transpose(-2, -1) * temperature).softmax(-1)
    return (attention @ v).flatten(1, 2).unflatten(2, size)


class Mdta(nn.Module):
    """MDTA (spec 1.3)."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(num_heads, 1, 1))
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.qkv_dwconv = depthwise(3 * channels)
        self.project_out = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv_dwconv(self.qkv(x)).chunk(3, 1)
        return self.project_out(transposed_attention(q, k, v, self.temperature))


class CrossAttention(nn.Module):
    """Query from a, key and value from b, one norm, residual on a (spec 1.3)."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(num_heads, 1, 1))
        self.norm = LayerNorm(channels)
        self.q = nn.Conv2d(channels, channels, 1, bias=False)
        self.q_dwconv = depthwise(channels)
        self.kv = nn.Conv2d(channels, 2 * channels, 1, bias=False)
        self.kv_dwconv = depthwise(2 * channels)
        self.project_out = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        q = self.q_dwconv(self.q(self.norm(a)))
        k, v = self.kv_dwconv(self.kv(self.norm(b))).chunk(2, 1)
        return a + self.project_out(transposed_attention(q, k, v, self.temperature))


class Gdfn(nn.Module):
    """GDFN (spec 1.3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = int(_FFN_EXPANSION * channels)
        self.project_in = nn.Conv2d(channels, 2 * hidden, 1, bias=False)
        self.dwconv = depthwise(2 * hidden)
        self.project_out = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.dwconv(self.project_in(x)).chunk(2, 1)
        return self.project_out(F.gelu(first) * second)


class Block(nn.Module):
    """Transformer block (spec 1.3)."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = LayerNorm(channels), LayerNorm(channels)
        self.attn, self.ffn = Mdta(channels, num_heads), Gdfn(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class EncoderLayer(nn.Module):
    """SPIM and DPMM, cross attention, blocks (spec 1.3)."""

    def __init__(self, channels: int, num_heads: int, num_blocks: int, num_tokens: int) -> None:
        super().__init__()
        self.spmm, self.dpmm = Spim(channels, num_heads), Dpmm(channels, num_tokens)
        self.cross_att = CrossAttention(channels, num_heads)
        self.blocks = nn.Sequential(*(Block(channels, num_heads) for _ in range(num_blocks)))

    def forward(self, x: Tensor, semantic: Tensor, degradation: Tensor) -> Tensor:
        return self.blocks(self.cross_att(self.spmm(x, semantic), self.dpmm(x, degradation)))


class DecoderLayer(nn.Module):
    """SPIM, blocks (spec 1.3)."""

    def __init__(self, channels: int, num_heads: int, num_blocks: int) -> None:
        super().__init__()
        self.spmm = Spim(channels, num_heads)
        self.blocks = nn.Sequential(*(Block(channels, num_heads) for _ in range(num_blocks)))

    def forward(self, x: Tensor, semantic: Tensor) -> Tensor:
        return self.blocks(self.spmm(x, semantic))


class Pgfm(nn.Module):
    """Prior-guided fusion (spec 1.3)."""

    def __init__(self, channels: int, num_tokens: int) -> None:
        super().__init__()
        self.ca = nn.ModuleDict({"1": nn.Linear(num_tokens, 1), "3": nn.Linear(256, 2 * channels)})
        self.sa = nn.ModuleDict({"conv": nn.Conv2d(2, 1, 7, 1, 3, bias=False)})
        self.project_out = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, ir: Tensor, vi: Tensor, prior: Tensor) -> Tensor:
        summary = self.ca["1"](prior.transpose(1, 2)).squeeze(-1)
        gates = self.ca["3"](summary)[..., None, None].chunk(2, 1)
        return self.project_out(
            sum(
                torch.sigmoid(
                    gate * self.sa["conv"](torch.cat([x.mean(1, True), x.amax(1, True)], 1))
                )
                * x
                for gate, x in zip(gates, (ir, vi), strict=True)
            )
        )


class PriorMap(nn.Module):
    """A prior for the next level: tokens, then channels (spec 1.3)."""

    def __init__(self, num_tokens: int, width: int) -> None:
        super().__init__()
        self.add_module("1", nn.Linear(num_tokens, 4))
        self.add_module("3", nn.Linear(width, width))

    def forward(self, prior: Tensor) -> Tensor:
        tokens, channels = self.children()
        return channels(tokens(prior.transpose(1, 2)).transpose(1, 2))


class Down(nn.Module):
    """Down(n) (spec 1.3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        conv = nn.Conv2d(channels, channels // 2, 3, 1, 1, bias=False)
        self.body = nn.Sequential(conv, nn.PixelUnshuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Up(nn.Module):
    """Up(n) (spec 1.3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.body = nn.Sequential(
            nn.Conv2d(channels, half, 3, 1, 1, bias=False),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
            nn.Conv2d(half, half, 3, 1, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class FusionNetwork(nn.Module):
    """`net_g` with the released configuration (spec 1.3)."""

    def __init__(self) -> None:
        super().__init__()
        self.down_1, self.down_2 = PriorMap(16, 256), PriorMap(4, 256)
        self.type_down_1, self.type_down_2 = PriorMap(16, 128), PriorMap(4, 128)
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, 32, 3, 1, 1, bias=False)})
        self.encoder_level1 = EncoderLayer(32, 1, 2, 16)
        self.encoder_level2 = EncoderLayer(64, 1, 2, 4)
        self.encoder_level3 = EncoderLayer(128, 2, 4, 4)
        self.latent = EncoderLayer(256, 2, 4, 4)
        self.fusion_level1, self.fusion_level2 = Pgfm(32, 16), Pgfm(64, 4)
        self.fusion_level3, self.fusion_latent = Pgfm(128, 4), Pgfm(256, 4)
        self.down1_2, self.down2_3, self.down3_4 = Down(32), Down(64), Down(128)
        self.up4_3, self.up3_2, self.up2_1 = Up(256), Up(128), Up(64)
        self.reduce_chan_level3 = nn.Conv2d(256, 128, 1, bias=False)
        self.reduce_chan_level2 = nn.Conv2d(128, 64, 1, bias=False)
        self.decoder_level3 = DecoderLayer(128, 2, 4)
        self.decoder_level2 = DecoderLayer(64, 1, 2)
        self.decoder_level1 = DecoderLayer(64, 1, 2)
        self.refinement = DecoderLayer(64, 1, 1)
        self.output = nn.Conv2d(64, 3, 3, 1, 1, bias=False)

    def forward(self, ir: Tensor, vi: Tensor, dp_ir: Tensor, dp_vi: Tensor, p1: Tensor) -> Tensor:
        p2 = self.down_1(p1)
        p3 = self.down_2(p2)
        semantic = (p1, p2, p3)
        from_ir, from_vi = self._encode(ir, dp_ir, semantic), self._encode(vi, dp_vi, semantic)
        fused1 = self.fusion_level1(from_ir[0], from_vi[0], p1)
        fused2 = self.fusion_level2(from_ir[1], from_vi[1], p2)
        fused3 = self.fusion_level3(from_ir[2], from_vi[2], p3)
        x = self.up4_3(self.fusion_latent(from_ir[3], from_vi[3], p3))
        x = self.decoder_level3(self.reduce_chan_level3(torch.cat([x, fused3], 1)), p3)
        x = self.reduce_chan_level2(torch.cat([self.up3_2(x), fused2], 1))
        x = self.decoder_level2(x, p2)
        x = self.decoder_level1(torch.cat([self.up2_1(x), fused1], 1), p1)
        return (torch.tanh(self.output(self.refinement(x, p1)) + vi) + 1) / 2

    def _encode(self, image: Tensor, d1: Tensor, semantic: tuple[Tensor, ...]) -> list[Tensor]:
        p1, p2, p3 = semantic
        d2 = self.type_down_1(d1)
        d3 = self.type_down_2(d2)
        level1 = self.encoder_level1(self.patch_embed["proj"](image), p1, d1)
        level2 = self.encoder_level2(self.down1_2(level1), p2, d2)
        level3 = self.encoder_level3(self.down2_3(level2), p3, d3)
        return [level1, level2, level3, self.latent(self.down3_4(level3), p3, d3)]


class Reference(nn.Module):
    """The four networks, under the names of the authors' files."""

    def __init__(self) -> None:
        super().__init__()
        self.net_g = FusionNetwork()
        self.net_dp = DegradationEncoder()
        self.net_sp = Encoder(6, 64, 6)
        self.net_dm = Denoiser()

    def forward(self, ir: Tensor, vi: Tensor, noise: Tensor) -> Tensor:
        """Whole inference (spec 1.5), three-channel infrared, H and W multiples of 8."""
        semantic = self.net_sp(torch.cat([ir, vi], 1))
        dp_ir, dp_vi = self.net_dp(ir), self.net_dp(vi)
        prior = sample(self.net_dm, noise, torch.cat([semantic, dp_ir, dp_vi], -1))[-1]
        return self.net_g(ir, vi, dp_ir, dp_vi, prior)


def gray(x: Tensor) -> Tensor:
    return 0.299 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:]


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Gaussian window 13×13 made at each call, sigma 1.5, no padding (spec 2.1)."""
    offsets = torch.arange(13, dtype=torch.float32) - 6
    line = torch.exp(-(offsets**2) / 4.5)
    line = line / line.sum()
    channels = x.shape[1]
    window = (line[:, None] * line[None, :]).expand(channels, 1, 13, 13).contiguous()

    def blur(z: Tensor) -> Tensor:
        return F.conv2d(z, window, groups=channels)

    mx, my = blur(x), blur(y)
    vx, vy, vxy = blur(x * x) - mx * mx, blur(y * y) - my * my, blur(x * y) - mx * my
    c1, c2 = 1e-4, 9e-4
    numerator = (2 * mx * my + c1) * (2 * vxy + c2)
    return (numerator / ((mx * mx + my * my + c1) * (vx + vy + c2))).mean()


def sobel(x: Tensor) -> tuple[Tensor, Tensor]:
    kernel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    across, down = F.conv2d(padded, kernel[None, None]), F.conv2d(padded, kernel.T[None, None])
    return across.abs(), down.abs()


def fusion_losses(f: Tensor, r: Tensor, v: Tensor) -> dict[str, Tensor]:
    """The weighted terms of L_fus under the golden files' names, and their sum (spec 2.1)."""
    target = torch.where(r.mean(1, True) > v.mean(1, True), r, v)
    gf, gr, gv = gray(f), gray(r), gray(v)
    edges = zip(sobel(gf), sobel(gr), sobel(gv), strict=True)
    consistency = ((gv - gf).abs().mean() + (gr - gf).abs().mean()) / 2
    chroma = zip(_chroma(v), _chroma(f), strict=True)
    terms = {
        "loss_intensity_max": 15 * (target - f).abs().mean(),
        "loss_color": 20 * _total((a - b).abs().mean() for a, b in chroma),
        "loss_grad": 10 * _total((e - torch.maximum(ev, er)).abs().mean() for e, er, ev in edges),
        "loss_intensity_consist": consistency,
        "loss_ssim": 2 * (1 - ssim(v, f) + 1 - ssim(gr, gf)),
    }
    return {**terms, "loss_fusion": torch.stack(list(terms.values())).sum()}


def _total(terms: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(terms)).sum()


def _chroma(x: Tensor) -> tuple[Tensor, Tensor]:
    r, g, b = x[:, :1], x[:, 1:2], x[:, 2:]
    return -0.168736 * r - 0.331264 * g + 0.5 * b, 0.5 * r - 0.418688 * g - 0.081312 * b


def nce(anchor: Tensor, positive: Tensor, negatives: list[Tensor]) -> Tensor:
    """InfoNCE of spec 2.1, temperature 0.1, vectors B×128."""
    anchor = F.normalize(anchor, dim=-1)
    others = [F.normalize(x, dim=-1) for x in (positive, *negatives)]
    logits = torch.stack([(anchor * x).sum(-1) / 0.1 for x in others], 1)
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))


def contrastive_loss(
    anchors: list[Tensor], positives: list[list[Tensor]], negatives: list[Tensor]
) -> Tensor:
    """L_cl of spec 2.1; `positives` are those of IR and those of VI."""
    ir, vi = anchors
    terms = [nce(ir, p, [*negatives, vi]) for p in positives[0]]
    terms += [nce(vi, p, [*negatives, ir]) for p in positives[1]]
    return torch.stack(terms).sum()


def stage1_losses(model: Reference, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """One Stage I forward (spec 2.1); images as in the golden step: pos_* B×9×H×W, neg B×18×H×W."""
    ir, vi, gt_ir, gt_vi = (batch[name] for name in ("ir", "vi", "gt_ir", "gt_vi"))
    size = len(ir)
    dp_ir, type_ir = model.net_dp.with_type(ir)
    dp_vi, type_vi = model.net_dp.with_type(vi)
    types = [
        model.net_dp.with_type(torch.cat(batch[name].split(3, 1)))[1].split(size)
        for name in ("pos_ir", "pos_vi", "neg")
    ]
    prior = model.net_sp(torch.cat([gt_ir, gt_vi], 1))
    fused = model.net_g(ir, vi, dp_ir, dp_vi, prior)
    contrastive = contrastive_loss([type_ir, type_vi], types[:2], types[2])
    losses = fusion_losses(fused, gt_ir, gt_vi)
    total = losses["loss_fusion"] + contrastive
    return {**losses, "l_contra": contrastive, "loss": total, "fused": fused}


def stage2_losses(model: Reference, batch: dict[str, Tensor], noise: Tensor) -> dict[str, Tensor]:
    """One Stage II forward (spec 2.2); everything but net_dm is frozen by the caller."""
    ir, vi, gt_ir, gt_vi = (batch[name] for name in ("ir", "vi", "gt_ir", "gt_vi"))
    dp_ir, dp_vi = model.net_dp(ir), model.net_dp(vi)
    condition = torch.cat([model.net_sp(torch.cat([ir, vi], 1)), dp_ir, dp_vi], -1)
    target = model.net_sp(torch.cat([gt_ir, gt_vi], 1))
    bar = schedule()[0][-1]
    x = math.sqrt(bar) * target + math.sqrt(1 - bar) * noise
    prior = sample(model.net_dm, x, condition)[-1]
    fused = model.net_g(ir, vi, dp_ir, dp_vi, prior)
    losses = fusion_losses(fused, gt_ir, gt_vi)
    diffusion = 10 * (target - prior).abs().mean()
    total = losses["loss_fusion"] + diffusion
    return {**losses, "l_pix_diff": diffusion, "loss": total, "fused": fused}
