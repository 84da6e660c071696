"""The bounds against exact answers, and what the model refuses."""

import itertools
import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy.stats import norm
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from latentrl import LatentConfig, LatentModel, LatentRLError
from latentrl.decoders import Decoder
from latentrl.diffusion import DataBox, DiffusionDecoder
from latentrl.distributions import DiagonalNormal
from latentrl.encoders import TransitionEncoder
from latentrl.estimators import LeaveOneOut, Pathwise, ScoreFunction
from latentrl.model import importance_weighted
from latentrl.nets import ObservationTrunk, Standardize
from latentrl.posteriors import GaussianPosterior
from latentrl.priors import CategoricalPrior, Prior, StandardNormalPrior
from latentrl.types import Batch
from tests.examples_table import DECODERS, POSTERIORS, PRIORS, A, O, T, Z
from tests.linear_gaussian import Conjugate, Cubature, Fixed, FixedPrior, loss_of_parameters


@pytest.mark.parametrize("kind", ["best diagonal", "shifted", "too wide", "too narrow"])
def test_log_marginal_is_elbo_plus_kl(kind: str) -> None:
    """log p(x) = ELBO + KL(q ‖ p(z|x)) for good and bad q, to 1e-5.

    The expectation of a quadratic under a Gaussian is taken exactly, by cubature.
    """
    exact = Conjugate()
    loc = exact.posterior_mean.clone()
    scale = exact.posterior_covariance.inverse().diagonal().rsqrt().expand_as(loc).clone()
    loc += {"shifted": 0.7}.get(kind, 0.0)
    scale *= {"too wide": 2.0, "too narrow": 0.3}.get(kind, 1.0)
    elbo = exact.model(loc, scale).elbo(exact.batch, estimator=Cubature())
    expected = exact.log_marginal() - exact.kl_to_posterior(DiagonalNormal(loc, scale))
    assert float(elbo.value.detach()) == pytest.approx(float(expected.mean()), abs=1e-5)
    assert float(-elbo.loss.detach()) == pytest.approx(float(expected.mean()), abs=1e-5)


@pytest.mark.parametrize("estimator", [Pathwise(), ScoreFunction(LeaveOneOut())], ids=["pathwise", "score"])
def test_elbo_estimate_is_unbiased(estimator: nn.Module) -> None:
    """Mean of 2000 ELBO estimates against the exact value; two-sided z-test at 1e-4."""
    exact = Conjugate()
    loc, scale = exact.posterior_mean + 0.3, torch.full_like(exact.posterior_mean, 0.5)
    model = exact.model(loc, scale)
    expected = (exact.log_marginal() - exact.kl_to_posterior(DiagonalNormal(loc, scale))).mean()
    values = torch.stack(
        [model.elbo(exact.batch, estimator=estimator, num_samples=2).value.detach() for _ in range(2000)]
    )
    assert abs(float((values.mean() - expected) / (values.std() / math.sqrt(2000)))) < 3.9


def test_importance_bound_tightens_to_the_marginal() -> None:
    """ELBO ≤ IWAE_K ≤ log p, monotone in K, within 4 standard errors (false alarm about 1e-4 per comparison)."""
    exact = Conjugate()
    # Wider than the exact posterior, so that the weights are bounded and their mean settles.
    widest = exact.posterior_covariance.diagonal().sqrt().max()
    model = exact.model(exact.posterior_mean + 0.2, (1.5 * widest).expand_as(exact.posterior_mean).clone())
    bounds = []
    for k in (1, 5, 50):
        draws = torch.stack([model.log_likelihood(exact.batch, k).value.mean() for _ in range(400)])
        bounds.append((float(draws.mean()), float(draws.std() / 20)))
    truth = float(exact.log_marginal().mean())
    for (low, low_se), (high, high_se) in zip(bounds, [*bounds[1:], (truth, 0.0)], strict=True):
        assert low < high + 4 * (low_se + high_se)
    assert bounds[0][0] < truth - 0.1  # the test would see a bound that is not one
    assert float(model.log_likelihood(exact.batch, 20_000).value.mean()) == pytest.approx(
        truth, abs=0.055
    )  # 4.6 errors


