"""What keeps a cloned policy: a critic that learns first, and a price on leaving the clone."""

import copy
import warnings
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.wrappers import TransformObservation
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from torch.distributions import Normal, kl_divergence

from latentrl import LatentRLError
from latentrl.sb3 import CriticWarmUp, GradientVariance, KLToClone, LatentPPO, LatentUsage
from latentrl.sb3.fine_tuning import remaining
from tests.sb3.agents_table import VECTOR, Toy
from tests.sb3.off_policy_table import OFF, Each, off
from tests.sb3.test_gradient_noise import Lines

ENVS, STEPS = 2, 16
OPTIONS: dict[str, Any] = {"n_steps": STEPS, "seed": 0, "device": "cpu"}


def agent(kind: str = "PPO", space: spaces.Space | None = None, **options: Any) -> Any:
    env = make_vec_env(lambda: Toy() if space is None else Toy(action_space=space), ENVS, seed=0)
    if kind == "latent":
        return LatentPPO("LatentPolicy", env, batch_size=8, policy_kwargs={"latent_dim": 2}, **OPTIONS, **options)
    if kind == "A2C":
        return A2C("MixturePolicy", env, **OPTIONS, **options)
    return PPO("MlpPolicy", env, batch_size=8, **OPTIONS, **options)


def weights(made: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in made.policy.named_parameters()}


