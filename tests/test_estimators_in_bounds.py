"""Every estimator with every kind of posterior and prior, through the bounds: it agrees with the exact answer, or is
refused with a word on what to use instead.

The exact answer is a sum over the values of z, or the trapezoidal rule on a grid. Means of R replicates lie within
LIMIT standard errors of it; with 1700 such means, one seed in 1000 raises a false alarm.
"""

import pytest
import torch
from torch import Tensor, nn
from torch import distributions as td
from torch.func import functional_call

from latentrl import LatentModel, LatentRLError
from latentrl.decoders import GaussianDecoder
from latentrl.estimators import (
    DReG,
    Estimator,
    ImportanceWeighted,
    LearnedBaseline,
    LeaveOneOut,
    LikelihoodRatio,
    OptimalBaseline,
    Pathwise,
    Relax,
    ScoreFunction,
    StickingTheLanding,
    Vimco,
)
from latentrl.objectives import importance_bound, vade_bound
from latentrl.posteriors import PerDatapointPosterior, SemiAmortizedPosterior
from latentrl.priors import GaussianPrior, Prior
from latentrl.variance import gradient_variance
from tests.bounds_table import (
    BETA,
    MEMBERS,
    MULTI,
    POSTERIORS,
    A,
    O,
    R,
    batch_of,
    composed,
    encoder,
    exact_bound,
    exact_elbo,
    flat,
    linear,
    model_and_elbo,
    off,
    weighed,
)

LIMIT = 5.0
INSTEAD = r"use [A-Z]\w+|use objectives\.importance_bound"
KLS = ("closed form", "sampled", "entropy")
TABLE = [
    (member, posterior, kl)
    for member in MEMBERS
    for posterior in POSTERIORS
    for kl in KLS
    if kl == "sampled" or posterior not in ("mixture", "flow")
]


@pytest.mark.parametrize(("member", "posterior", "kl"), TABLE)
def test_elbo(member: str, posterior: str, kl: str) -> None:
    model, exact = model_and_elbo(posterior, closed_form=kl == "closed form")
    estimator = MEMBERS[member].make(posterior)
    form = "entropy" if kl == "entropy" else "kl"
    small, _ = batch_of(8)
    if posterior not in MEMBERS[member].serves:
        with pytest.raises(LatentRLError, match=INSTEAD):
            model.elbo(small, BETA, estimator, 2, form)  # type: ignore[arg-type]
        return
    model.elbo(small, BETA, estimator, 2, form)  # type: ignore[arg-type]  (a running mean fills)
    batch, inputs = batch_of(R)
    torch.manual_seed(1)
    terms = model.elbo(batch, BETA, estimator, 2, form)  # type: ignore[arg-type]
    gradients = R * flat(-terms.loss, inputs)
    assert terms.log_likelihoods.shape == terms.kls.shape == (R,)
    if member != "gumbel":  # whose values are those of relaxed draws
        assert off(terms.log_likelihoods, exact.log_likelihood) < LIMIT
        assert off(terms.kls, exact.kl) < LIMIT
    if member == "pathwise":  # whose surrogate has the value of the bound itself, from all draws
        torch.testing.assert_close(-terms.loss, terms.value)
    if estimator.unbiased:
        assert off(gradients, exact.gradient) < LIMIT
        assert off(gradients, torch.zeros(())) > 2 * LIMIT  # or the line above would not tell
    else:
        assert gradients.isfinite().all()
        assert float(gradients.mean(0) @ exact.gradient) > 0


# -- the importance bound ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("member", MULTI)
@pytest.mark.parametrize("posterior", POSTERIORS)
def test_importance_bound(member: str, posterior: str) -> None:
    model = composed(posterior, closed_form=False, latents=1)
    estimator = MULTI[member].make(posterior)
    batch, inputs = batch_of(R, steps=False, weighted=False)
    if posterior not in MULTI[member].serves:
        with pytest.raises(LatentRLError, match="use Vimco"):
            importance_bound(model, batch, 2, estimator)  # type: ignore[arg-type]
        return
    torch.manual_seed(1)
    estimate = importance_bound(model, batch, 2, estimator)  # type: ignore[arg-type]
    gradients = flat(estimate.surrogate.sum(), inputs)
    value, gradient = exact_bound(model)
    assert off(estimate.value, value) < LIMIT
    if member == "sticking the landing":  # unbiased for what the posterior does not see, the decoder's observations
        gradients, gradient = gradients[:, :O], gradient[:O]
    assert off(gradients, gradient) < LIMIT
    assert off(gradients, torch.zeros(())) > 2 * LIMIT


