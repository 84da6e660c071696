"""Mixtures with the components summed out: against stable-baselines3's own laws, sums over all actions and draws."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy import stats
from stable_baselines3 import PPO
from stable_baselines3.common.distributions import Distribution, make_proba_distribution
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from latentrl import LatentRLError
from latentrl.distributions import Bernoullis, DiagonalNormal, FullNormal, GaussianMixture, Mixture, OneHots
from latentrl.distributions.pairs import bhattacharyya
from latentrl.sb3.mixture_heads import mixture_of
from tests.sb3.agents_table import Toy

B, K, FEATURES = 5, 3, 6
SPACES = {
    "box": spaces.Box(-1, 1, (2,)),
    "choice": spaces.Discrete(4),
    "choices": spaces.MultiDiscrete([3, 2, 4]),
    "bits": spaces.MultiBinary(3),
    "many choices": spaces.MultiDiscrete([9, 9, 9]),
    "many bits": spaces.MultiBinary(9),
}
FINITE = [name for name in SPACES if name != "box"]


def made(name: str, components: int = K, seed: int = 0) -> tuple[Distribution, tuple[Tensor, ...]]:
    """A mixture whose components differ, with the outputs that it was made from."""
    torch.manual_seed(seed)
    law = mixture_of(make_proba_distribution(SPACES[name]), components)
    net = law.proba_distribution_net(FEATURES)
    head, *rest = net if isinstance(net, tuple) else (net,)
    outputs = 3.0 * head(torch.randn(B, FEATURES)).detach().double()
    scales = tuple(torch.linspace(-1, 0, part.numel()).view_as(part).double() for part in rest)
    return law.proba_distribution(outputs, *scales), (outputs, *scales)


def every_action(name: str) -> Tensor:
    space = SPACES[name]
    if isinstance(space, spaces.Discrete):
        return torch.arange(space.n)
    counts = space.nvec if isinstance(space, spaces.MultiDiscrete) else [2] * space.n
    return torch.tensor(list(itertools.product(*map(range, counts)))).double()


def log_table(name: str, law: Distribution) -> Tensor:
    """log π of every action, (N, B)."""
    actions = every_action(name)
    return torch.stack([law.log_prob(action.expand(B, *action.shape)) for action in actions])


@pytest.mark.parametrize("name", SPACES)
def test_one_component_is_the_law_of_the_parent(name: str) -> None:
    law, (outputs, *scales) = made(name, components=1)
    plain = make_proba_distribution(SPACES[name]).proba_distribution(outputs[:, 1:], *(part[0] for part in scales))
    actions = plain.sample()
    torch.testing.assert_close(law.log_prob(actions), plain.log_prob(actions))
    torch.testing.assert_close(law.entropy(), plain.entropy())
    torch.testing.assert_close(law.mode().double(), plain.mode().double())


@pytest.mark.parametrize("name", FINITE)
def test_probabilities_add_up_and_entropy_is_theirs(name: str) -> None:
    law, _ = made(name)
    table = log_table(name, law)
    torch.testing.assert_close(table.exp().sum(0), torch.ones(B).double())
    exact = -(table.exp() * table).sum(0)
    if name.startswith("many"):
        assert (law.entropy() < exact).all()
        assert (law.entropy() > 0.9 * exact).all()
    else:
        torch.testing.assert_close(law.entropy(), exact)
        likeliest = every_action(name)[table.argmax(0)]
        torch.testing.assert_close(law.mode().double(), likeliest.double())


def test_box_has_the_density_of_torchs_mixture() -> None:
    law, (outputs, log_std) = made("box")
    components = Independent(Normal(outputs[:, K:].view(B, K, 2), log_std.exp()), 1)
    other = MixtureSameFamily(Categorical(logits=outputs[:, :K]), components)
    actions = law.sample()
    torch.testing.assert_close(law.log_prob(actions), other.log_prob(actions))
    heaviest = outputs[:, :K].argmax(-1)
    torch.testing.assert_close(law.mode(), outputs[:, K:].view(B, K, 2)[torch.arange(B), heaviest])


@pytest.mark.parametrize("name", FINITE)
def test_draws_come_as_often_as_they_should(name: str) -> None:
    """Chi-square over all actions expected at least five times; false alarm rate 10⁻³, Bonferroni over states."""
    law, _ = made(name, seed=1)
    draws = torch.stack([law.sample() for _ in range(2000)])
    expected = 2000 * log_table(name, law).exp()
    for state in range(B):
        same = draws[:, state].unsqueeze(1) == every_action(name)
        observed = (same.all(-1) if same.dim() == 3 else same).sum(0)
        often = expected[:, state] >= 5
        parts = [(part[often], part[~often].sum()) for part in (observed.double(), expected[:, state])]
        counts, wanted = (torch.cat([most, rest.view(1)]) for most, rest in parts)
        kept = wanted > 1
        wanted = wanted[kept] * counts[kept].sum() / wanted[kept].sum()
        assert stats.chisquare(counts[kept], wanted).pvalue > 1e-3 / B


def test_draws_of_a_box_follow_the_mixture() -> None:
    """Kolmogorov-Smirnov test of both dimensions' distribution functions, the second given the first (Rosenblatt 1952).

    False alarm rate 10⁻³, Bonferroni over 5 states and 2 dimensions.
    """
    law, (outputs, log_std) = made("box", seed=1)
    weights, loc, scale = outputs[:, :K].log_softmax(-1), outputs[:, K:].view(B, K, 2), log_std.exp()
    draws = torch.stack([law.sample() for _ in range(2000)])
    apart = Normal(loc, scale)
    first, second = apart.cdf(draws.unsqueeze(2)).unbind(-1)
    given = (weights + apart.log_prob(draws.unsqueeze(2))[..., 0]).softmax(-1)
    for u in ((weights.exp() * first).sum(-1), (given * second).sum(-1)):
        for state in range(B):
            assert stats.kstest(u[:, state], "uniform").pvalue > 1e-3 / (2 * B)


@pytest.mark.parametrize("space", SPACES)
def test_entropy_has_its_gradient_unless_that_is_zero(space: str) -> None:
    """As of the law itself; without a bonus for entropy nothing at all is computed."""
    agent = PPO("MixturePolicy", Toy(action_space=SPACES[space]), seed=0, device="cpu")
    policy, seen = agent.policy, torch.randn(B, 3)
    parameters = [policy.action_net.weight, policy.mlp_extractor.policy_net[0].weight]
    actions = policy.get_distribution(seen).sample()
    found = torch.autograd.grad(2.0 * policy.evaluate_actions(seen, actions)[2].mean(), parameters)
    law = policy.get_distribution(seen)
    if space == "choice":
        entropy = law.distribution.entropy()
    elif space == "box" or (listed := law._listed()) is None:
        entropy = law.distribution.entropy_lower_bound()
    else:
        entropy = -(listed[1].exp() * listed[1]).sum(0)
    expected = torch.autograd.grad(2.0 * entropy.mean(), parameters)
    torch.testing.assert_close(found, expected)
    assert all(bool(part.any()) for part in found)
    (0.0 * policy.evaluate_actions(seen, actions)[2].mean()).backward()
    assert all(parameter.grad is None for parameter in parameters)


@pytest.mark.parametrize("name", ["box", "choices", "bits"])
def test_log_probabilities_of_the_parents_short_way(name: str) -> None:
    law, outputs = made(name)
    torch.manual_seed(3)
    actions, log_prob = law.log_prob_from_params(*outputs)
    torch.testing.assert_close(log_prob, law.log_prob(actions))
    torch.testing.assert_close(law.actions_from_params(*outputs, deterministic=True), law.mode())


def test_entropy_bound_is_below_and_exact_at_both_ends() -> None:
    """20 000 draws of each of five mixtures; a bound that holds fails once in 10⁴ (4.4 σ, Bonferroni)."""
    law, _ = made("box")
    mixture = law.distribution
    surprise = -mixture.log_prob(mixture.sample((20_000,)))
    error = surprise.std(0) / 20_000**0.5
    assert (mixture.entropy_lower_bound() < surprise.mean(0) + 4.4 * error).all()
    logits = torch.tensor([0.3, -0.4, 1.0]).double()
    scale = torch.tensor([[0.5, 1.0], [1.0, 2.0], [0.3, 0.2]]).double()
    far = GaussianMixture(logits, 1e3 * torch.eye(3, 2).double(), scale)
    weights = logits.softmax(-1)
    choice = -(weights * weights.log()).sum()
    torch.testing.assert_close(far.entropy_lower_bound(), choice + (weights * far.components.entropy()).sum())
    alike = GaussianMixture(logits, torch.zeros(3, 2).double(), scale[:1].expand(3, 2))
    torch.testing.assert_close(alike.entropy_lower_bound(), alike.components.entropy()[0])


def test_overlaps_against_quadrature_and_sums() -> None:
    torch.manual_seed(0)
    normals = DiagonalNormal(torch.randn(K, 1).double(), torch.rand(K, 1).double() + 0.3)
    grid = torch.linspace(-12, 12, 20_001).double().view(-1, 1, 1)
    roots = (0.5 * normals.log_prob(grid)).exp()
    overlap = torch.trapezoid(roots.unsqueeze(-1) * roots.unsqueeze(-2), grid.view(-1, 1, 1), dim=0)
    torch.testing.assert_close(bhattacharyya(normals), -overlap.log())
    for law in (OneHots(torch.randn(K, 5).double(), (3, 2)), Bernoullis(torch.randn(K, 4).double())):
        roots = (0.5 * law.log_prob(law.enumerate_support(expand=False))).exp()
        torch.testing.assert_close(bhattacharyya(law), -(roots.T @ roots).log())
    with pytest.raises(LatentRLError, match="FullNormal"):
        Mixture(torch.zeros(2), FullNormal(torch.zeros(2, 2), torch.eye(2).expand(2, 2, 2))).entropy_lower_bound()


@pytest.mark.parametrize("space", ["box", "choice", "choices", "bits"])
def test_components_start_apart(space: str) -> None:
    """Spread of the biases, 48 to 216 of them: within 30 % of what is asked (2.9 σ at 48: false alarm rate 3·10⁻³)."""
    kwargs = {"n_components": 24, "component_spread": 2.0}
    agent = PPO("MixturePolicy", Toy(action_space=SPACES[space]), seed=0, device="cpu", policy_kwargs=kwargs)
    biases = agent.policy.action_net.bias.detach()
    assert (biases[:24] == 0).all()
    assert float(biases[24:].std()) == pytest.approx(2.0, rel=0.3)


@pytest.mark.parametrize("nvec", [[10] * 19, [2] * 64, np.full(41, 3, np.int8)], ids=["negative", "zero", "bytes"])
def test_joint_actions_beyond_64_bits_are_not_listed(nvec: Any) -> None:
    """NumPy's products of their numbers wrap round to few."""
    law = mixture_of(make_proba_distribution(spaces.MultiDiscrete(nvec)), K)
    outputs = torch.randn(B, law.proba_distribution_net(FEATURES).out_features)
    made = law.proba_distribution(outputs)
    assert made.distribution.components.support_size == int(nvec[0]) ** len(nvec)
    assert made.entropy().shape == (B,)
    assert made.mode().shape == (B, len(nvec))
