"""A term of demonstrations in actors' losses: its gradient, its decay, and that nothing of it stays."""

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import DQN, PPO, SAC, TD3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from torch.distributions import Normal

from latentrl import LatentRLError
from latentrl.sb3 import CriticWarmUp
from latentrl.sb3.actor_decoders import SPREAD, ShownActions
from latentrl.sb3.clone_term import CloneTerm
from tests.sb3.agents_table import SPACES, Toy
from tests.sb3.off_policy_table import BOUNDS, OFF, Each, off, shown


def weights(made: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in made.policy.named_parameters()}


def independent(made: Any, observations: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    """log π(a|s) by other means, but for what a continuous latent makes of it."""
    actor = made.policy.actor
    if isinstance(made, TD3) and not hasattr(actor, "latent"):
        return Normal(actor(observations), SPREAD).log_prob(actions).sum(-1)
    if hasattr(actor, "logits"):
        law, u = actor.law(observations), actions.atanh().unsqueeze(-2)
        each = Normal(law.loc, law.scale).log_prob(u) - (1 - actions.unsqueeze(-2) ** 2).log()
        return (law.log_weights + each.sum(-1)).logsumexp(-1)
    if hasattr(actor, "latent"):
        return ShownActions(actor)(observations, actions)
    mean, log_std, _ = actor.get_action_dist_params(observations)
    return actor.action_dist.proba_distribution(mean, log_std).log_prob(actions)  # stable-baselines3's own


@pytest.mark.parametrize("name", OFF)
def test_gradient_joins_that_of_the_actors_loss(name: str) -> None:
    """It is there, of β times the loss, before the optimiser steps. At .4 of training β is at half of .5."""
    made, given = off(name), shown()
    term = CloneTerm(given, coef=0.5, share=0.8, batch_size=12)
    made._setup_learn(10, term)
    made.num_timesteps = 4
    term._on_training_start()
    term._on_rollout_start()
    optimizer, parameters = made.actor.optimizer, list(made.actor.parameters())
    own = [torch.randn_like(p) for p in parameters]
    for parameter, gradient in zip(parameters, own, strict=True):
        parameter.grad = gradient.clone()
    found: list[torch.Tensor] = []
    optimizer.register_step_pre_hook(lambda *_: found.extend(p.grad.clone() for p in parameters))
    np.random.seed(3), torch.manual_seed(3)  # noqa: NPY002
    rows = np.random.randint(40, size=12)  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    weights_then = copy.deepcopy(made.actor.state_dict())
    optimizer.step()
    made.actor.load_state_dict(weights_then)
    torch.manual_seed(3)
    actions = torch.from_numpy(made.policy.scale_action(given.actions[rows]))
    loss = -independent(made, torch.from_numpy(given.observations[rows]), actions).mean()
    expected = torch.autograd.grad(0.25 * loss, parameters, allow_unused=True)
    for one, before, added in zip(found, own, expected, strict=True):
        torch.testing.assert_close(
            one - before, torch.zeros_like(one) if added is None else added, atol=2e-4, rtol=2e-3
        )
    assert made.logger.name_to_value["clone/coef"] == pytest.approx(0.25)
    assert made.logger.name_to_value["clone/loss"] == pytest.approx(float(loss.detach()), rel=1e-3)


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("name", ["SAC", "latent TD3"])
def test_a_term_that_is_gone_before_the_actor_learns_says_so(name: str, order: int) -> None:
    """Updates come after 16 steps; those of the first half are of critics."""
    with pytest.warns(UserWarning, match=r"CloneTerm fell to 0 before it could keep.*share=0\.5"):
        off(name).learn(80, callback=[CriticWarmUp(40), CloneTerm(shown(), share=0.5)][::order])
    for warm, term in ((40, CloneTerm(shown())), (8, CloneTerm(shown(), share=0.8))):
        off(name).learn(80, callback=[CriticWarmUp(warm), term][::order])


@pytest.mark.parametrize("name", ["SAC", "TD3", "latent SAC, categorical", "TQC"])
def test_only_where_critics_prefer_what_was_shown(name: str) -> None:
    made, given = off(name), shown()
    term = CloneTerm(given, batch_size=40, q_filter=True)
    term.init_callback(made)
    np.random.seed(0)  # noqa: NPY002
    rows = np.random.randint(40, size=40)  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    loss = float(term.loss().detach())
    seen = torch.from_numpy(given.observations[rows])
    actions = torch.from_numpy(made.policy.scale_action(given.actions[rows]))
    own = torch.from_numpy(made.policy.scale_action(made.predict(given.observations[rows], deterministic=True)[0]))
    with torch.no_grad():
        if name == "TQC":
            better = made.critic(seen, actions).mean((1, 2)) > made.critic(seen, own).mean((1, 2))
        else:
            better = torch.cat(made.critic(seen, actions), 1).min(1)[0] > torch.cat(made.critic(seen, own), 1).min(1)[0]
        expected = -(independent(made, seen, actions) * better).mean()
    assert 0 < better.sum() < 40
    assert loss == pytest.approx(float(expected), rel=1e-3)


@pytest.mark.parametrize("name", OFF)
def test_no_coefficient_changes_nothing(name: str) -> None:
    runs = [off(name).learn(32, callback=callback).policy.state_dict() for callback in (None, CloneTerm(shown(), 0.0))]
    assert all(torch.equal(value, runs[1][key]) for key, value in runs[0].items())


def test_a_clone_term_keeps_what_was_shown() -> None:
    losses = []
    for coef in (0.0, 10.0):
        made, term = off("SAC", learning_rate=1e-2), CloneTerm(shown(), coef)
        made.learn(100, callback=term)
        losses.append(float(term.loss().detach()))
    assert losses[1] < losses[0] - 0.5


def test_demonstrations_are_normalised_as_the_agents_observations() -> None:
    env = VecNormalize(make_vec_env(lambda: Toy(action_space=BOUNDS), 1, seed=0))
    made, given = off("SAC", env), shown()
    term = CloneTerm(given, batch_size=12)
    made.learn(20, callback=term)
    np.random.seed(0)  # noqa: NPY002
    rows = np.random.randint(40, size=12)  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    seen = (given.observations[rows] - env.obs_rms.mean) / np.sqrt(env.obs_rms.var + env.epsilon)
    actions = torch.from_numpy(made.policy.scale_action(given.actions[rows]))
    expected = -independent(made, torch.from_numpy(seen).float(), actions).mean()
    assert float(term.loss().detach()) == pytest.approx(float(expected.detach()), rel=1e-4)


def test_nothing_is_left_on_the_agent(tmp_path: Path) -> None:
    """It is saved, copied and pickled while the hook is there; without callbacks it is stock again."""
    made, term = off("SAC"), CloneTerm(shown())

    def keep(model: Any, step: int) -> None:
        if step == 24:
            model.save(tmp_path / "agent.zip")
            twins = copy.deepcopy(model.policy), pickle.loads(pickle.dumps(model.policy))
            for twin in twins:
                assert not twin.actor.optimizer._optimizer_step_pre_hooks
            assert model.policy.actor.optimizer._optimizer_step_pre_hooks

    made.learn(32, callback=[term, CriticWarmUp(8), Each(keep)])
    for optimizer in (made.actor.optimizer, made.ent_coef_optimizer):
        assert not optimizer._optimizer_step_pre_hooks
    loaded = SAC.load(tmp_path / "agent.zip", env=made.get_env())
    assert not loaded.actor.optimizer._optimizer_step_pre_hooks
    loaded.learn(32)


def test_interrupted_learning_does_not_reach_into_the_next() -> None:
    made, term, calls = off("SAC"), CloneTerm(shown()), []

    def stop(model: Any, step: int) -> None:  # noqa: ARG001
        if step == 24:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made.learn(32, callback=[term, Each(stop)])
    term.loss = lambda: calls.append(1)  # type: ignore[method-assign, assignment, func-returns-value]
    made.learn(32)
    assert not calls


def test_clone_term_does_not_move_an_actor_that_waits() -> None:
    for order in (1, -1):
        made = off("SAC")
        first = weights(made)
        with pytest.warns(UserWarning, match="leaves the policy as it is to the end"):
            made.learn(24, callback=[CloneTerm(shown()), CriticWarmUp(100)][::order])
        moved = {n for n, value in weights(made).items() if not torch.equal(value, first[n])}
        assert moved == {n for n in first if "critic" in n}


def test_refusals() -> None:
    dqn = DQN("MlpPolicy", Toy(action_space=spaces.Discrete(3)), buffer_size=10)
    with pytest.raises(LatentRLError, match="not for DQN"):
        dqn.learn(1, callback=CloneTerm(shown()))
    with pytest.raises(LatentRLError, match="take KLToClone for PPO"):
        PPO("MlpPolicy", Toy(), n_steps=8, batch_size=8).learn(1, callback=CloneTerm(shown()))
    with pytest.raises(LatentRLError, match="actions have shape"):
        off("SAC").learn(1, callback=CloneTerm(shown(SPACES["two-dimensional"])))
    with pytest.raises(LatentRLError, match="leave use_sde at False"):
        off("SAC", use_sde=True).learn(1, callback=CloneTerm(shown()))
    with pytest.raises(LatentRLError, match="coef must be"):
        CloneTerm(shown(), -1.0)
    with pytest.raises(LatentRLError, match="share is a share"):
        CloneTerm(shown(), share=1.5)
    with pytest.raises(LatentRLError, match="batch_size must be"):
        CloneTerm(shown(), batch_size=0)