def test_one_draw_of_the_importance_bound_is_the_elbo() -> None:
    """Also of a finite latent, which Vimco cannot draw only once: its refusal names what can."""
    model, batch = composed("choices", closed_form=False), batch_of(8, steps=False, weighted=False)[0]
    with pytest.raises(LatentRLError, match=r"at least 2, but 1 .* use ScoreFunction"):
        importance_bound(model, batch, 1)
    model = composed("gaussian", closed_form=False)
    torch.manual_seed(2)
    bound = importance_bound(model, batch, 1).value
    torch.manual_seed(2)
    terms = model.elbo(batch, num_samples=1)
    torch.testing.assert_close(bound, terms.log_likelihoods - terms.kls)


# -- what else a bound must get right ----------------------------------------------------------------------------


@pytest.mark.parametrize("member", ["pathwise", "measure-valued", "delta method", "rebar", "muprop", "disarm"])
def test_a_weight_that_reads_the_kl_is_read_once(member: str) -> None:
    """At draws from q, however often and wherever an estimator calls f, so that f is the same at each of them."""
    posterior = "bits" if member in ("rebar", "muprop", "disarm") else "gaussian"
    model, exact = model_and_elbo(posterior, closed_form=False)
    torch.manual_seed(1)  # whether or not the model was at hand
    seen: list[Tensor] = []

    def beta(kl: Tensor) -> float:
        seen.append(kl)
        return BETA

    batch, inputs = batch_of(R)
    terms = model.elbo(batch, beta, MEMBERS[member].make(posterior), 2)
    assert len(seen) == 1
    assert abs(float(seen[0] - exact.kl)) < LIMIT * float(terms.kls.std()) / R**0.5
    assert terms.beta == BETA
    assert off(R * flat(-terms.loss, inputs), exact.gradient) < LIMIT


class TorchPrior(Prior):
    """torch's own law over one-hot vectors, which is not defined between them."""

    sizes = (4,)

    def forward(self, observations: Tensor) -> td.OneHotCategorical:  # noqa: ARG002
        return td.OneHotCategorical(logits=torch.arange(4.0).double())


@pytest.mark.parametrize("member", [name for name, member in MEMBERS.items() if "one choice" in member.serves])
def test_a_prior_that_is_not_defined_between_values(member: str) -> None:
    """Estimators that relax draws would read it there."""
    model = composed("one choice", closed_form=True)
    model.prior = TorchPrior(4)
    estimator, (batch, inputs) = MEMBERS[member].make("one choice"), batch_of(R)
    if estimator.needs_differentiable_f:
        with pytest.raises(LatentRLError, match=r"OneHotCategorical is not defined: use Enumerate\(\)"):
            model.elbo(batch, BETA, estimator, 2)
        return
    gradients = R * flat(-model.elbo(batch, BETA, estimator, 2).loss, inputs)
    assert off(gradients, exact_elbo(model).gradient) < LIMIT


@pytest.mark.parametrize("member", [name for name, member in MEMBERS.items() if "gaussian" in member.serves])
@pytest.mark.parametrize("closed_form", [True, False])
@pytest.mark.parametrize("kind", ["semi-amortized", "per datum"])
def test_posteriors_that_improve_or_own_their_numbers(member: str, closed_form: bool, kind: str) -> None:
    """Every parameter of the model gets a gradient, by every bound."""
    model = composed("gaussian", closed_form)
    own = PerDatapointPosterior(8, 2) if kind == "per datum" else SemiAmortizedPosterior(encoder(), 2, steps=2)
    model.posterior = own.double()
    batch = batch_of(8)[0]._replace(rows=torch.arange(8), weight=None)
    losses = {
        "elbo": lambda: model.elbo(batch, BETA, MEMBERS[member].make("gaussian"), 2).loss,
        "default": lambda: model.elbo(batch).loss,
        "importance": lambda: importance_bound(model, batch, 2).surrogate.mean(),
        "dreg": lambda: importance_bound(model, batch, 2, DReG()).surrogate.mean(),
    }
    for name, loss in losses.items():
        gradients = torch.autograd.grad(loss(), list(model.parameters()))
        assert all(bool(g.isfinite().all()) and bool(g.any()) for g in gradients), name


class Loss(nn.Module):
    """The loss of an ELBO whose weight reads the KL."""

    def __init__(self, model: LatentModel, estimator: Estimator) -> None:
        super().__init__()
        self.model, self.estimator, self.batch = model, estimator, batch_of(2)[0]

    def forward(self) -> Tensor:
        return self.model.elbo(self.batch, lambda kl: 0.5 + 0.1 * kl, self.estimator, 2).loss


@pytest.mark.parametrize("member", MEMBERS)
def test_the_meter_takes_the_elbo_under_every_estimator(member: str) -> None:
    posterior = MEMBERS[member].serves[0]
    model = composed(posterior, closed_form=False)
    loss = Loss(model, MEMBERS[member].make(posterior)).eval()
    report = gradient_variance(lambda p: functional_call(loss, p, ()), loss.model.named_parameters(prefix="model"), 4)
    assert (report.trace > 0) == (member != "enumerate")


