"""Conditional VAE policies as a user would write them by hand in raw torch: the yardstick of ``elbo_step``.

Every class has the networks, sizes and mathematics of one posterior/prior pair of the library, and nothing else.
"""

import math

import torch
import zuko
from torch import Tensor, nn
from torch.nn import functional as F

B, O, A, Z, H, K = 256, 17, 6, 8, 256, 16  # noqa: E741
LOG_2PI = math.log(2 * math.pi)


def perceptron(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, H), nn.SiLU(), nn.Linear(H, H), nn.SiLU(), nn.Linear(H, outputs))


class Raw(nn.Module):
    """A Gaussian decoder p(a|s, z) and an encoder; ``loss`` is minus the ELBO of a batch."""

    outputs = 2 * Z

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = perceptron(O + A, self.outputs), perceptron(O + Z, A)
        self.raw_sigma = nn.Parameter(torch.full((A,), 0.5413))

    def log_likelihood(self, observations: Tensor, actions: Tensor, z: Tensor) -> Tensor:
        sigma = F.softplus(self.raw_sigma)
        error = (actions - self.decoder(torch.cat([observations, z], -1))) / sigma
        return -(0.5 * error.square() + sigma.log() + 0.5 * LOG_2PI).sum(-1)

    def draw(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """z ~ q and log q(z)."""
        mean, raw_scale = self.encoder(torch.cat([observations, actions], -1)).chunk(2, -1)
        scale, noise = F.softplus(raw_scale), torch.randn_like(mean)
        return mean + scale * noise, -(0.5 * noise.square() + scale.log() + 0.5 * LOG_2PI).sum(-1)

    def log_prior(self, z: Tensor) -> Tensor:
        return -0.5 * (z.square() + LOG_2PI).sum(-1)

    def loss(self, observations: Tensor, actions: Tensor) -> Tensor:
        z, log_q = self.draw(observations, actions)
        return (log_q - self.log_prior(z) - self.log_likelihood(observations, actions, z)).mean()


class GaussianNormal(Raw):
    def loss(self, observations: Tensor, actions: Tensor) -> Tensor:
        mean, raw_scale = self.encoder(torch.cat([observations, actions], -1)).chunk(2, -1)
        scale = F.softplus(raw_scale)
        z = mean + scale * torch.randn_like(mean)
        return (self.kl(mean, scale) - self.log_likelihood(observations, actions, z)).mean()

    @staticmethod
    def kl(mean: Tensor, scale: Tensor) -> Tensor:
        return 0.5 * (scale.square() + mean.square() - 1.0 - 2.0 * scale.log()).sum(-1)


class OwnNormal(GaussianNormal):
    """Mean and scale of each datum as parameters; the batch is all data, in a new order each time."""

    def __init__(self) -> None:
        super().__init__()
        del self.encoder
        self.loc, self.raw_scale = nn.Parameter(torch.zeros(B, Z)), nn.Parameter(torch.full((B, Z), 0.5413))
        self.register_buffer("rows", torch.randperm(B))

    def loss(self, observations: Tensor, actions: Tensor) -> Tensor:
        mean, scale = self.loc[self.rows], F.softplus(self.raw_scale[self.rows])
        z = mean + scale * torch.randn_like(mean)
        return (self.kl(mean, scale) - self.log_likelihood(observations, actions, z)).mean()


class SemiAmortizedNormal(GaussianNormal):
    """Five steps of a natural gradient on mean and log scale, through which the gradient runs."""

    def loss(self, observations: Tensor, actions: Tensor) -> Tensor:
        mean, raw_scale = self.encoder(torch.cat([observations, actions], -1)).chunk(2, -1)
        log_scale = F.softplus(raw_scale).log()
        for _ in range(5):
            scale = log_scale.exp()
            z = mean + scale * torch.randn_like(mean)
            bound = (self.log_likelihood(observations, actions, z) - self.kl(mean, scale)).sum()
            by_mean, by_log_scale = torch.autograd.grad(bound, (mean, log_scale), create_graph=True)
            mean = mean + scale * (0.1 * scale * by_mean).clamp(-1.0, 1.0)
            log_scale = log_scale + (0.05 * by_log_scale).clamp(-1.0, 1.0)
        scale = log_scale.exp()
        z = mean + scale * torch.randn_like(mean)
        return (self.kl(mean, scale) - self.log_likelihood(observations, actions, z)).mean()


class GaussianConditional(Raw):
    def __init__(self) -> None:
        super().__init__()
        self.prior = perceptron(O, 2 * Z)

    def loss(self, observations: Tensor, actions: Tensor) -> Tensor:
        mean, raw_scale = self.encoder(torch.cat([observations, actions], -1)).chunk(2, -1)
        prior_mean, prior_raw = self.prior(observations).chunk(2, -1)
        scale, prior_scale = F.softplus(raw_scale), F.softplus(prior_raw)
        z = mean + scale * torch.randn_like(mean)
        ratio = (scale / prior_scale).square()
        kl = 0.5 * (ratio + ((mean - prior_mean) / prior_scale).square() - 1.0 - ratio.log()).sum(-1)
        return (kl - self.log_likelihood(observations, actions, z)).mean()


def log_mixture(logits: Tensor, loc: Tensor, scale: Tensor, z: Tensor) -> Tensor:
    squares = ((z.unsqueeze(-2) - loc) / scale).square().sum(-1)
    log_density = -0.5 * squares - scale.log().sum(-1) - 0.5 * Z * LOG_2PI
    return (logits.log_softmax(-1) + log_density).logsumexp(-1)


class GaussianMixture(Raw):
    def __init__(self) -> None:
        super().__init__()
        self.logits, self.loc = nn.Parameter(torch.zeros(K)), nn.Parameter(torch.randn(K, Z))
        self.raw_scale = nn.Parameter(torch.full((K, Z), 0.5413))

    def log_prior(self, z: Tensor) -> Tensor:
        return log_mixture(self.logits, self.loc, F.softplus(self.raw_scale), z)


class GaussianVamp(Raw):
    def __init__(self) -> None:
        super().__init__()
        self.logits, self.pseudo_inputs = nn.Parameter(torch.zeros(K)), nn.Parameter(torch.randn(K, O + A))

    def log_prior(self, z: Tensor) -> Tensor:
        loc, raw_scale = self.encoder(self.pseudo_inputs).chunk(2, -1)
        return log_mixture(self.logits, loc, F.softplus(raw_scale), z)


def coupling(context: int) -> nn.Module:
    return zuko.flows.NSF(Z, context, 8, transforms=3, passes=2, hidden_features=(32, 32))


class GaussianFlow(Raw):
    def __init__(self) -> None:
        super().__init__()
        self.flow = coupling(0)
        self.loc, self.raw_scale = nn.Parameter(torch.zeros(Z)), nn.Parameter(torch.full((Z,), 0.5413))

    def log_prior(self, z: Tensor) -> Tensor:
        scale = F.softplus(self.raw_scale)
        return self.flow().log_prob((z - self.loc) / scale) - scale.log().sum(-1)


class FullNormal(Raw):
    outputs = 2 * Z + Z * (Z - 1) // 2

    def draw(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        mean, scale, triangle = self._law(observations, actions)
        noise = torch.randn_like(mean)
        z = mean + (triangle @ noise.unsqueeze(-1)).squeeze(-1)
        return z, -(0.5 * noise.square() + scale.log() + 0.5 * LOG_2PI).sum(-1)

    def _law(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        outputs = self.encoder(torch.cat([observations, actions], -1))
        mean, scale, below = outputs[:, :Z], F.softplus(outputs[:, Z : 2 * Z]), outputs[:, 2 * Z :]
        triangle = torch.diag_embed(scale)
        rows, columns = torch.tril_indices(Z, Z, -1)
        triangle[:, rows, columns] = below
        return mean, scale, triangle

    def loss(self, observations: Tensor, actions: Tensor) -> Tensor:
        mean, scale, triangle = self._law(observations, actions)
        z = mean + (triangle @ torch.randn_like(mean).unsqueeze(-1)).squeeze(-1)
        kl = 0.5 * (triangle.square().sum((-2, -1)) + mean.square().sum(-1) - Z) - scale.log().sum(-1)
        return (kl - self.log_likelihood(observations, actions, z)).mean()


class FullMixture(GaussianMixture):
    outputs = FullNormal.outputs
    _law = FullNormal._law
    draw = FullNormal.draw


class FlowNormal(Raw):
    """The spline flow reads the encoder's last hidden layer, as the library's does."""

    def __init__(self) -> None:
        super().__init__()
        self.flow = coupling(H)

    def draw(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        features = self.encoder[:-1](torch.cat([observations, actions], -1))
        mean, raw_scale = self.encoder[-1](features).chunk(2, -1)
        scale, noise = F.softplus(raw_scale), torch.randn_like(mean)
        bent, log_slope = self.flow(features).transform.call_and_ladj(noise)
        log_q = -(0.5 * noise.square() + scale.log() + 0.5 * LOG_2PI).sum(-1) - log_slope
        return mean + scale * bent, log_q


class MixtureNormal(Raw):
    """Four components; the draw carries its gradient by implicit reparameterization (Figurnov et al. 2018)."""

    components = 4
    outputs = components * (1 + 2 * Z)

    def draw(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        size = self.components * Z
        outputs = self.encoder(torch.cat([observations, actions], -1)).split([self.components, size, size], -1)
        log_weights, loc = outputs[0].log_softmax(-1), outputs[1].unflatten(-1, (self.components, Z))
        scale = F.softplus(outputs[2]).unflatten(-1, (self.components, Z))
        with torch.no_grad():
            index = torch.distributions.Categorical(logits=log_weights, validate_args=False).sample()
            rows = torch.arange(len(index))
            z = loc[rows, index] + scale[rows, index] * torch.randn(len(index), Z)
        whitened = (z.unsqueeze(-2) - loc) / scale
        log_density = -0.5 * whitened.square() - scale.log()
        seen = F.pad(log_density[..., :-1].cumsum(-1), (1, 0))
        weights = (log_weights.unsqueeze(-1) + seen).softmax(-2)
        cdf = torch.special.ndtr(whitened)
        conditional = (weights * cdf).sum(-2)
        with torch.no_grad():
            density = (-0.5 * whitened.square() - 0.5 * LOG_2PI).exp() / scale
            slope = -whitened / scale
            jacobian = torch.diag_embed((weights * density).sum(-2))
            spread = weights * (cdf - conditional.unsqueeze(-2))
            jacobian += torch.einsum("bkd,bkj->bdj", spread, slope).tril(-1)
        moved = torch.linalg.solve_triangular(jacobian, (conditional - conditional.detach()).unsqueeze(-1), upper=False)
        z = z - moved.squeeze(-1)
        squares = ((z.unsqueeze(-2) - loc) / scale).square().sum(-1)
        log_components = -0.5 * squares - scale.log().sum(-1) - 0.5 * Z * LOG_2PI
        return z, (log_weights + log_components).logsumexp(-1)


class Categorical(Raw):
    """Score function with a leave-one-out baseline over four draws; analytic KL."""

    outputs = Z

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(Z))

    def loss(self, observations: Tensor, actions: Tensor) -> Tensor:
        log_q = self.encoder(torch.cat([observations, actions], -1)).log_softmax(-1)
        index = torch.distributions.Categorical(logits=log_q, validate_args=False).sample((4,))
        z = F.one_hot(index, Z).to(log_q.dtype)
        log_p = self.log_likelihood(observations.expand(4, -1, -1), actions, z)
        cost = log_p.detach()
        advantage = cost - (cost.sum(0) - cost) / 3
        surrogate = (advantage * (z * log_q).sum(-1) + log_p).mean(0)
        kl = (log_q.exp() * (log_q - self.logits.log_softmax(-1))).sum(-1)
        return (kl - surrogate).mean()