@pytest.mark.parametrize("near", [False, True])
def test_reported_error_is_the_spread_of_repetitions(near: bool) -> None:
    """Over 400 repetitions, which know a standard deviation to 3.5 %, within 25 %; one draw knows no error.

    Weights spread over several times their mean for the far q, over a part of it for the near one.
    """
    exact = Conjugate()
    widest = exact.posterior_covariance.diagonal().sqrt().max()
    wide = (1.5 * widest).expand_as(exact.posterior_mean).clone()
    loc, scale = (
        (exact.posterior_mean, 1.2 * exact.best_diagonal().scale) if near else (exact.posterior_mean + 0.2, wide)
    )
    model = exact.model(loc, scale)
    values, errors = map(torch.stack, zip(*(model.log_likelihood(exact.batch, 200) for _ in range(400)), strict=True))
    torch.testing.assert_close(errors.square().mean(0).sqrt(), values.std(0), rtol=0.25, atol=0)
    # The bound lies below by half the square of the error (delta method); 5 standard errors on what is left: 6e-7 for
    # each of the values, less than for their spread, known to 3.5 %, which is given seven of these.
    off = values.mean(0) + 0.5 * errors.square().mean(0) - exact.log_marginal()
    assert bool((off.abs() < 5 * values.std(0) / 20).all())
    assert bool(model.log_likelihood(exact.batch, 1).error.isinf().all())


