"""What a denoiser is asked to predict, at which amount of noise, and how much each answer counts."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from playground.errors import ModelUnavailable
from playground.models.image import ImageModel


class Objective(ABC):
    """Noise added to latents, and what is to be learnt from it. Tensors are batch first, on one device."""

    @abstractmethod
    def times(self, count: int, generator: torch.Generator) -> Tensor:
        """``count`` moments of the noising, on the generator's device.

        They are spread: a first one is drawn, the others follow at equal distances (Kingma et al. 2021,
        arXiv:2107.00630, I.1). Each alone has the distribution it would have if all were drawn alone, but
        their mean loss scatters less.
        """

    @abstractmethod
    def noisy(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """Latents (n, c, h, w) with the noise of those times (n,) in them."""

    @abstractmethod
    def target(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """What the denoiser should answer, (n, c, h, w)."""

    @abstractmethod
    def weights(self, times: Tensor) -> Tensor:
        """How much each sample's squared error counts, (n,)."""


class DDPM(Objective):
    """Ho et al. 2020, arXiv:2006.11239, with the schedule that ``scheduler`` was set up with.

    The denoiser predicts the noise ("epsilon") or the velocity ("v_prediction", Salimans and Ho 2022,
    arXiv:2202.00512). With ``snr_gamma`` the errors count by min-SNR-γ (Hang et al. 2023, arXiv:2303.09556): by the
    signal-to-noise ratio at the sample's own time.

    Raises:
        ModelUnavailable: the scheduler's denoiser predicts something else.
    """

    def __init__(self, scheduler, snr_gamma: float | None = None):
        self.kind = scheduler.config.prediction_type
        if self.kind not in ("epsilon", "v_prediction"):
            raise ModelUnavailable(f"A denoiser that predicts “{self.kind}” cannot be trained here.")
        self.alphas = scheduler.alphas_cumprod.float()
        self.snr_gamma = snr_gamma

    def times(self, count: int, generator: torch.Generator) -> Tensor:
        return (_spread(count, generator) * len(self.alphas)).long().clamp(max=len(self.alphas) - 1)

    def noisy(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        signal, amount = self._parts(times)
        return signal * latents + amount * noise

    def target(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        if self.kind == "epsilon":
            return noise
        signal, amount = self._parts(times)
        return signal * noise - amount * latents

    def weights(self, times: Tensor) -> Tensor:
        if self.snr_gamma is None:
            return torch.ones(len(times), device=times.device)
        alpha = self._alphas(times)
        ratio = alpha / (1 - alpha)
        if self.kind == "epsilon":
            return (self.snr_gamma / ratio).clamp(max=1)
        return ratio.clamp(max=self.snr_gamma) / (ratio + 1)

    def _alphas(self, times: Tensor) -> Tensor:
        if self.alphas.device != times.device:
            self.alphas = self.alphas.to(times.device)
        return self.alphas[times]

    def _parts(self, times: Tensor) -> tuple[Tensor, Tensor]:
        alpha = self._alphas(times)[:, None, None, None]
        return alpha.sqrt(), (1 - alpha).sqrt()


class FlowMatching(Objective):
    """Rectified flow (Liu et al. 2022, arXiv:2209.03003): a straight line from latents (0) to noise (1).

    Times are logit-normal as in Esser et al. 2024 (arXiv:2403.03206, 3.1), moved towards noise by ``shift`` as the
    pipeline's own schedule is (5.3.2 there). Errors count alike at all times.
    """

    def __init__(self, shift: float = 1.0):
        self.shift = shift

    def times(self, count: int, generator: torch.Generator) -> Tensor:
        even = _spread(count, generator).clamp(1e-6, 1 - 1e-6)
        plain = (math.sqrt(2) * torch.erfinv(2 * even - 1)).sigmoid()
        return self.shift * plain / (1 + (self.shift - 1) * plain)

    def noisy(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        share = times[:, None, None, None]
        return (1 - share) * latents + share * noise

    def target(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        return noise - latents

    def weights(self, times: Tensor) -> Tensor:
        return torch.ones_like(times)


def objective_of(model: ImageModel, height: int, width: int, snr_gamma: float | None = None) -> Objective:
    """What the model's denoiser learnt, for latents of that height and width.

    Args:
        snr_gamma: γ of min-SNR weights, None = all errors count alike; flow matching has no use for it.

    Raises:
        ModelUnavailable: its scheduler is of no known kind.
    """
    if model.family.objective == "flow":
        return FlowMatching(model.family.shift(model.pipeline, height, width))
    return DDPM(model.pipeline.scheduler, snr_gamma)


def _spread(count: int, generator: torch.Generator) -> Tensor:
    """``count`` numbers in 0…1, each uniform, at equal distances around the circle."""
    first = torch.rand(1, generator=generator, device=generator.device)
    return (first + torch.arange(count, device=generator.device) / count) % 1