def test_parts_train_what_an_estimator_learns() -> None:
    """A learned baseline from what elbo returns, REBAR's temperature and RELAX's control from ``model.parts``."""
    model, batch = composed("choices", closed_form=True), batch_of(256)[0]
    baseline = LearnedBaseline(linear(4))
    relax = Relax(linear(4))
    optimizer = torch.optim.Adam([*baseline.parameters(), *relax.parameters()], 0.1)
    history = []
    for _ in range(60):
        terms = model.elbo(batch, estimator=ScoreFunction(baseline))
        q, _, log_likelihood = model.parts(batch)
        losses = baseline.loss(q, terms.log_likelihoods), relax.variance_loss(q, log_likelihood, 4)
        optimizer.zero_grad()
        sum(losses).backward(inputs=optimizer.param_groups[0]["params"])  # type: ignore[union-attr]
        optimizer.step()
        history.append([float(loss.detach()) for loss in losses])
    assert history[-1][0] < 0.2 * history[0][0]
    assert sum(after for _, after in history[-10:]) < 0.5 * sum(before for _, before in history[:3]) * 10 / 3


def test_likelihood_of_bits_is_summed_over_them() -> None:
    model, batch = composed("bits", closed_form=True), batch_of(3)[0]._replace(weight=None)
    value, error = model.log_likelihood(batch)
    _, p, log_likelihood = model.parts(batch)
    z = weighed(p).z.expand(-1, 3, -1)
    torch.testing.assert_close(value, (p.log_prob(z) + log_likelihood(z)).logsumexp(0))
    assert not error.any()


# -- what is refused at the door ---------------------------------------------------------------------------------


def test_estimators_of_other_objectives_are_refused() -> None:
    model, batch = composed("gaussian", closed_form=False), batch_of(4, steps=False, weighted=False)[0]
    for objective in (lambda e: model.elbo(batch, estimator=e), lambda e: vade_bound(model, batch, 2, e)):
        for several in (ImportanceWeighted(), StickingTheLanding(), DReG(), Vimco()):
            with pytest.raises(LatentRLError, match=r"use objectives\.importance_bound, .* Pathwise\(\)"):
                objective(several)
        with pytest.raises(LatentRLError, match=r"the class Pathwise was given: use Pathwise\(\)"):
            objective(Pathwise)
        with pytest.raises(LatentRLError, match=r"LikelihoodRatio was given: use Pathwise\(\)"):
            objective(LikelihoodRatio())
    for single in (Pathwise(), ScoreFunction(), LikelihoodRatio(), DReG):
        with pytest.raises(LatentRLError, match=r"(class )?\w+ was given: use ImportanceWeighted\(\).*model\.elbo"):
            importance_bound(model, batch, 2, single)  # type: ignore[arg-type]
    with pytest.raises(LatentRLError, match=r"'leave_one_out' was given: use LeaveOneOut\(\)"):
        ScoreFunction("leave_one_out")  # type: ignore[arg-type]


def test_draws_without_gradient_and_single_ones_are_refused_where_they_cannot_do() -> None:
    model, batch = composed("choices", closed_form=True), batch_of(4)[0]
    with pytest.raises(LatentRLError, match=r"use ScoreFunction.*, or outside of them Enumerate\(\) or Rebar\(\)"):
        model.elbo(batch, estimator=Pathwise())
    for baseline in (LeaveOneOut(), OptimalBaseline()):
        with pytest.raises(LatentRLError, match=r"at least 2, but 1 .* use RunningMean or LearnedBaseline"):
            model.elbo(batch, estimator=ScoreFunction(baseline), num_samples=1)
    assert model.elbo(batch, estimator=ScoreFunction(LeaveOneOut())).loss.isfinite()


def test_bounds_that_do_not_exist_are_refused() -> None:
    batch = batch_of(4)[0]
    with pytest.raises(LatentRLError, match=r"GaussianMixture has none: use form='kl'"):
        composed("mixture", closed_form=False).elbo(batch, form="entropy")
    with pytest.raises(LatentRLError, match=r"all steps of a segment: .* or use model\.elbo"):
        importance_bound(composed("gaussian", closed_form=True), batch, 2)
    assert importance_bound(composed("gaussian", closed_form=True), batch, 1).value.isfinite().all()
    model = composed("bits", closed_form=True)
    model.prior = GaussianPrior(3).double()
    for bound in (lambda: model.elbo(batch), lambda: importance_bound(model, batch, 1)):
        with pytest.raises(LatentRLError, match="Bernoullis and the prior DiagonalNormal, one of them over a fin"):
            bound()
    plain = LatentModel(None, None, GaussianDecoder(O, 0, A, (4,)).double())
    with pytest.raises(LatentRLError, match="the policy has none: set latent_dim"):
        vade_bound(plain, batch)
