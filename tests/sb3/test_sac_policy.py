"""Actors of SAC with a latent: their entropies and gradients against quadrature, torch's laws and the stock actor."""

import math
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy import stats
from stable_baselines3 import SAC
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.sac.policies import Actor
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, TanhTransform
from torch.distributions import TransformedDistribution as Transformed

import latentrl.sb3
from latentrl import LatentRLError
from latentrl.sb3 import sac_policy
from latentrl.sb3.latent_actor import ExpectedCritic, LatentActor, MixtureActor, SemiImplicitActor, log_slope
from latentrl.sb3.sac_policy import LatentSACPolicy
from tests.sb3.agents_table import BOX, VECTOR, Toy

STATES, ONE = 5, spaces.Box(-1, 1, (1,))
KINDS: dict[str, Any] = {
    "normal": (SemiImplicitActor, {"latent_dim": 2, "prior": "normal", "num_samples": 8}),
    "gaussian": (SemiImplicitActor, {"latent_dim": 2, "prior": "gaussian", "num_samples": 8}),
    "categorical": (MixtureActor, {"n_components": 3}),
}


class Doubled(FlattenExtractor):
    """stable-baselines3 makes observations float32 before."""

    def forward(self, observations: Tensor) -> Tensor:
        return super().forward(observations).double()


def made(kind: str, actions: spaces.Box = BOX, spread: float = 1.5, **options: Any) -> LatentActor:
    """An actor in float64 whose latents do different things, each with little noise."""
    torch.manual_seed(0)
    actor, defaults = KINDS[kind]
    shape: dict[str, Any] = {"net_arch": [16, 8], **options}
    net_arch, own = shape.pop("net_arch"), {**defaults, **shape}
    extractor = Doubled(VECTOR)
    result = actor(
        VECTOR,
        actions,
        net_arch=net_arch,
        features_extractor=extractor,
        features_dim=extractor.features_dim,
        latent_spread=spread,
        **own,
    )
    with torch.no_grad():
        result.log_std.bias -= 1.0
    return result.double()


def observations(count: int = STATES, copies: int = 1) -> Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(1)).repeat(copies, 1)


def log_density(actor: SemiImplicitActor, obs: Tensor, u: Tensor, samples: int) -> Tensor:
    """log of the density of tanh(u), averaged over fresh latents."""
    before = actor._before_activation(obs)
    law = actor.given(before, torch.randn(samples, len(obs), actor.latent_dim).double())
    gaussian = Independent(Normal(law.loc, law.scale), 1)
    return gaussian.log_prob(u).logsumexp(0) - math.log(samples) - (1 - u.tanh().square()).log().sum(-1)


@torch.no_grad()
def excess(actor: SemiImplicitActor, fresh_alone: bool = False) -> tuple[Tensor, Tensor]:
    """log π̂(a|s) less the log of a 2000-sample average of p(a|s,z): mean over 300 actions in each state, its error."""
    found, obs = [], observations(copies=60)
    for _ in range(5):
        actions, log_prob = actor.action_log_prob(obs)
        u = actions.atanh()
        if fresh_alone:
            log_prob = log_density(actor, obs, u, actor.num_samples)
        found.append((log_prob - log_density(actor, obs, u, 2000)).view(60, STATES))
    over = torch.cat(found)
    return over.mean(0), over.std(0) / len(over) ** 0.5


@pytest.mark.parametrize("kind", ["normal", "gaussian"])
def test_entropy_of_a_continuous_latent_is_a_lower_bound(kind: str) -> None:
    """In each state, by Student's t: gaps that hold fail once in 10⁴, Bonferroni over sizes and states; the bound that
    does not hold is off by far more."""
    sizes, gaps = (1, 8, 64), []
    errors = stats.t.isf(1e-4 / (len(sizes) * STATES), 299)
    for samples in sizes:
        over, error = excess(made(kind, num_samples=samples))
        assert (over > -errors * error).all()
        gaps.append(float(over.mean()))
    assert gaps[0] > 1.5 * gaps[1] > 1.5**2 * gaps[2]
    without, error = excess(made(kind, num_samples=2), fresh_alone=True)
    assert (without < -errors * error).all()
    assert (without < -0.3).all()