@pytest.mark.parametrize("kind", ["PPO", "A2C", "latent"])
def test_policy_waits_for_its_critic(kind: str) -> None:
    made = agent(kind)
    first, seen = weights(made), []

    class Watch(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            now = weights(self.model)
            seen.append({name for name in now if not torch.equal(now[name], first[name])})

    made.learn(5 * ENVS * STEPS, callback=[CriticWarmUp(2 * ENVS * STEPS), Watch()])
    critic = {name for name in first if "value" in name}
    assert seen[0] == set()  # before the first update
    assert seen[1] == seen[2] == critic
    assert seen[3] == set(first)


@pytest.mark.parametrize("interrupted", [False, True])
@pytest.mark.parametrize("kind", ["PPO", "latent"])
def test_warm_up_that_is_cut_short_leaves_no_trace(kind: str, interrupted: bool) -> None:
    """Also where nothing tells the callback, and the next warm-up is another one."""

    def interrupt(_: Any, calls: int) -> None:
        if interrupted and calls == STEPS + 2:
            raise KeyboardInterrupt

    made = agent(kind)
    with suppress(KeyboardInterrupt), pytest.warns(UserWarning, match="leaves the policy as it is to the end"):
        made.learn(2 * ENVS * STEPS, callback=[CriticWarmUp(9 * ENVS * STEPS), Each(interrupt)])
    first = weights(made)
    with pytest.warns(UserWarning, match="begins after 0"):
        made.learn(ENVS * STEPS, callback=CriticWarmUp(1))
    assert {name for name, now in weights(made).items() if torch.equal(now, first[name])} == {
        name for name in first if "value" not in name
    }
    made.learn(ENVS * STEPS)
    assert not any(torch.equal(now, first[name]) for name, now in weights(made).items())


@pytest.mark.parametrize("kind", ["PPO", "A2C", "latent"])
def test_gradients_are_measured_while_the_policy_waits(kind: str) -> None:
    made, lines = agent(kind), Lines()
    made.set_logger(lines)
    with pytest.warns(UserWarning, match="CriticWarmUp"):
        made.learn(ENVS * STEPS, callback=[CriticWarmUp(), GradientVariance(1, 2)])
    assert lines.of("gradient/trace")[0] > 0.0


@pytest.mark.parametrize("space", [spaces.Box(-1, 1, (2,)), spaces.Discrete(3), spaces.MultiBinary(2)], ids=repr)
@pytest.mark.parametrize("kind", ["PPO", "A2C", "latent"])
def test_rewards_pay_for_leaving_the_clone(kind: str, space: spaces.Space) -> None:
    """Step by step; and the returns are stable-baselines3's own of what is left. At .4 of training β is at half."""
    made, price = agent(kind, space), KLToClone(coef=0.5, share=0.8)
    price.init_callback(made)
    price._on_training_start()
    made.learn(3 * ENVS * STEPS)
    assert not torch.equal(weights(made)["action_net.weight"], price.clone.action_net.weight)
    buffer, plain = made.rollout_buffer, collected(made)
    price._began = made._num_timesteps_at_start + 400_000
    last = {"values": torch.ones(ENVS), "dones": np.zeros(ENVS, bool)}
    price.locals = last
    price._on_rollout_end()
    for step in range(STEPS):
        seen, actions = (torch.from_numpy(rows[step]) for rows in (plain.observations, plain.actions))
        actions = actions.long().flatten() if isinstance(space, spaces.Discrete) else actions.float()
        if kind == "latent":
            z = torch.from_numpy(plain.latents[step])
            log_prob = price.clone.acts(seen, z[:, 1:]).log_prob(actions)
            log_prob = log_prob + z[:, 0] * Normal(0.0, 1.0).log_prob(z[:, 1:]).sum(-1)
        else:
            log_prob = price.clone.get_distribution(seen).log_prob(actions)
        plain.rewards[step] -= 0.25 * (plain.log_probs[step] - log_prob.detach().numpy())
    np.testing.assert_allclose(buffer.rewards, plain.rewards, atol=1e-5)
    plain.compute_returns_and_advantage(last["values"], last["dones"])
    np.testing.assert_allclose(buffer.returns, plain.returns, atol=1e-5)
    assert made.logger.name_to_value["clone/coef"] == pytest.approx(0.25)


@pytest.mark.parametrize(("share", "left"), [(1.0, 0.3), (0.8, 0.25), (0.4, 0.0), (0.2, 0.0), (None, 0.5)])
def test_what_is_left_of_a_coefficient(share: float | None, left: float) -> None:
    """At .4 of training, of .5."""
    made = agent()
    made._setup_learn(100)
    assert remaining(made, 0.5, KLToClone(share=share).share, at=40) == pytest.approx(left)


def collected(made: Any) -> Any:
    """A rollout's buffer, as it is before anything is made of it."""
    _, callback = made._setup_learn(10**6, reset_num_timesteps=False)
    made.collect_rollouts(made.env, callback, made.rollout_buffer, STEPS)
    return copy.deepcopy(made.rollout_buffer)


def test_price_is_the_divergence_on_average() -> None:
    """4000 actions at one state, Gaussians' closed form; false alarm rate 10⁻⁴ (3.9 σ)."""
    made, price = agent(), KLToClone()
    price.init_callback(made)
    price._on_training_start()
    with torch.no_grad():
        made.policy.action_net.bias += torch.tensor([0.4, -0.2])
        made.policy.log_std += torch.tensor([0.1, -0.3])
        seen = torch.zeros(4000, 3)
        now, then = (policy.get_distribution(seen).distribution for policy in (made.policy, price.clone))
        actions = now.sample()
        gaps = (now.log_prob(actions) - then.log_prob(actions)).sum(-1)
        exact = float(kl_divergence(now, then).sum(-1)[0])
    assert abs(float(gaps.mean()) - exact) < 3.9 * float(gaps.std()) / 4000**0.5


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("kind", ["PPO", "latent"])
def test_a_rollout_is_read_by_several_in_any_order(kind: str, named: bool) -> None:
    """Also one of Dict observations, which the buffer keeps apart; the same weights as with the price alone."""

    def learned(named: bool, *callbacks: BaseCallback) -> dict[str, torch.Tensor]:
        part = lambda: TransformObservation(Toy(), lambda seen: {"seen": seen}, spaces.Dict(seen=VECTOR))  # noqa: E731
        env = make_vec_env(part if named else Toy, ENVS, seed=0)
        maker = LatentPPO if kind == "latent" else PPO
        made = maker("MultiInputPolicy" if named else "MlpPolicy", env, batch_size=8, **OPTIONS)
        made.learn(3 * ENVS * STEPS, callback=list(callbacks))
        return weights(made)

    alone = learned(False, KLToClone(0.5))
    others: list[BaseCallback] = [GradientVariance(1, 2), *([LatentUsage()] if kind == "latent" else [])]
    for found in (learned(named, *others, KLToClone(0.5)), learned(named, KLToClone(0.5), *others)):
        assert all(torch.equal(found[name], alone[name]) for name in alone)


@pytest.mark.slow
def test_a_high_price_keeps_the_agent_at_its_clone() -> None:
    moved = []
    for coef in (0.0, 30.0):
        made, price = agent(learning_rate=3e-3), KLToClone(coef)
        made.learn(1500, callback=price)
        seen = torch.zeros(1, 3)
        now, then = (policy.get_distribution(seen).distribution for policy in (made.policy, price.clone))
        moved.append(float(kl_divergence(now, then).sum().detach()))
    assert moved[1] < 0.3 * moved[0]


@pytest.mark.parametrize("name", OFF)
def test_actor_waits_for_its_critics(name: str) -> None:
    """Updates come every 4 steps from the 20th on, after 16; those after a rollout of the next 8 are of critics."""
    made, moved, temperatures = off(name), {}, {}
    first = weights(made)

    def look(model: Any, step: int) -> None:
        # A target that follows what stands still moves by its rounding.
        moved[step] = {n for n, p in weights(model).items() if not torch.allclose(p, first[n], rtol=1e-6, atol=0.0)}
        temperatures[step] = float(getattr(model, "log_ent_coef", torch.zeros(1)).detach())

    made.learn(32, callback=[Each(look), CriticWarmUp(8)])
    assert moved[20] == set()
    assert moved[21] == moved[25] == {n for n in first if "critic" in n}
    assert moved[29] == set(first)
    assert temperatures[25] == 0.0
    assert (temperatures[29] != 0.0) == hasattr(made, "log_ent_coef")


def test_recurrent_policies_are_refused() -> None:
    """Before a rollout; their log-probability needs a memory."""
    agent = pytest.importorskip("sb3_contrib").RecurrentPPO("MlpLstmPolicy", Toy())
    for callback in (KLToClone(), GradientVariance()):
        with pytest.raises(LatentRLError, match=r"not (for|of) RecurrentPPO"):
            agent.learn(1, callback=callback)
    assert agent.num_timesteps == 0


def test_refusals() -> None:
    dqn = DQN("MlpPolicy", Toy(action_space=spaces.Discrete(3)), buffer_size=10)
    for callback in (CriticWarmUp(), KLToClone()):
        with pytest.raises(LatentRLError, match="not for DQN"):
            dqn.learn(1, callback=callback)
    with pytest.raises(LatentRLError, match="take CloneTerm for SAC"):
        off("SAC").learn(1, callback=KLToClone())
    with pytest.raises(LatentRLError, match="steps must be"):
        CriticWarmUp(0)
    with pytest.raises(LatentRLError, match="coef must be"):
        KLToClone(-1.0)
    with pytest.raises(LatentRLError, match="share is a share"):
        KLToClone(share=1.5)


@pytest.mark.parametrize("kind", ["PPO", "A2C", "latent"])
def test_price_starts_in_full_in_each_learn(kind: str) -> None:
    """Also of an agent whose last action law hangs on a graph."""
    made, seen = agent(kind), list[float]()
    price = KLToClone(1.0)

    class Watch(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            seen.append(self.logger.name_to_value["clone/coef"])

    for reset in (True, True, False):
        made.learn(4 * ENVS * STEPS, callback=[price, Watch()], reset_num_timesteps=reset)
    assert seen == 3 * [1.0, 0.75, 0.5, 0.25]


@pytest.mark.parametrize("kind", ["PPO", "latent"])
def test_a_price_that_is_gone_before_the_policy_learns_says_so(kind: str) -> None:
    rollout = ENVS * STEPS
    with pytest.warns(
        UserWarning, match=r"KLToClone fell to 0 before it could keep.*share=0\.5.*give a larger share, or share=None"
    ):
        agent(kind).learn(6 * rollout, callback=[CriticWarmUp(3 * rollout), KLToClone(0.1, share=0.5)])
    for warm, price in ((3, KLToClone(0.1)), (1, KLToClone(0.1, share=0.5)), (3, KLToClone(0.0, share=0.5))):
        agent(kind).learn(6 * rollout, callback=[CriticWarmUp(warm * rollout), price])


def test_price_of_an_agent_with_held_noise() -> None:
    agent(use_sde=True).learn(2 * ENVS * STEPS, callback=KLToClone(1.0))


def test_warm_up_begins_where_learning_does_and_in_each_learn() -> None:
    """Updates come every 4 steps from the 17th on; those of the first 8 steps of learning are of critics."""
    made, warm = off("SAC"), CriticWarmUp(8)
    for start, moves in ((0, {16: False, 21: False, 25: False, 29: True}), (40, {45: False, 53: True})):
        first, moved = weights(made), dict[int, bool]()

        def look(model: Any, step: int, first: Any = first, moved: Any = moved, start: int = start) -> None:
            now = weights(model)
            moved[start + step] = any(not torch.equal(now[name], first[name]) for name in now if "actor" in name)

        made.learn(40, callback=[Each(look), warm], reset_num_timesteps=False)
        assert {step: moved[step] for step in moves} == moves


def test_warm_up_that_lasts_to_the_end_says_so_of_long_rollouts_too() -> None:
    """Of 100 steps in rollouts of 50 the last begins after 50."""
    for steps, warns in ((60, True), (50, False)):
        made = SAC("MlpPolicy", Toy(), learning_starts=0, train_freq=50, gradient_steps=1, batch_size=4, device="cpu")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            made.learn(100, callback=CriticWarmUp(steps))
        assert any("leaves the policy as it is to the end" in str(one.message) for one in caught) == warns


@pytest.mark.parametrize(("name", "policy"), [("RecurrentPPO", "MlpLstmPolicy"), ("TRPO", "MlpPolicy")])
def test_warm_up_refuses_what_it_does_not_hold_back(name: str, policy: str) -> None:
    """TRPO takes no gradients that could be dropped."""
    contrib = pytest.importorskip("sb3_contrib")
    made = getattr(contrib, name)(policy, make_vec_env(Toy, 1), n_steps=128, device="cpu")
    with pytest.raises(LatentRLError, match=f"not for {name}"):
        made.learn(8, callback=CriticWarmUp(2))