@pytest.mark.parametrize("factors", [1, 2], ids=["one choice", "two choices"])
@pytest.mark.parametrize("sees_state", [False, True])
def test_finite_latents_are_summed_over_exactly(factors: int, sees_state: bool) -> None:
    """log Σ_z p(z|s) p(a|s, z), against a loop over all choices in NumPy."""
    posterior = POSTERIORS["categorical of a transition" if factors == 1 else "two choices of a transition"]()
    prior = CategoricalPrior(Z, factors, observation_dim=O if sees_state else None, hidden=(8,))
    with torch.no_grad():
        prior.numbers.free.normal_()
    model = LatentModel(posterior, prior, DECODERS["gaussian"](Z)).double()
    batch = Batch.full(torch.randn(3, O).double(), torch.randn(3, A).double())
    value, error = model.log_likelihood(batch)
    assert not error.any()
    numbers = prior.numbers(batch.observations).detach().expand(3, Z).numpy().reshape(3, factors, -1)
    probability = np.exp(numbers) / np.exp(numbers).sum(-1, keepdims=True)
    total = np.zeros(3)
    for chosen in itertools.product(range(Z // factors), repeat=factors):
        z = np.concatenate([np.eye(Z // factors)[option] for option in chosen])
        law = model.decoder(batch.observations, torch.tensor(z).expand(3, Z))
        density = norm.pdf(batch.actions, law.loc.detach(), law.stddev.detach()).prod(-1)
        total += density * np.prod([probability[:, i, option] for i, option in enumerate(chosen)], 0)
    np.testing.assert_allclose(value.numpy(), np.log(total), rtol=1e-10)


SMOOTH = {
    "gaussian": ("gaussian of a transition", "gaussian of the state", "gaussian"),
    "full, mixture": ("full of a transition", "mixture", "tanh_gaussian"),
    "flow, flow": ("flow of a transition", "flow of the state", "mixture"),
    "semi-amortized": ("semi-amortized of a transition", "mixture of the state", "gaussian, scale of the state"),
    "vamp": (None, "vamp of transitions", "discretized_logistic"),
    "vamp of segments": (None, "vamp of segments", "bernoulli"),
}


@pytest.mark.parametrize("composition", SMOOTH)
def test_gradients_against_finite_differences(composition: str) -> None:
    """Of the loss, in float64 with the noise held, along random directions in the space of all parameters."""
    posterior, prior, decoder = SMOOTH[composition]
    made = PRIORS[prior]()
    model = LatentModel(POSTERIORS[posterior]() if posterior else made.owner, made, DECODERS[decoder](Z)).double()
    steps = (T,) if "segments" in prior else ()
    batch = Batch.full(torch.randn(3, *steps, O).double(), torch.rand(3, *steps, A).double())
    loss, values = loss_of_parameters(model, batch)
    assert torch.autograd.gradcheck(loss, values, fast_mode=True)


def test_optimal_posterior_makes_every_weight_alike() -> None:
    """With q = p(z|x) the importance weights are constant: one sample gives log p(x) exactly."""
    exact = Conjugate(latent=1)
    model = exact.model(exact.posterior_mean, exact.posterior_covariance.diagonal().sqrt().expand(4, 1))
    weights = model.log_weights(exact.batch, 3)
    torch.testing.assert_close(weights, exact.log_marginal().expand(3, 4), atol=1e-8, rtol=0)


def test_beta_scales_the_kl_only() -> None:
    exact = Conjugate()
    model = exact.model(exact.posterior_mean, torch.ones_like(exact.posterior_mean))
    torch.manual_seed(1)
    one = model.elbo(exact.batch, beta=1.0)
    torch.manual_seed(1)
    three = model.elbo(exact.batch, beta=3.0)
    torch.testing.assert_close(three.reconstruction, one.reconstruction)
    torch.testing.assert_close(one.value - three.value, 2.0 * one.kl)


def composed(prior: str, decoder: str) -> LatentModel:
    """A model with the prior and a posterior over the same latents."""
    made = PRIORS[prior]()
    if hasattr(made, "owner"):
        posterior = made.owner
    elif isinstance(made, CategoricalPrior):
        posterior = POSTERIORS[f"{'categorical' if len(made.sizes) == 1 else 'two choices'} of a transition"]()
    else:
        posterior = POSTERIORS["gaussian of a transition"]()
    return LatentModel(posterior, made, DECODERS[decoder](Z))


@pytest.mark.parametrize("prior", [name for name in PRIORS if "segment" not in name])
def test_sampled_and_closed_form_kl_agree(prior: str) -> None:
    """The KL that elbo reports, against as many draws as it took itself; within 5 errors of the difference: 6e-7."""
    draws = 500 if "flows" in prior else 4000
    model = composed(prior, "gaussian")
    batch = Batch.full(torch.randn(6, O), torch.randn(6, A))
    with torch.no_grad():
        q, p = model.infer(batch), model.prior(batch.observations)
        z = q.sample((draws,))
        sampled = (q.log_prob(z) - p.log_prob(z)).mean(1)
        reported = float(model.elbo(batch, num_samples=draws).kl)
    assert abs(reported - float(sampled.mean())) < 5 * 1.5 * float(sampled.std()) / math.sqrt(draws) + 1e-6


@pytest.mark.parametrize(
    ("prior", "decoder"),
    [(prior, "gaussian") for prior in PRIORS]
    + [(prior, name) for prior in ("vamp of segments", "two choices") for name in DECODERS],
)
def test_compositions_train(prior: str, decoder: str) -> None:
    """A few gradient steps on random data raise the ELBO."""
    model = composed(prior, decoder)
    steps = (T,) if "segments" in prior else ()
    observations = torch.randn(32, *steps, O)
    actions = torch.rand(32, *steps, A)
    if decoder == "categorical":
        actions = torch.eye(A)[torch.randint(A, (32, *steps))]
    batch = Batch.full(observations, actions)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    first = float(model.elbo(batch, num_samples=8).value)
    for _ in range(20):
        optimizer.zero_grad()
        model.elbo(batch).loss.backward()
        optimizer.step()
    assert float(model.elbo(batch, num_samples=8).value) > first


def test_random_steps_estimate_the_segment() -> None:
    """The weighted sum over random steps is unbiased for the sum over the segment; z-test at 1e-4."""
    model = LatentConfig(latent_dim=0, hold=0, hidden=(8,)).build(*_spaces())
    observations, actions = torch.randn(1, T, O), torch.randn(1, T, A)
    empty = torch.empty(1, 0)
    exact = model.log_likelihood_given(Batch.full(observations, actions), empty).detach()
    rows = torch.randint(T, (4000, 3))
    batch = Batch(observations[0, rows], actions[0, rows], observations, actions, weight=torch.full((4000,), T / 3))
    draws = model.log_likelihood_given(batch, torch.empty(4000, 0)).detach()
    assert abs(float((draws.mean() - exact) / (draws.std() / math.sqrt(4000)))) < 3.9


def test_diagnostics_see_a_used_and_an_unused_latent() -> None:
    spread = torch.linspace(-6, 6, 32)[:, None].repeat(1, 2)
    used = LatentModel(
        Fixed(spread, torch.full((32, 2), 0.05)), FixedPrior(torch.zeros(2), 3 * torch.ones(2)), _decoder()
    )
    idle = LatentModel(
        Fixed(torch.zeros(32, 2), torch.ones(32, 2)), FixedPrior(torch.zeros(2), torch.ones(2)), _decoder()
    )
    batch = Batch.full(torch.zeros(32, O), torch.zeros(32, A))
    seen, blind = used.diagnostics(batch), idle.diagnostics(batch)
    assert (seen.active_units, blind.active_units) == (2, 0)
    assert (seen.collapsed, blind.collapsed) == (False, True)
    # 32 posteriors, neighbours eleven deviations apart, tell their datum: the information is log 32.
    assert seen.mutual_information == pytest.approx(math.log(32), abs=1e-3)
    assert blind.kl == pytest.approx(0.0, abs=1e-5)


def test_standardize_leaves_densities_in_raw_units() -> None:
    """Rescaling by c adds A log c to every log density."""
    config = LatentConfig(latent_dim=0, hold=1, hidden=(8,))
    observations, actions = torch.randn(200, O), torch.randn(200, A)
    torch.manual_seed(0)
    small = config.build(*_spaces())
    torch.manual_seed(0)
    large = config.build(*_spaces())
    small.standardize(observations, actions)
    large.standardize(observations * 100, actions * 100)
    one, _ = small.log_likelihood(Batch.full(observations, actions))
    hundred, error = large.log_likelihood(Batch.full(observations * 100, actions * 100))
    assert not error.any()
    torch.testing.assert_close(one - hundred, torch.full((200,), A * math.log(100)), rtol=1e-4, atol=1e-4)


def test_small_units_are_standardized_and_constants_are_left_alone() -> None:
    model = LatentConfig(latent_dim=0, hold=1, hidden=(8,)).build(*_spaces())
    observations = 1e-7 * torch.randn(50, O)
    observations[:, 0] = 7.0
    model.standardize(observations, torch.randn(50, A))
    scaled = model.decoder.trunk.observation_scale(observations)  # type: ignore[union-attr, operator]
    torch.testing.assert_close(scaled[:, 1:].std(0, correction=0), torch.ones(O - 1))
    torch.testing.assert_close(scaled[:, 0], torch.zeros(50))


def test_the_score_function_gets_the_samples_its_baseline_needs() -> None:
    exact = Conjugate()
    model = exact.model(exact.posterior_mean, torch.ones_like(exact.posterior_mean))
    assert torch.isfinite(model.elbo(exact.batch, estimator=ScoreFunction(LeaveOneOut())).loss)


def test_a_subset_of_steps_has_no_likelihood_bound() -> None:
    model = LatentConfig(latent_dim=2, hidden=(8,), context_length=T, n_components=2).build(*_spaces())
    batch = Batch.full(torch.randn(3, T, O), torch.randn(3, T, A))._replace(weight=torch.ones(3))
    with pytest.raises(LatentRLError, match="needs all steps"):
        model.log_likelihood(batch)


def test_halves_of_a_latent_are_refused() -> None:
    with pytest.raises(LatentRLError, match="neither"):
        LatentModel(None, PRIORS["normal"](), _decoder())
    with pytest.raises(LatentRLError, match="same latent_dim"):
        LatentModel(POSTERIORS["gaussian of a transition"](), FixedPrior(torch.zeros(9), torch.ones(9)), _decoder())
    with pytest.raises(LatentRLError, match=r"choices among \(2, 2\), the prior's choices among \(4,\)"):
        LatentModel(POSTERIORS["two choices of a transition"](), PRIORS["categorical"](), _decoder())
    with pytest.raises(LatentRLError, match="continuous, the prior's choices"):
        LatentModel(POSTERIORS["gaussian of a transition"](), PRIORS["categorical"](), _decoder())


def _decoder() -> nn.Module:
    return DECODERS["gaussian"](2)


def _spaces():  # type: ignore[no-untyped-def]
    from gymnasium import spaces

    return spaces.Box(-1, 1, (O,)), spaces.Box(-1, 1, (A,))


@pytest.mark.parametrize("part", ["posterior", "prior"])
def test_a_latent_is_one_event(part: str) -> None:
    """A law whose dimensions are batch dimensions would broadcast, with as many elements as dimensions unseen."""

    class Bare(Prior):
        def forward(self, observations: Tensor) -> Distribution:
            return Normal(torch.zeros(len(observations), Z), 1.0)

    model = LatentConfig(latent_dim=Z, posterior="full", prior="gaussian", hold=1, hidden=(8,)).build(
        spaces.Box(-1, 1, (O,)), spaces.Box(-1, 1, (A,))
    )
    batch = Batch.full(torch.zeros(Z, O), torch.zeros(Z, A))
    model.elbo(batch)
    if part == "prior":
        model.prior = Bare(Z)
    else:
        model.posterior.infer = lambda *_: Normal(torch.zeros(Z, Z), 1.0)
    with pytest.raises(LatentRLError, match=rf"the {part} gave a Normal of event_shape \(\) .*Independent\(law, 1\)"):
        model.elbo(batch)


def test_what_has_no_density_has_no_likelihood() -> None:
    config = LatentConfig(latent_dim=0, decoder="diffusion", hold=1, hidden=(8,))
    model = config.build(spaces.Box(-1, 1, (O,)), spaces.Box(-1, 1, (A,)))
    with pytest.raises(LatentRLError, match="DiffusionDecoder has no density"):
        model.log_likelihood(Batch.full(torch.zeros(4, O), torch.zeros(4, A)))


@pytest.mark.parametrize("latent_dim", [0, Z])
def test_shapes_that_would_broadcast_are_refused(latent_dim: int) -> None:
    config = LatentConfig(latent_dim=latent_dim, hold=1, hidden=(8,), prior="normal")
    model = config.build(spaces.Box(-1, 1, (O,)), spaces.Box(-1, 1, (1,)))
    seen, actions = torch.zeros(6, O), torch.zeros(6, 1)
    model.elbo(Batch.full(seen, actions))
    with pytest.raises(LatentRLError, match="features"):
        model.elbo(Batch.full(seen[:, :1], actions))
    with pytest.raises((LatentRLError, RuntimeError), match=r"actions|dimension"):
        model.elbo(Batch(seen, actions[:, 0], seen, actions))


def test_error_of_a_bound_of_very_unlikely_data() -> None:
    """Of two weights, 1 and r, the standard error of the mean over the mean is (1 − r) / (1 + r)."""
    log_weights = torch.tensor([[-1e6], [-1e6 - 0.5]])
    r = math.exp(-0.5)
    assert float(importance_weighted(log_weights).error) == pytest.approx((1 - r) / (1 + r), rel=1e-3)


def test_another_number_of_latents_cannot_be_remembered() -> None:
    model = LatentConfig(latent_dim=Z, latents="aggregate", hold=1, hidden=(8,), prior="normal").build(
        spaces.Box(-1, 1, (O,)), spaces.Box(-1, 1, (A,))
    )
    with pytest.raises(LatentRLError, match="1024 latents are remembered, but the batches have 8"):
        model.remember([Batch.full(torch.zeros(8, O), torch.zeros(8, A))])


class Shift(ObservationTrunk):
    """Features with a standardisation of their own."""

    features_dim = 1

    def __init__(self) -> None:
        super().__init__()
        self.own = Standardize(1, "observation")

    def forward(self, observations: Tensor) -> Tensor:
        return self.own(observations) + 1.0


def test_behind_a_trunk_all_actions_count_and_it_is_left_as_it_is() -> None:
    """Of data that are recorded mode by mode, more than go through the trunk; features are of some of them all over."""
    trunk = Shift()
    model = LatentModel(None, None, DiffusionDecoder(1, 0, 1, (8,)), trunk)
    observations = torch.cat([torch.zeros(5000, 1), torch.ones(5000, 1)])
    actions = torch.cat([torch.full((5000, 1), -1.0), torch.full((5000, 1), 3.0)])
    model.standardize(observations, actions)
    box = model.decoder.box
    assert isinstance(box, DataBox)
    assert (float(box.center), float(box.reach)) == (1.0, 2.0)
    scale = next(part for part in model.decoder.modules() if isinstance(part, Standardize))
    torch.testing.assert_close(scale(torch.tensor([[1.5]])), torch.zeros(1, 1), atol=1e-3, rtol=0)
    assert (float(trunk.own.gain), float(trunk.own.shift)) == (1.0, 0.0)


class Plain(Decoder):
    """One of torch's own laws."""

    def forward(self, observations: Tensor, z: Tensor) -> Distribution:  # noqa: ARG002
        return Independent(Normal(z[..., :1], 1.0), 1)


def test_decoders_with_a_law_of_torch_act() -> None:
    model = LatentModel(GaussianPosterior(TransitionEncoder(1, 1, (8,)), 2), StandardNormalPrior(2), Plain())
    z = torch.randn(4, 2)
    for deterministic in (False, True):
        torch.testing.assert_close(model.act(torch.randn(4, 1), z, deterministic=deterministic), z[:, :1])
    assert not torch.equal(model.act(torch.randn(4, 1), z, action_noise=True), z[:, :1])