def torch_law(actor: MixtureActor, obs: Tensor) -> Transformed:
    law = actor.law(obs)
    gaussians = MixtureSameFamily(Categorical(logits=law.log_weights), Independent(Normal(law.loc, law.scale), 1))
    return Transformed(gaussians, [TanhTransform()])


def test_density_of_a_mixture_is_that_of_torch() -> None:
    actor, obs = made("categorical"), observations()
    actions, log_prob = actor.action_log_prob(obs)
    weights, choices = actions.latent_choices
    law = torch_law(actor, obs)
    each = torch.stack([law.log_prob(choices[:, k]) for k in range(3)], -1)
    torch.testing.assert_close(log_prob, (weights * each).sum(-1))
    torch.testing.assert_close(weights.sum(-1), torch.ones(STATES).double())
    assert (actions.unsqueeze(1) == choices).all(-1).any(-1).all()
    with torch.no_grad():
        assert not hasattr(actor.action_log_prob(obs)[0], "latent_choices")


def test_components_are_drawn_as_often_as_they_weigh() -> None:
    """Chi-square; false alarm rate 10⁻³."""
    actor = made("categorical")
    with torch.no_grad():
        actor.logits.bias.copy_(torch.tensor([0.0, 1.0, -1.0]))
    actions, _ = actor.action_log_prob(observations(1, 4000))
    weights, choices = actions.latent_choices
    drawn = (actions.unsqueeze(1) == choices).all(-1).double().sum(0)
    assert stats.chisquare(drawn.numpy(), 4000 * weights[0].detach().numpy()).pvalue > 1e-3


def critic_of(actor: LatentActor) -> ExpectedCritic:
    """Two networks in float64."""
    extractor = Doubled(VECTOR)
    critic = ExpectedCritic(VECTOR, actor.action_space, [16], extractor, 3, share_features_extractor=False).double()
    for parameter in critic.parameters():
        parameter.data *= 3.0  # far from flat
    return critic


def test_gradient_of_sacs_loss_is_that_of_the_integral() -> None:
    """∇ ∫ π(a|s) (α log π(a|s) − min_i Q_i(s, a)) da by quadrature, for weights, means, scales and layers before.

    Student's t over 20 batches for every parameter; false alarm rate 10⁻³, Bonferroni.
    """
    actor, alpha = made("categorical", ONE, net_arch=[4]), 0.3
    critic, parameters = critic_of(actor), list(actor.parameters())
    obs = observations(1)
    u = torch.linspace(-16, 16, 8001).double().unsqueeze(-1)
    log_pi = actor.law(obs).log_prob(u) - log_slope(u)
    worth = torch.cat(critic(obs.expand(len(u), -1), u.tanh()), 1).amin(1)
    exact = torch.trapezoid((log_pi + log_slope(u)).exp() * (alpha * log_pi - worth), u.squeeze(-1))
    wanted = torch.autograd.grad(exact, parameters)
    batches = []
    for _ in range(20):
        actions, log_prob = actor.action_log_prob(obs.expand(1500, -1))
        worth = torch.cat(critic(obs.expand(1500, -1), actions), dim=1).min(1).values
        batches.append(torch.autograd.grad((alpha * log_prob - worth).mean(), parameters))
    checked = sum(len(w.flatten()) for w in wanted)
    for want, *got in zip(wanted, *batches, strict=True):
        error = torch.stack(got) - want
        scores = error.mean(0) / (error.std(0) / 20**0.5 + 1e-9)
        assert stats.t.sf(scores.abs().max().item(), 19) * 2 * checked > 1e-3


