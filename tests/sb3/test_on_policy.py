"""Latents of rollouts: when they are drawn, what is remembered of them, and whose value is whose."""

import copy
import itertools
import math
import pickle
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor, nn

from latentrl import LatentRLError
from latentrl.sb3 import CriticWarmUp, GradientVariance, LatentA2C, LatentActorCriticPolicy, LatentPPO
from latentrl.sb3.actor_critic import PRIORS
from latentrl.sb3.held import WithLatent
from latentrl.sb3.on_policy import LatentDictRolloutBuffer, LatentRolloutBuffer
from tests.sb3.agents_table import VECTOR, Toy
from tests.sb3.off_policy_table import Each
from tests.sb3.test_gradient_noise import Lines

STEPS, ENVS, Z = 12, 3, 2


def agent(
    length: int = 5,
    truncates: bool = False,
    algorithm: Any = LatentPPO,
    space: spaces.Space = VECTOR,
    **policy_kwargs: Any,
) -> Any:
    def make() -> gym.Env:
        return gym.wrappers.TimeLimit(Toy(space, steps=10**9), length) if truncates else Toy(space, steps=length)

    return algorithm(
        "LatentMultiInputPolicy" if isinstance(space, spaces.Dict) else "LatentPolicy",
        make_vec_env(make, ENVS, seed=0),
        n_steps=STEPS,
        seed=0,
        device="cpu",
        policy_kwargs={"latent_dim": Z, **policy_kwargs},
        **({"batch_size": 9} if algorithm is LatentPPO else {}),
    )


def collect(made: LatentPPO, rollouts: int = 1) -> np.ndarray:
    """The share of z that is left, and z, of every step: (rollouts · STEPS, ENVS, 1 + Z)."""
    _, callback = made._setup_learn(10**6)
    found = []
    for _ in range(rollouts):
        made.collect_rollouts(made.env, callback, made.rollout_buffer, STEPS)
        found.append(made.rollout_buffer.latents)
    return np.concatenate(found)


@pytest.mark.parametrize("hold", [0, 1, 3])
def test_latents_are_held_as_long_as_they_should(hold: int) -> None:
    """Episodes of 5 steps; two rollouts of 12, so that one goes on in the next."""
    latents = collect(agent(hold=hold), rollouts=2)
    age = 0
    for step, (left, z) in enumerate(zip(latents[..., 0], latents[..., 1:], strict=True)):
        starts = step % 5 == 0
        age = 0 if starts or (hold and age >= hold) else age
        assert left == pytest.approx(np.full(ENVS, 1.0 - age / hold if hold else float(age == 0)))
        assert ((left == 1.0) == (age == 0)).all()
        assert ((z == latents[step - 1, :, 1:]).all(-1) == (age > 0)).all()
        age += 1
    firsts = latents[latents[..., 0] == 1][:, 1:]
    assert len(np.unique(firsts, axis=0)) == len(firsts)


