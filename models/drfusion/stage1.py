"""The only stage: the whole unrolled chain is trained at once (spec 6).

Shapes: B batch, H W pixels (even).
"""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.color import to_gray
from models.devices import rounding, unrounded
from models.drfusion.config import Stage1Config
from models.drfusion.fuser import observe_pair
from models.drfusion.loss import ChainLoss
from models.drfusion.sampler import UnrolledChain
from models.system import Batch, trainable


class Stage1(nn.Module):
    """Reconstruction and fusion losses of the chain's end; noise is never supervised.

    Pictures `vi_*` B×3×H×W and `ir_*` B×1×H×W are in [0, 1], operators `vi_op`, `ir_op` B×3. Under
    autocast only the network is rounded: estimates and corrections stay float32 (spec 6).
    """

    FIELDS: tuple[str, ...] = ("vi_lq", "vi_gt", "ir_lq", "ir_gt", "vi_op", "ir_op")

    def __init__(self, config: Stage1Config) -> None:
        super().__init__()
        self.config = config
        self.chain = UnrolledChain(config.model)
        self.loss = ChainLoss(config.loss)

    def parameter_groups(self) -> list[tuple[float, list[nn.Parameter]]]:
        """What is trained, and at which share of the learning rate."""
        return trainable(self)

    def forward(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Return "loss" with its graph, every weighted term and ᾱ_T detached; all steps are alike."""
        rounded = rounding(batch["vi_lq"])

        def predict(x: Tensor, timestep: int) -> tuple[Tensor, Tensor]:
            with rounded:
                noise, weight = self._run_network(x, timestep)
            return noise.float(), weight.float()

        with unrounded(batch["vi_lq"]):
            observation = observe_pair(
                batch["vi_lq"],
                batch["ir_lq"],
                vi_op=batch["vi_op"],
                ir_op=batch["ir_op"],
                config=self.config.model,
            )
            x0 = self.chain(observation, predict)
            clean = torch.cat([batch["ir_gt"], to_gray(batch["vi_gt"])], dim=1)  # B 2 H W
            return self.losses(x0, clean)

    def losses(self, x0: Tensor, clean: Tensor) -> dict[str, Tensor]:
        """What `forward` returns, of the chain's end B×3×H×W and the clean sources B×2×H×W."""
        terms = self.loss(x0, clean)
        loss = torch.stack(list(terms.values())).sum()
        terms |= {"alpha_bar": self.chain.alpha_bars()[-1]}
        return {"loss": loss, **{name: term.detach() for name, term in terms.items()}}

    def _run_network(self, x: Tensor, timestep: int) -> tuple[Tensor, Tensor]:
        if not self.config.recompute_steps:
            return self.chain.unet(x, timestep)
        # Dropout drops the same again: checkpoint restores the generators' states.
        return checkpoint(self.chain.unet, x, timestep, use_reentrant=False)