class Scaled(FlattenExtractor):
    """With a parameter."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space)
        self.gain = nn.Parameter(torch.ones(3))

    def forward(self, observations: Tensor) -> Tensor:
        return self.gain * super().forward(observations)


@pytest.mark.parametrize("shared", [True, False])
def test_a_shared_extractor_learns_from_the_actor_alone(shared: bool) -> None:
    """As in the parent, also where the critic averages over components."""
    kwargs = {"prior": "categorical", "features_extractor_class": Scaled, "share_features_extractor": shared}
    agent = SAC("LatentPolicy", Toy(), buffer_size=10, device="cpu", policy_kwargs=kwargs)
    seen = torch.randn(4, 3)
    actions, _ = agent.actor.action_log_prob(seen)
    weights, choices = actions.latent_choices
    actions = actions.detach()
    actions.latent_choices = (weights.detach(), choices.detach())
    (value,) = agent.critic(seen, actions)
    gain = agent.critic.features_extractor.gain
    assert (torch.autograd.grad(value.sum(), gain, allow_unused=True)[0] is None) == shared


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("net_arch", [[16, 8], []])
def test_without_latent_it_is_the_stock_actor(kind: str, net_arch: list[int]) -> None:
    """With the latent's weights at 0, or one component; but for the 10⁻⁶ that the parent adds to 1 − tanh²."""
    actor = made(kind, net_arch=net_arch, **({"n_components": 1} if kind == "categorical" else {}))
    if kind != "categorical":
        for parameter in actor.latent.parameters():
            parameter.data.zero_()
    extractor = Doubled(VECTOR)
    stock = Actor(VECTOR, BOX, net_arch, extractor, extractor.features_dim).double()
    missing = stock.load_state_dict({k: v for k, v in actor.state_dict().items() if k in stock.state_dict()})
    assert not missing.missing_keys
    obs = observations()
    torch.testing.assert_close(actor(obs, True), stock(obs, True))
    actions, log_prob = actor.action_log_prob(obs)
    mean, log_std, _ = stock.get_action_dist_params(obs)
    theirs = stock.action_dist.proba_distribution(mean, log_std).log_prob(actions, actions.atanh())
    torch.testing.assert_close(log_prob, theirs, atol=1e-3, rtol=0)


def test_slope_of_the_squashing_in_its_tails() -> None:
    u = torch.linspace(-4, 4, 9).double()
    torch.testing.assert_close(log_slope(u.unsqueeze(-1)), (1 - u.tanh().square()).log())
    far = torch.tensor([[60.0], [-60.0]])
    torch.testing.assert_close(log_slope(far), torch.full((2,), 2 * math.log(2) - 120))


def test_deterministic_actions_are_likeliest_among_the_fixed_latents() -> None:
    actor, obs = made("gaussian"), observations()
    law = actor.given(actor._before_activation(obs), actor.fixed_noise)
    alike = torch.zeros(STATES, law.loc.shape[0])
    mixture = MixtureSameFamily(
        Categorical(logits=alike), Independent(Normal(law.loc.movedim(0, 1), law.scale.movedim(0, 1)), 1)
    )
    densities = torch.stack([mixture.log_prob(mean) for mean in law.loc])
    best = torch.stack([law.loc[j, b] for b, j in enumerate(densities.argmax(0))])
    torch.testing.assert_close(actor(obs, deterministic=True), best.tanh())
    mixed = made("categorical")
    heaviest = torch.stack([loc[k] for loc, k in zip(mixed.law(obs).loc, mixed.law(obs).log_weights.argmax(-1))])  # noqa: B905
    torch.testing.assert_close(mixed(obs, deterministic=True), heaviest.tanh())


def worth(actions: Tensor) -> Tensor:
    """Two actions are best, ±.6."""
    return (-((actions.abs() - 0.6) / 0.2).square()).exp().squeeze(-1)


def learned(actor: Actor, steps: int) -> Tensor:
    """2000 actions after SAC's actor loss with that worth for a critic."""
    optimizer, obs = torch.optim.Adam(actor.parameters(), 3e-3), torch.zeros(64, 3)
    for _ in range(steps):
        actions, log_prob = actor.action_log_prob(obs)
        if hasattr(actions, "latent_choices"):
            weights, choices = actions.latent_choices
            value = (weights * worth(choices)).sum(-1)
        else:
            value = worth(actions)
        optimizer.zero_grad()
        (0.2 * log_prob - value).mean().backward()
        optimizer.step()
    return actor(torch.zeros(2000, 3)).detach()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_both_of_two_best_actions_are_kept(kind: str) -> None:
    actions = learned(made(kind, ONE, spread=1.0, net_arch=[32, 32]), 300)
    assert worth(actions).mean() > 0.45  # one broad Gaussian that reaches both has .39
    assert min((actions > 0.3).float().mean(), (actions < -0.3).float().mean()) > 0.05