@pytest.mark.parametrize("hold", [0, 1])
def test_log_probability_is_that_of_the_joint_law(hold: int) -> None:
    made = agent(hold=hold, prior="gaussian")
    latents = torch.from_numpy(collect(made).reshape(-1, 1 + Z))
    buffer, policy = made.rollout_buffer, made.policy
    observations = torch.from_numpy(buffer.observations.reshape(-1, 3))
    z, drawn = latents[:, 1:], latents[:, 0]  # of holds that have no steps in between
    with torch.no_grad():
        prior = policy.prior(observations)
        of_latent = torch.distributions.Normal(prior.loc, prior.scale).log_prob(z).sum(-1)
        hidden = policy.mlp_extractor.policy_net(torch.cat([observations, z], -1))
        means = policy.action_net(hidden)
        actions = torch.from_numpy(buffer.actions.reshape(-1, 2))
        of_action = torch.distributions.Normal(means, policy.log_std.exp()).log_prob(actions).sum(-1)
    expected = of_action + drawn * of_latent
    torch.testing.assert_close(torch.from_numpy(buffer.log_probs.reshape(-1)), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("algorithm", [LatentPPO, LatentA2C])
@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("hold", [0, 1, 3])
def test_ratio_is_one_before_the_first_update(algorithm: Any, prior: str, hold: int) -> None:
    """Where actions depend on latents, and latents on states; in the second rollout, into which some are held."""
    made = agent(algorithm=algorithm, prior=prior, hold=hold)
    with torch.no_grad():
        made.policy.action_net.weight *= 100.0
        for parameter in made.policy.prior.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    collect(made, rollouts=2)
    for batch in made.rollout_buffer.get(9):
        _, log_prob, _ = made.policy.evaluate_actions(batch.observations, batch.actions)
        torch.testing.assert_close((log_prob - batch.old_log_prob).exp(), torch.ones(9), atol=1e-5, rtol=0)


def test_the_prior_is_asked_where_a_latent_is_due_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Episodes of 5 steps: 3 starts in 12 steps. After the last, the value needs none."""
    made = agent(prior="categorical")
    asked, ask = [], made.policy._law
    monkeypatch.setattr(made.policy, "_law", lambda features: (asked.append(len(features)), ask(features))[1])
    latents = collect(made)
    assert asked == [ENVS] * 3
    assert latents[..., 0].sum() == 3 * ENVS


def test_without_a_bonus_the_gradient_of_the_entropy_is_not_computed() -> None:
    made = agent(prior="gaussian")
    seen = torch.randn(5, 3)
    for weight in (0.0, 1.0):
        (weight * made.policy.evaluate_actions(with_latents(made, seen), torch.zeros(5, 2))[2].mean()).backward()
        assert (made.policy.log_std.grad is None) == (weight == 0.0)


class KnownValue(nn.Module):
    """V = 7 z_1 + o_1 + 5 times the share of z that is left, and without z where another is due: of (o, z, left)."""

    def forward(self, seen: Tensor) -> Tensor:
        return 7.0 * seen[:, -1 - Z : -Z] + seen[:, :1] + 5.0 * seen[:, -1:]


def first_number(observation: Any) -> Any:
    """o_1 of one observation, or of several."""
    return (observation["a"] if isinstance(observation, dict) else observation)[..., 0]


@pytest.mark.parametrize("space", [VECTOR, spaces.Dict(a=VECTOR, b=spaces.Discrete(2))], ids=["flat", "dict"])
@pytest.mark.parametrize("hold", [0, 2, 5])
def test_values_of_last_observations_see_the_latent_of_their_environment(hold: int, space: spaces.Space) -> None:
    """Or that another is due: of ``hold=5`` where an episode is cut, of ``hold=2`` where the rollout ends. Where none
    is, how much of it is left: half of two steps after one, three of five after two, of an episode nothing is known."""
    made = agent(truncates=True, space=space, hold=hold)
    made.policy.mlp_extractor.value_net, made.policy.value_net = nn.Identity(), KnownValue()
    seen: list[tuple[np.ndarray, np.ndarray, list[Any]]] = []
    env = made.env
    step = env.step_wait

    def step_wait() -> Any:
        result = step()
        seen.append((result[1].copy(), result[2], [info.get("terminal_observation") for info in result[3]]))
        return result

    env.step_wait = step_wait
    latents = collect(made)
    rewards, episodes = made.rollout_buffer.rewards, 0
    for index, (given, dones, last) in enumerate(seen):
        for place in range(ENVS):
            held = 7.0 * latents[index, place, 1] + {0: 0.0, 2: 2.5, 5: 0.0}[hold]
            value = (5.0 if hold == 5 else held) + first_number(last[place]) if dones[place] else 0.0
            assert rewards[index, place] == pytest.approx(given[place] + made.gamma * value, rel=1e-5)
            episodes += dones[place]
    assert episodes == 2 * ENVS
    # The rollout ends within an episode, after its second step.
    delta = made.rollout_buffer.advantages[-1] - rewards[-1] + made.rollout_buffer.values[-1]
    of_latent = 5.0 if hold == 2 else 7.0 * latents[-1, :, 1] + {0: 0.0, 5: 3.0}[hold]
    np.testing.assert_allclose(delta, made.gamma * (of_latent + first_number(made._last_obs)), rtol=1e-4)


def test_the_value_does_not_see_a_latent_before_it_is_drawn() -> None:
    made = agent()
    latents = torch.from_numpy(collect(made).reshape(-1, 1 + Z))
    buffer, other = made.rollout_buffer, torch.randn(STEPS * ENVS, Z)
    observations, actions = torch.from_numpy(buffer.observations.reshape(-1, 3)), torch.zeros(STEPS * ENVS, 2)
    drawn = latents[:, 0]
    own, others = (
        made.policy.evaluate_actions(WithLatent(observations, z, drawn), actions)[0].squeeze(-1)
        for z in (latents[:, 1:], other)
    )
    torch.testing.assert_close(own, torch.from_numpy(buffer.values.reshape(-1)))
    assert ((own == others) == (drawn == 1.0)).all()


class Promise(gym.Env):
    """Four steps without news; then 1 if the first action was 1."""

    observation_space, action_space = spaces.Box(-1.0, 1.0, (1,)), spaces.Discrete(2)

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict]:
        super().reset(**kwargs)
        self.actions: list[int] = []
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.actions.append(int(action))
        over = len(self.actions) == 4
        return np.zeros(1, np.float32), float(over and self.actions[0] == 1), over, False, {}


def test_a_prior_learns_which_latent_is_worth_more() -> None:
    """What each latent does is fixed, and a value function that saw the choice knows all before it is made."""
    made = LatentPPO(
        "LatentPolicy",
        make_vec_env(Promise, 8, seed=0),
        n_steps=16,
        batch_size=64,
        learning_rate=1e-2,
        seed=0,
        device="cpu",
        policy_kwargs={"latent_dim": 2, "prior": "categorical"},
    )
    policy = made.policy
    policy.mlp_extractor.policy_net = nn.Identity()
    policy.action_net = nn.Linear(3, 2, bias=False).requires_grad_(False)
    policy.action_net.weight.copy_(torch.tensor([[0.0, 20.0, 0.0], [0.0, 0.0, 20.0]]))
    made.learn(24 * 128, CriticWarmUp(12 * 128))
    with torch.no_grad():
        assert policy._law(torch.zeros(1, 1)).probs[0, 1] > 0.9


def test_a_latent_of_each_step_is_hidden_from_the_value() -> None:
    made = agent(hold=1)
    assert made.policy.mlp_extractor.value_net[0].in_features == 3
    assert agent(hold=2).policy.mlp_extractor.value_net[0].in_features == 3 + Z + 1


def test_play_holds_steers_and_checks_its_state() -> None:
    policy = agent(hold=2).policy
    seen = np.zeros((4, 3), np.float32)
    _, state = policy.predict(seen)
    (_, second), (_, third) = policy.predict(seen, state), policy.predict(seen, policy.predict(seen, state)[1])
    assert (second[0] == state[0]).all()
    assert (third[0] != state[0]).any(1).all()
    _, restarted = policy.predict(seen, state, episode_start=np.array([True, False, False, True]))
    assert ((restarted[0] == state[0]).all(1) == [False, True, True, False]).all()
    steered, kept = policy.predict(seen, latent=[1.0, -1.0], deterministic=True)
    assert (kept[0] == [1.0, -1.0]).all()
    assert (policy.predict(seen, kept, deterministic=True)[0] == steered).all()
    with pytest.raises(LatentRLError, match=r"latent has shape \(3,\)"):
        policy.predict(seen, latent=[1.0, 2.0, 3.0])
    with pytest.raises(LatentRLError, match="state must be"):
        policy.predict(seen, (state[0][:2], state[1]))
    with pytest.raises(LatentRLError, match="tuple"):
        policy.predict((seen, {}))
    single, _ = policy.predict(seen[0])
    assert single.shape == (2,)


def test_agents_are_steered_as_their_policies_are() -> None:
    made, seen = agent(), np.zeros((4, 3), np.float32)
    played, (z, _) = made.predict(seen, deterministic=True, latent=[1.0, -1.0])
    assert (z == [1.0, -1.0]).all()
    assert (made.policy.predict(seen, deterministic=True, latent=[1.0, -1.0])[0] == played).all()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda policy: pickle.loads(pickle.dumps(policy))])
def test_copies_of_a_policy_that_collects_do_not(copied: Any) -> None:
    found: list[LatentActorCriticPolicy] = []
    agent().learn(1, callback=Each(lambda model, _: found.append(copied(model.policy))))
    _, values, log_prob = found[3](torch.zeros(7, 3))
    assert log_prob.shape == (7,)
    torch.testing.assert_close(found[3].predict_values(torch.zeros(7, 3)), values)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    env = DummyVecEnv([Toy])
    PPO("MlpPolicy", env).save(tmp_path / "stock.zip")
    with pytest.raises(LatentRLError, match="not ActorCriticPolicy: take 'LatentPolicy'"):
        LatentPPO.load(tmp_path / "stock.zip")
    with pytest.raises(LatentRLError, match="not ActorCriticPolicy"):
        LatentPPO(PPO.policy_aliases["MlpPolicy"], env)
    with pytest.raises(LatentRLError, match="does not keep latents"):
        LatentA2C("LatentPolicy", env, rollout_buffer_class=RolloutBuffer)
    for stock in (
        PPO(LatentActorCriticPolicy, env, n_steps=32, batch_size=32),
        A2C(LatentActorCriticPolicy, env, n_steps=32),
    ):
        before = copy.deepcopy(stock.policy.state_dict())
        with pytest.raises(LatentRLError, match="use LatentPPO"):
            stock.learn(32)
        assert all(torch.equal(value, before[key]) for key, value in stock.policy.state_dict().items())


@pytest.mark.parametrize("algorithm", [PPO, A2C])
def test_buffers_that_do_not_fit_are_refused_before_training(algorithm: Any) -> None:
    parts = spaces.Dict(numbers=VECTOR)
    for policy, space, buffer in (
        ("MlpPolicy", VECTOR, LatentRolloutBuffer),
        ("MultiInputPolicy", parts, LatentDictRolloutBuffer),
    ):
        made = algorithm(policy, Toy(space), rollout_buffer_class=buffer, device="cpu")
        with pytest.raises(LatentRLError, match=f"{buffer.__name__} keeps latents, but .*use it with LatentPPO or"):
            made.learn(64)
        assert made.num_timesteps == 1
    latent = {PPO: LatentPPO, A2C: LatentA2C}[algorithm]
    for policy, space, buffer, fitting in (
        ("LatentMultiInputPolicy", parts, LatentRolloutBuffer, LatentDictRolloutBuffer),
        ("LatentPolicy", VECTOR, LatentDictRolloutBuffer, LatentRolloutBuffer),
    ):
        with pytest.raises(LatentRLError, match=f"leave it out, or derive from {fitting.__name__}$"):
            latent(policy, Toy(space), rollout_buffer_class=buffer, device="cpu")


def test_goes_on_with_other_environments() -> None:
    made = agent()
    made.learn(STEPS * ENVS)
    made.set_env(make_vec_env(Toy, ENVS, seed=1))
    made.learn(STEPS * ENVS)
    made.learn(STEPS * ENVS, reset_num_timesteps=False)


def test_a_loaded_agent_goes_on_with_episodes_that_have_begun(tmp_path: Path) -> None:
    """Under other latents, drawn where it goes on: episodes of 5 steps, of which the first rollout leaves 3."""
    made = agent()
    made.learn(STEPS * ENVS)
    made.save(tmp_path / "agent.zip")
    loaded = LatentPPO.load(tmp_path / "agent.zip", env=made.get_env(), force_reset=False)
    loaded.learn(STEPS * ENVS, reset_num_timesteps=False)
    drawn = loaded.rollout_buffer.latents.reshape(ENVS, STEPS, 1 + Z)[..., 0]
    assert (np.flatnonzero(drawn.all(0)) == [0, 3, 8]).all()
    assert drawn.sum() == 3 * ENVS


def test_gradients_are_measured() -> None:
    made = agent()
    lines = Lines()
    made.set_logger(lines)
    made.learn(STEPS * ENVS, callback=GradientVariance(replicates=4))
    assert len(lines.of("gradient/trace")) == 1
    assert np.isfinite(lines.of("gradient/trace")).all()


def test_latents_of_choices() -> None:
    made = LatentPPO(
        "LatentPolicy",
        DummyVecEnv([lambda: Toy(action_space=spaces.Discrete(3))]),
        n_steps=STEPS,
        batch_size=4,
        policy_kwargs={"latent_dim": 4, "prior": "categorical"},
    )
    latents = collect(made)
    assert ((latents[..., 1:] == 0) | (latents[..., 1:] == 1)).all()
    assert (latents[..., 1:].sum(-1) == 1).all()


def with_latents(made: LatentPPO, observations: Tensor) -> WithLatent:
    z = torch.zeros(len(observations), made.policy.latent_dim)
    return WithLatent(observations, z, torch.zeros(len(observations)))


@pytest.mark.parametrize("actions", [spaces.Discrete(3), spaces.MultiDiscrete([3, 2]), spaces.MultiBinary(2)], ids=repr)
def test_entropy_of_finite_latents_and_actions_is_exact(actions: spaces.Space) -> None:
    """Against Σ_z p(z|s) p(a|s, z), one latent and one action after another."""
    kwargs = {"latent_dim": 4, "prior": "categorical"}
    made = LatentPPO("LatentPolicy", DummyVecEnv([lambda: Toy(action_space=actions)]), seed=0, policy_kwargs=kwargs)
    policy, seen = made.policy, torch.randn(5, 3)
    with torch.no_grad():
        policy.action_net.weight *= 100.0  # or all latents would act alike
        for parameter in policy.prior.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
        policy.prior.numbers.from_features.weight *= 3.0
        counts = {"Discrete": [3], "MultiDiscrete": [3, 2], "MultiBinary": [2, 2]}[type(actions).__name__]
        every = torch.tensor(list(itertools.product(*map(range, counts)))).float()
        every = every.flatten() if len(counts) == 1 else every
        total = torch.zeros(len(every), 5)
        for z in torch.eye(4):
            acts = policy.acts(seen, z.expand(5, 4))
            given = torch.stack([acts.log_prob(a.expand(5, *a.shape)) for a in every]).exp()
            total += policy._law(seen).log_prob(z.expand(5, 4)).exp() * given
        exact = -(total * total.log()).sum(0)
        found = policy.evaluate_actions(with_latents(made, seen), torch.zeros(5, *(actions.shape or ())))[2]
    torch.testing.assert_close(total.sum(0), torch.ones(5))
    torch.testing.assert_close(found, exact)


def test_entropy_of_other_latents_is_bounded_from_below() -> None:
    """Over 400 sets of 8 latents, against 1000 draws under 1000 latents each; false alarm rate 10⁻⁴ (4.4 σ)."""
    made = agent(prior="gaussian")
    policy, seen = made.policy, torch.randn(5, 3)
    with torch.no_grad():
        policy.action_net.weight *= 3000.0
        bounds = torch.stack([policy.entropy_bound(policy.features_of(seen)) for _ in range(400)])
        z = policy._law(seen).sample((1000,))
        acts = policy.acts(seen.expand(1000, 5, 3).flatten(0, 1), z.flatten(0, 1))
        actions, law = acts.sample().view(1000, 5, 2), acts.distribution
        means = law.mean.view(1000, 5, 2)
        given = torch.distributions.Normal(means, law.stddev[0]).log_prob(actions.unsqueeze(1)).sum(-1)
        surprise = math.log(1000) - given.logsumexp(1)
    error = (surprise.std(0) ** 2 / 1000 + bounds.std(0) ** 2 / 400).sqrt()
    assert (bounds.mean(0) < surprise.mean(0) + 4.4 * error).all()
    alone = policy.acts(seen, z[0]).entropy()
    assert (bounds.mean(0) > alone + 1.0).all()  # and not that of one latent: they act differently


@pytest.mark.parametrize("prior", ["gaussian", "mixture", "categorical"])
def test_entropy_is_a_function_of_a_learned_prior_too(prior: str) -> None:
    made = agent(prior=prior)
    features = torch.randn(16, made.policy.features_dim)
    made.policy.entropy_bound(features).mean().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in list(made.policy.prior.parameters())[-1:])


def test_values_of_other_environments_than_those_of_the_rollout() -> None:
    """A callback may ask for them."""
    made, found = agent(), list[int]()

    class Asks(BaseCallback):
        def _on_step(self) -> bool:
            found.append(len(self.model.policy.predict_values(torch.zeros(7, made.policy.features_dim))))
            return True

    made.learn(made.n_steps * made.n_envs, callback=Asks())
    assert set(found) == {7}


@pytest.mark.parametrize("rows", [ENVS, 1])
def test_a_callback_that_asks_for_actions_moves_no_latent(rows: int) -> None:
    """Whatever it is shown, of as many environments or of others."""

    class Asks(BaseCallback):
        def _on_step(self) -> bool:
            with torch.no_grad():
                self.model.policy(torch.zeros(rows, made.policy.features_dim))
            return True

    for hold in (0, 3):
        made = agent(hold=hold)
        made.learn(made.n_steps * made.n_envs, callback=Asks())
        drawn = made.rollout_buffer.latents[..., 0].reshape(ENVS, STEPS).T  # flattened as they were learned from
        np.testing.assert_array_equal(drawn, collect(agent(hold=hold))[..., 0])


def test_latents_that_are_held_for_ever_are_not_taken_for_drawn() -> None:
    """Their share that is left is next to all."""
    latents = collect(agent(length=100, hold=10**9))
    assert (latents[0, :, 0] == 1.0).all()
    assert (latents[1:, :, 0] < 1.0).all()


def test_forward_plays_as_predict_does_where_it_is_to_be_deterministic() -> None:
    """As those who export a policy of stable-baselines3 call it."""
    policy, seen = agent(prior="gaussian").policy, torch.randn(4, 3)
    with torch.no_grad():
        actions = policy(seen, deterministic=True)[0]
        assert not torch.equal(policy(seen)[0], policy(seen)[0])
    np.testing.assert_allclose(actions.clamp(-1, 1), policy.predict(seen.numpy(), deterministic=True)[0], atol=1e-6)


def test_what_a_latent_does_depends_on_the_picture() -> None:
    """With a linear head on stable-baselines3's features of pictures, it would move all actions alike."""
    picture = spaces.Box(0, 255, (3, 36, 36), np.uint8)
    policy = LatentPPO("LatentCnnPolicy", Toy(picture), device="cpu", policy_kwargs={"latent_dim": Z}).policy
    features = torch.randn(5, policy.features_dim)
    with torch.no_grad():
        one, other = (policy.acts(features, torch.full((5, Z), z)).distribution.mean for z in (0.0, 1.0))
    assert (other - one).std(0).min() > 1e-6


def test_goes_on_with_another_number_of_environments(tmp_path: Path) -> None:
    made = agent(hold=3).learn(STEPS * ENVS)
    made.save(tmp_path / "agent.zip")
    loaded = LatentPPO.load(tmp_path / "agent.zip", env=make_vec_env(Toy, ENVS + 2, seed=1), device="cpu")
    loaded.learn(STEPS * (ENVS + 2), reset_num_timesteps=False)
    assert loaded.rollout_buffer.latents.shape == (STEPS * (ENVS + 2), 1 + Z)


@pytest.mark.parametrize("net_arch", [[16], []])
def test_latents_begin_as_small_as_they_should(net_arch: list[int], tmp_path: Path) -> None:
    """Nothing else depends on it, and at 0 actions do not depend on z until something is learned."""
    policies = {scale: agent(net_arch=net_arch, latent_scale=scale).policy for scale in (1.0, 0.1, 0.0)}
    whole, tenth = (dict(policies[scale].named_parameters()) for scale in (1.0, 0.1))
    first = "mlp_extractor.policy_net.0.weight" if net_arch else "action_net.weight"
    for name, weight in whole.items():
        factor = torch.ones(weight.shape[-1:])
        factor[3:] = 0.1 if name == first else 1.0
        torch.testing.assert_close(tenth[name], factor * weight)
    seen = np.ones((4, 3), np.float32)
    for scale, policy in policies.items():
        actions, _ = policy.predict(seen, latent=np.arange(8.0).reshape(4, 2), deterministic=True)
        assert (np.ptp(actions, 0) == 0.0).all() == (scale == 0.0)
    policies[0.0].save(tmp_path / "policy.zip")
    assert LatentActorCriticPolicy.load(tmp_path / "policy.zip").latent_scale == 0.0
    with pytest.raises(LatentRLError, match="latent_scale must be a number of at least"):
        agent(latent_scale=-1.0)
