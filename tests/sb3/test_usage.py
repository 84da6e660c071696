"""What actions are said to tell of the latent, against closed forms."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy import stats
from stable_baselines3 import DQN, PPO, HerReplayBuffer
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from latentrl import LatentRLError
from latentrl.sb3 import LatentBC, LatentNoiseWrapper, LatentPPO, LatentUsage
from latentrl.sb3.latent_actor import SemiImplicitActor
from latentrl.sb3.td3_policy import LatentTD3Actor
from latentrl.sb3.usage import usage
from tests.sb3.agents_table import Toy
from tests.sb3.off_policy_table import off, shown
from tests.sb3.test_gradient_noise import Lines
from tests.sb3.test_on_policy import with_latents

OPTIONS: dict[str, Any] = {"n_steps": 16, "batch_size": 8, "seed": 0, "device": "cpu"}
ONE = spaces.Box(-1, 1, (1,))
LATENT = ("latent SAC", "latent TD3", "latent SAC, categorical", "latent TQC", "latent TQC, categorical")


def agent(actions: spaces.Space, **policy_kwargs: Any) -> LatentPPO:
    return LatentPPO(
        "LatentPolicy", make_vec_env(lambda: Toy(action_space=actions), 2), **OPTIONS, policy_kwargs=policy_kwargs
    )


def test_an_unused_latent_carries_nothing() -> None:
    made = agent(spaces.Box(-1, 1, (2,)), latent_dim=3)
    with torch.no_grad():
        made.policy.mlp_extractor.policy_net[0].weight[:, 3:] = 0.0
        found = usage(made.policy, with_latents(made, torch.randn(100, 3)))
    assert found["information"] == pytest.approx(0.0, abs=1e-5)
    assert found["active_units"] == 0


def test_dimensions_that_act_are_counted() -> None:
    made = agent(spaces.Box(-1, 1, (2,)), latent_dim=3)
    with torch.no_grad():
        made.policy.mlp_extractor.policy_net[0].weight[:, 4:] = 0.0
        made.policy.action_net.weight *= 1000.0
        found = usage(made.policy, with_latents(made, torch.randn(100, 3)))
    assert found["active_units"] == 1
    assert found["information"] > 0.05


@pytest.mark.parametrize("actions", [spaces.Discrete(4), spaces.MultiDiscrete([4, 4])], ids=repr)
def test_a_choice_that_decides_the_action_carries_all_of_it(actions: spaces.Space) -> None:
    """Four latents, each with an action of its own: log 4 nats."""
    made = agent(actions, latent_dim=4, prior="categorical")
    policy = made.policy
    with torch.no_grad():
        policy.mlp_extractor.policy_net = torch.nn.Linear(7, 4, bias=False)
        policy.mlp_extractor.policy_net.weight.copy_(torch.cat([torch.zeros(4, 3), torch.eye(4)], 1))
        policy.action_net = torch.nn.Linear(4, 4 * len(getattr(actions, "nvec", [4])), bias=False)
        policy.action_net.weight.copy_(50.0 * torch.eye(4).repeat(len(policy.action_net.weight) // 4, 1))
        seen = with_latents(made, torch.randn(200, 3))._replace(latent=torch.eye(4).repeat(50, 1))
        found = usage(policy, seen)
    assert found["information"] == pytest.approx(np.log(4), abs=0.01)  # the prior is almost equal at first
    assert found["active_units"] == 1


def test_information_is_of_latents_as_the_prior_draws_them() -> None:
    """Of two latents one acts for sure, the other tosses a coin: H(¾, ¼) − ½ log 2 nats, whichever is held."""
    made = agent(spaces.Discrete(2), latent_dim=2, prior="categorical")
    policy = made.policy
    with torch.no_grad():
        policy.mlp_extractor.policy_net = torch.nn.Linear(5, 2, bias=False)
        policy.mlp_extractor.policy_net.weight.copy_(torch.cat([torch.zeros(2, 3), torch.eye(2)], 1))
        policy.action_net = torch.nn.Linear(2, 2, bias=False)
        policy.action_net.weight.copy_(torch.tensor([[50.0, 0.0], [0.0, 0.0]]))
        for parameter in policy.prior.parameters():
            parameter.zero_()
        seen = with_latents(made, torch.randn(4000, 3))._replace(latent=torch.eye(2)[:1].expand(4000, -1))
        found = usage(policy, seen)
    truth = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25)) - 0.5 * np.log(2)
    # Five standard errors of the share of coins: a false alarm in 10⁶.
    assert found["information"] == pytest.approx(truth, abs=0.03)


def policy_of(name: str, spread: float, **policy_kwargs: Any) -> Any:
    """A policy of one action that is zero but for the first dimension of its latent, times ``spread``."""
    policy = off(name, Toy(action_space=ONE), policy_kwargs=policy_kwargs).policy
    actor = policy.actor
    with torch.no_grad():
        for part, parameter in actor.named_parameters():
            if not part.startswith("prior"):  # which is N(0, I) at first
                parameter.zero_()
        if isinstance(actor, SemiImplicitActor):
            actor.log_std.bias.fill_(math.log(0.5))
        if isinstance(actor, SemiImplicitActor | LatentTD3Actor):
            actor.latent.to_actions.weight[0, 0] = spread
    return policy


@pytest.mark.parametrize(("name", "scale"), [("latent SAC", 0.5), ("latent TD3", 0.1)])
def test_information_of_gaussian_actions_is_known(name: str, scale: float) -> None:
    """½ log(1 + w²/σ²) of a = w z_1 + σ ε: here w = σ. It is a lower bound; 32 draws lose less than a fiftieth nat."""
    policy = policy_of(name, scale, latent_dim=3)
    torch.manual_seed(0)
    with torch.no_grad():
        found = usage(policy, torch.randn(20_000, 3))
    # Five standard errors (of some .7 nats of one state): a false alarm in 10⁶.
    assert found["information"] == pytest.approx(0.5 * math.log(2.0), abs=0.045)
    assert found["active_units"] == 1


@pytest.mark.parametrize("name", ["latent SAC", "latent TD3"])
def test_actions_without_the_latent_tell_nothing_of_it(name: str) -> None:
    with torch.no_grad():
        found = usage(policy_of(name, 0.0), torch.randn(100, 3))
    assert found == {"information": pytest.approx(0.0, abs=1e-5), "active_units": 0}


PARTS = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))


@pytest.mark.parametrize(("apart", "truth"), [(0.0, 0.0), (50.0, PARTS)])
def test_components_of_sac_are_told_apart_as_far_as_they_lie_apart(apart: float, truth: float) -> None:
    """Two far from each other, with weights ¾ and ¼: H(¾, ¼) nats; two that are one: none."""
    policy = policy_of("latent SAC, categorical", 0.0, n_components=2)
    with torch.no_grad():
        policy.actor.mu.bias.copy_(torch.tensor([0.0, apart]))
        policy.actor.logits.bias.copy_(torch.tensor([math.log(3.0), 0.0]))
        found = usage(policy, torch.randn(100, 3))
    assert found == {"information": pytest.approx(truth, abs=1e-5), "active_units": float(apart > 0)}


def of_mixture(actions: spaces.Space, bias: list[float]) -> dict[str, float]:
    """What a mixture of two in PPO tells whose head says the same in every state."""
    made = PPO(
        "MixturePolicy",
        make_vec_env(lambda: Toy(action_space=actions), 2),
        **OPTIONS,
        policy_kwargs={"n_components": 2},
    )
    with torch.no_grad():
        made.policy.action_net.weight.zero_()
        made.policy.action_net.bias.copy_(torch.tensor(bias))
        return usage(made.policy, torch.randn(20_000, 3))


@pytest.mark.parametrize(("apart", "truth"), [(0.0, 0.0), (50.0, PARTS)])
def test_components_of_ppo_are_told_apart_as_far_as_they_lie_apart(apart: float, truth: float) -> None:
    found = of_mixture(ONE, [math.log(3.0), 0.0, 0.0, apart])
    assert found == {"information": pytest.approx(truth, abs=1e-5), "active_units": float(apart > 0)}


def test_information_of_a_mixture_against_quadrature() -> None:
    """Components one deviation apart, weights ¾ and ¼: h(π) − h(N). Five standard errors: a false alarm in 10⁶."""
    a = np.linspace(-10, 11, 40_001)
    density = 0.75 * stats.norm.pdf(a) + 0.25 * stats.norm.pdf(a, 1.0)
    truth = -np.trapezoid(density * np.log(density), a) - stats.norm.entropy()
    assert of_mixture(ONE, [math.log(3.0), 0.0, 0.0, 1.0])["information"] == pytest.approx(truth, abs=0.01)


def test_components_of_bits_are_told_apart() -> None:
    """One component sets both bits for sure, the other tosses coins: H(π) − ¼ · 2 log 2 by hand."""
    found = of_mixture(spaces.MultiBinary(2), [math.log(3.0), 0.0, 50.0, 50.0, 0.0, 0.0])
    ones, others = 0.75 + 0.25 / 4, 0.25 / 4
    truth = -ones * math.log(ones) - 3 * others * math.log(others) - 0.5 * math.log(2.0)
    # One state's information deviates by some .4: five standard errors are .015.
    assert found == {"information": pytest.approx(truth, abs=0.015), "active_units": 1.0}


@pytest.mark.parametrize("name", LATENT)
def test_replay_buffers_are_looked_at_and_learning_does_not_notice(name: str) -> None:
    """Every eighth call, and not before learning starts, after 16 steps: at 24, 32, 48 and 64 steps."""
    agents = [off(name, VecNormalize(make_vec_env(Toy, 2, seed=0))) for _ in range(2)]
    lines = Lines()
    agents[1].set_logger(lines)
    for made, callback in zip(agents, (None, LatentUsage(eval_freq=8)), strict=True):
        made.set_random_seed(0)
        made.learn(64, callback=callback)
    for what in ("information", "active_units"):
        assert len(lines.of(f"latent/{what}")) == 4
    same: list[tuple[Tensor, Tensor]] = list(zip(*(made.policy.state_dict().values() for made in agents), strict=True))
    assert all(torch.equal(*pair) for pair in same)


@pytest.mark.parametrize("space", ["dict", "picture"])
def test_replay_buffers_of_other_observations(space: str) -> None:
    seen: spaces.Space = spaces.Box(0, 255, (36, 36, 3), np.uint8)
    policy = "LatentCnnPolicy"
    if space == "dict":
        seen, policy = spaces.Dict(here=spaces.Box(-1, 1, (3,)), there=spaces.Discrete(2)), "LatentMultiInputPolicy"
    made = off("latent SAC", Toy(seen), policy=policy)
    made.set_logger(Lines())
    made.learn(24, callback=LatentUsage(states=4, eval_freq=1))
    assert len(made.logger.of("latent/information")) == 2  # a rollout has four steps, and learning starts after 16


def test_a_buffer_is_looked_at_when_it_has_something() -> None:
    """At the first step of all nothing is stored yet; where episodes are, after the first of them."""
    made = off("latent TD3", learning_starts=0, train_freq=1)
    made.set_logger(Lines())
    made.learn(3, callback=LatentUsage(eval_freq=1))
    assert len(made.logger.of("latent/information")) == 3
    goals = spaces.Dict({name: spaces.Box(-1, 1, (2,)) for name in ("observation", "achieved_goal", "desired_goal")})

    class Reaching(Toy):
        def compute_reward(self, achieved: Any, desired: Any, infos: Any) -> Any:  # noqa: ARG002
            return -np.linalg.norm(achieved - desired, axis=-1)

    made = off(
        "latent SAC",
        Reaching(goals),
        policy="LatentMultiInputPolicy",
        replay_buffer_class=HerReplayBuffer,
        learning_starts=1,
        train_freq=(1, "episode"),
    )
    made.set_logger(Lines())
    made.learn(16, callback=LatentUsage(eval_freq=3))
    assert len(made.logger.of("latent/information")) == 2  # of eight steps each


def test_who_has_no_latent_to_look_at_is_told() -> None:
    choice = make_vec_env(lambda: Toy(action_space=spaces.Discrete(3)), 1)
    others: list[BaseAlgorithm] = [
        off("SAC"),
        PPO("MlpPolicy", make_vec_env(Toy, 1), **OPTIONS),
        PPO("MixturePolicy", choice, **OPTIONS),
        DQN("MlpPolicy", choice, device="cpu"),
        LatentBC(demonstrations=shown(), device="cpu"),
    ]
    for made in others:
        with pytest.raises(LatentRLError, match=f"Policy of {type(made).__name__} has no latent to look at"):
            made.learn(16, callback=LatentUsage())
    noisy = PPO("MultiInputPolicy", LatentNoiseWrapper(make_vec_env(Toy, 1)), **OPTIONS)
    with pytest.raises(LatentRLError, match="what LatentNoiseWrapper shows is a part of the observation"):
        noisy.learn(16, callback=LatentUsage())
    with pytest.raises(LatentRLError, match="eval_freq must be"):
        LatentUsage(eval_freq=0)


def test_tensorboard_shows_it(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    made = agent(spaces.Box(-1, 1, (2,)))
    made.tensorboard_log = str(tmp_path)
    made.learn(64, callback=LatentUsage(), tb_log_name="mine")
    found = events.EventAccumulator(str(tmp_path / "mine_1")).Reload()
    for what in ("information", "active_units"):
        assert [event.step for event in found.Scalars(f"latent/{what}")] == [32, 64]


@pytest.mark.parametrize("kind", ["latent", "mixture"])
def test_usage_of_rollouts_is_logged_and_learning_does_not_notice(kind: str) -> None:
    algorithm, policy = (LatentPPO, "LatentPolicy") if kind == "latent" else (PPO, "MixturePolicy")
    agents: list[Any] = [algorithm(policy, make_vec_env(Toy, 2, seed=0), **OPTIONS) for _ in range(2)]
    agents[1].set_logger(Lines())
    for made, callback in zip(agents, (None, LatentUsage()), strict=True):
        made.set_random_seed(0)
        made.learn(64, callback=callback)
    for what in ("information", "active_units"):
        assert len(agents[1].logger.of(f"latent/{what}")) == 2
    assert torch.equal(*(made.policy.action_net.weight for made in agents))