def test_spaces_that_are_refused() -> None:
    unbounded, half = spaces.Box(-np.inf, np.inf, (2,)), spaces.Box(0, np.inf, (2,))
    for space, message in (
        (unbounded, "finite bounds"),
        (half, "finite bounds"),
        (spaces.Discrete(3), "must be a Box"),
    ):
        with pytest.raises(LatentRLError, match=message):
            LatentSACPolicy(VECTOR, space, lambda _: 1e-3)


@pytest.mark.skipif(find_spec("sb3_contrib") is not None, reason="sb3-contrib is installed")
def test_tqc_says_what_it_needs() -> None:
    for module in (sac_policy, latentrl.sb3):
        with pytest.raises(LatentRLError, match=r"latentrl\[contrib\]"):
            _ = module.LatentTQCPolicy


@pytest.mark.skipif(find_spec("sb3_contrib") is None, reason="sb3-contrib is not installed")
@pytest.mark.parametrize("prior", KINDS)
def test_tqc(prior: str) -> None:
    from sb3_contrib import TQC

    from latentrl.sb3 import LatentTQCPolicy

    agent = TQC("LatentPolicy", Toy(), learning_starts=8, seed=0, device="cpu", policy_kwargs={"prior": prior})
    assert type(agent.policy) is LatentTQCPolicy
    before = {key: value.clone() for key, value in agent.policy.named_parameters() if "target" not in key}
    agent.learn(20)
    after = dict(agent.policy.named_parameters())
    assert all(not torch.equal(value, after[key]) for key, value in before.items())
    obs = torch.randn(4, 3)
    actions, _ = agent.actor.action_log_prob(obs)
    quantiles = agent.critic(obs, actions)
    assert quantiles.shape == (4, 2, 25)
    if prior == "categorical":
        weights, choices = actions.latent_choices
        each = torch.stack([agent.critic(obs, choices[:, k].clone()) for k in range(4)], -1)
        torch.testing.assert_close(quantiles, (each * weights[:, None, None]).sum(-1))


def test_a_tighter_bound_is_no_other_network() -> None:
    """The latents that it plays by come along."""
    kwargs = {"net_arch": [16]}
    wide, narrow = (
        SAC("LatentPolicy", Toy(), seed=seed, device="cpu", policy_kwargs={**kwargs, "num_samples": samples})
        for seed, samples in enumerate((16, 4))
    )
    seen = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    before = wide.predict(seen, deterministic=True)[0]
    wide.set_parameters(narrow.get_parameters())
    assert wide.actor.num_samples == 16
    actions = wide.predict(seen, deterministic=True)[0]
    assert np.array_equal(actions, narrow.predict(seen, deterministic=True)[0])
    assert not np.array_equal(actions, before)
    wide.policy.load_state_dict({}, strict=False)
    assert np.array_equal(actions, wide.predict(seen, deterministic=True)[0])
    other = SAC("LatentPolicy", Toy(), device="cpu", policy_kwargs={**kwargs, "latent_dim": 3})
    with pytest.raises(RuntimeError, match="size mismatch"):
        other.set_parameters(narrow.get_parameters())


def test_short_names() -> None:
    agent = SAC("LatentPolicy", Toy(), policy_kwargs={"prior": "categorical", "n_components": 2}, device="cpu")
    assert isinstance(agent.actor, MixtureActor)
    assert isinstance(agent.critic, ExpectedCritic)
    assert isinstance(agent.policy, LatentSACPolicy)


def test_sac_itself_averages_over_components(monkeypatch: pytest.MonkeyPatch) -> None:
    """In each of its gradient steps the critic gets all components with the actions, as nothing copies them between."""
    seen: list[torch.Size] = []
    expected = ExpectedCritic.expected

    def spy(self: Any, weights: torch.Tensor, values: torch.Tensor) -> Any:
        seen.append(values.shape)
        return expected(self, weights, values)

    monkeypatch.setattr(ExpectedCritic, "expected", spy)
    kwargs = {"prior": "categorical", "n_components": 3, "net_arch": [8]}
    agent = SAC("LatentPolicy", Toy(), learning_starts=8, batch_size=5, device="cpu", policy_kwargs=kwargs)
    agent.learn(20)
    assert seen == [(2, 5, 3, 1)] * agent._n_updates
