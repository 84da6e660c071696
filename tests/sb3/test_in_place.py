"""LatentBC on the networks of agents: the agents know what was cloned, and their laws are those that were fitted."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy.special import logsumexp
from scipy.stats import norm
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import VecNormalize
from torch.distributions import AffineTransform, Normal, TanhTransform, TransformedDistribution

from latentrl import Demonstrations, LatentRLError
from latentrl.sb3 import HeldOut, LatentA2C, LatentBC, LatentNoiseWrapper, LatentPPO
from latentrl.sb3.actor_decoders import EDGE, SPREAD, ShownActions, _log_ndtr
from latentrl.schedules import Cosine
from tests.sb3.agents_table import BOX, VECTOR, Toy
from tests.sb3.off_policy_table import BOUNDS, OFF, Each, off, shown

SMALL: dict[str, Any] = {"seed": 0, "device": "cpu"}
SPACES = {
    "box": BOX,
    "choice": spaces.Discrete(3),
    "choices": spaces.MultiDiscrete([3, 2]),
    "bits": spaces.MultiBinary(2),
}
MAKERS = {
    "stock": lambda env: PPO("MlpPolicy", env, **SMALL),
    # Under wider components both ways are one.
    "mixture": lambda env: A2C("MixturePolicy", env, policy_kwargs={"n_components": 3, "log_std_init": -1.0}, **SMALL),
    "latent": lambda env: LatentPPO("LatentPolicy", env, policy_kwargs={"latent_dim": 2}, **SMALL),
    "choices": lambda env: LatentA2C(
        "LatentPolicy", env, policy_kwargs={"latent_dim": 3, "prior": "categorical", "hold": 4}, **SMALL
    ),
}


def demonstrations(space: spaces.Space, episodes: int = 60, steps: int = 8) -> Demonstrations:
    """Every other episode does one thing, the rest another, whatever is seen."""
    rng = np.random.default_rng(0)
    things = {
        "Box": [[0.7, -0.4], [-0.6, 0.1]],
        "Discrete": [0, 2],
        "MultiDiscrete": [[0, 0], [2, 1]],
        "MultiBinary": [[0, 1], [1, 0]],
    }[type(space).__name__]
    actions = np.array([things[episode % 2] for episode in range(episodes) for _ in range(steps)], space.dtype)
    seen = rng.normal(size=(len(actions), 3)).astype(np.float32)
    if isinstance(space, spaces.Box):
        actions = (actions + 0.05 * rng.normal(size=actions.shape)).astype(np.float32)
    return Demonstrations.from_arrays(seen, actions, [steps] * episodes, VECTOR, space)


def share_of_second(agent: BaseAlgorithm, space: spaces.Space) -> float:
    """Of 200 actions, each with a latent of its own; nan if some are neither of the two."""
    played = agent.predict(np.zeros((200, 3), np.float32))[0]
    things = demonstrations(space).actions[[0, 8]]
    near = [np.abs(np.asarray(played, float) - thing).reshape(200, -1).max(1) < 0.4 for thing in things]
    return float(near[1].mean()) if (near[0] | near[1]).mean() > 0.85 else float("nan")


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("maker", MAKERS)
def test_log_probability_is_the_agents_own(maker: str, space: str) -> None:
    agent = MAKERS[maker](Toy(action_space=SPACES[space]))
    clone = LatentBC(agent, demonstrations=demonstrations(SPACES[space]), noise=None)
    model, policy = clone.policy.model, agent.policy
    batch = clone._trainer(clone.demonstrations, 10).segments.batch(torch.arange(5), None)
    z = torch.randn(5, model.latent_dim)
    steps = batch.observations.dim() == 3
    with torch.no_grad():
        ours = model.decoder(batch.observations, z).log_prob(batch.actions)
        seen = batch.observations.flatten(0, 1) if steps else batch.observations
        if model.latent_dim:
            acts = policy.acts(seen, z.repeat_interleave(len(seen) // 5, 0))
        else:
            acts = policy.get_distribution(seen)
        features = batch.actions.flatten(0, -2)
        actions = {
            "choice": lambda: features.argmax(-1),
            "choices": lambda: torch.stack([features[:, :3].argmax(-1), features[:, 3:].argmax(-1)], -1),
        }.get(space, lambda: features)()
        torch.testing.assert_close(ours.flatten(), acts.log_prob(actions))


@pytest.mark.filterwarnings("ignore:the latent has collapsed")
@pytest.mark.parametrize(
    ("maker", "space", "updates"),
    [("mixture", "box", 1000), ("mixture", "choices", 300), ("latent", "box", 500), ("choices", "bits", 300)],
)
def test_agents_play_both_ways_that_they_were_shown(maker: str, space: str, updates: int) -> None:
    agent = MAKERS[maker](Toy(action_space=SPACES[space]))
    assert np.isnan(share_of_second(agent, SPACES[space])) or maker == "mixture"
    critic = {n: p.clone() for n, p in agent.policy.named_parameters() if "value" in n}
    LatentBC(agent, demonstrations=demonstrations(SPACES[space]), learning_rate=Cosine(1e-2), seed=1).learn(updates)
    assert 0.25 < share_of_second(agent, SPACES[space]) < 0.75
    assert all(torch.equal(p, critic[n]) for n, p in agent.policy.named_parameters() if "value" in n)
    agent.learn(64)


def test_observations_are_normalised_as_the_agents_are() -> None:
    env = VecNormalize(make_vec_env(Toy, 1, seed=0))
    agent = PPO("MlpPolicy", env, **SMALL)
    given = demonstrations(BOX)
    clone = LatentBC(agent, demonstrations=given, noise=None)
    np.testing.assert_allclose(env.obs_rms.mean, given.observations.mean(0), atol=1e-3)
    seen = list[Any]()

    class Look(BaseCallback):
        def _on_step(self) -> bool:
            seen.append(self.locals["trainer"].segments.sample_rows()[0].numpy())
            return True

    for moved in (0.0, 1.0):  # statistics of its own are kept, and those of now are what counts
        env.obs_rms.mean += moved
        clone.learn(1, callback=Look())
        np.testing.assert_allclose(env.obs_rms.mean, given.observations.mean(0) + moved, atol=1e-3)
        np.testing.assert_allclose(seen[-1], env.normalize_obs(given.observations), rtol=1e-5)
    rewards_alone = PPO("MlpPolicy", VecNormalize(make_vec_env(Toy, 1, seed=0), norm_obs=False), **SMALL)
    clone = LatentBC(rewards_alone, demonstrations=given, noise=None)
    np.testing.assert_array_equal(clone.demonstrations.observations, given.observations)


def test_statistics_of_something_else_are_told() -> None:
    """VecNormalize has seen one reset alone: its variance is next to nothing."""
    env = VecNormalize(make_vec_env(Toy, 1, seed=0))
    env.reset()
    clone = LatentBC(PPO("MlpPolicy", env, **SMALL), demonstrations=demonstrations(BOX), noise=None)
    with pytest.warns(UserWarning, match=r"9\d% of what is shown lies beyond clip_obs .* are of 1 observations"):
        clone.learn(1)


def test_what_an_agent_learned_after_cloning_is_not_undone_by_more_of_it() -> None:
    """The average of cloned weights is the agent's, and the weights behind it are gone."""
    agent = PPO("MlpPolicy", make_vec_env(Toy, 2, seed=0), n_steps=32, batch_size=32, **SMALL)
    clone = LatentBC(agent, demonstrations=demonstrations(BOX), noise=None, ema_decay=0.9).learn(20)
    agent.learn(64)
    learned = {name: weight.clone() for name, weight in agent.policy.named_parameters()}
    clone.lr_schedule = lambda _: 0.0
    clone.learn(1)
    for name, weight in agent.policy.named_parameters():
        assert torch.equal(weight, learned[name]), name


def test_pictures_go_through_the_agents_extractor() -> None:
    picture = spaces.Box(0, 255, (3, 36, 36), np.uint8)
    agent = PPO("MixtureCnnPolicy", Toy(picture), policy_kwargs={"n_components": 2}, **SMALL)
    seen = np.random.default_rng(0).integers(0, 255, (16, 3, 36, 36), np.uint8)
    actions = demonstrations(BOX).actions[:16]
    before = {n: p.clone() for n, p in agent.policy.named_parameters()}
    LatentBC(agent, demonstrations=Demonstrations.from_arrays(seen, actions, [8, 8], picture, BOX)).learn(2)
    moved = [n for n, p in agent.policy.named_parameters() if not torch.equal(p, before[n])]
    assert any("features_extractor" in name for name in moved)


def before_tanh(agent: Any, seen: torch.Tensor, z: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log weights (B, K), means and standard deviations (B, K, A) of components, by the actor's own functions."""
    actor = agent.policy.actor
    if hasattr(actor, "logits"):
        law = actor.law(seen)
        parts = law.log_weights, law.loc, law.scale
    else:
        if hasattr(actor, "latent"):
            law = actor.law_of(actor._before_activation(seen), z)
            loc, scale = law.loc, law.scale
        else:
            loc, log_std, _ = actor.get_action_dist_params(seen)
            scale = log_std.exp()
        parts = torch.zeros(len(seen), 1), loc.unsqueeze(1), scale.unsqueeze(1)
    return tuple(part.detach().double().numpy() for part in parts)  # type: ignore[return-value]


@pytest.mark.parametrize("name", OFF)
def test_squashed_log_probability(name: str) -> None:
    """Inside of the box torch's law of center + half width · tanh(u), beyond the edge scipy's tail; float64."""
    agent = off(name)
    with torch.no_grad():
        for parameter in agent.policy.actor.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    decoder = LatentBC(agent, demonstrations=shown(), noise=None).policy.model.decoder
    seen, z = torch.randn(6, 3), torch.randn(6, getattr(agent.policy.actor, "latent_dim", 0))
    low, high = BOUNDS.low.astype(float), BOUNDS.high.astype(float)
    center, half_width = 0.5 * (high + low), 0.5 * (high - low)
    ratio = np.array([[0.2, -0.9], [1.0, 0.5], [-1.0, 1.0], [0.98, -0.98], [0.0, 0.995], [-0.7, 0.1]])
    actions = center + half_width * ratio
    ours = decoder(seen, z).log_prob(torch.tensor(actions, dtype=torch.float32)).detach()
    if "TD3" in name or name == "DDPG":
        with torch.no_grad():
            actor = agent.policy.actor
            mean = center + half_width * (actor.given(seen, z) if z.shape[-1] else actor(seen)).double().numpy()
        expected = norm.logpdf(actions, mean, SPREAD * half_width).sum(-1)
    else:
        log_weights, loc, scale = before_tanh(agent, seen, z)
        squash = [TanhTransform(), AffineTransform(torch.tensor(center), torch.tensor(half_width))]
        law = TransformedDistribution(Normal(torch.tensor(loc), torch.tensor(scale)), squash)
        inside = law.log_prob(torch.tensor(center + half_width * ratio.clip(-0.99, 0.99))[:, None]).numpy()
        side, u = np.sign(ratio)[:, None], np.arctanh(EDGE)
        beyond = norm.logcdf((side * loc - u) / scale)
        each = np.where((np.abs(ratio) >= EDGE)[:, None], beyond, inside).sum(-1)
        expected = logsumexp(log_weights + each, axis=-1)
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", [name for name in OFF if "SAC" in name or "TQC" in name])
def test_spreads_are_bounded_as_the_actors_are(name: str) -> None:
    agent = off(name)
    decoder = LatentBC(agent, demonstrations=shown(), noise=None).policy.model.decoder
    seen, z = torch.randn(6, 3), torch.zeros(6, getattr(agent.actor, "latent_dim", 0))
    for bias, bound in ((-30.0, -20.0), (9.0, 2.0)):
        torch.nn.init.constant_(agent.actor.log_std.bias, bias)
        scale = decoder(seen, z).law.scale.log().detach()
        torch.testing.assert_close(scale, torch.full_like(scale, bound))


@pytest.mark.parametrize("name", ["latent SAC", "latent TD3"])
def test_latents_are_averaged_over(name: str) -> None:
    """Quadrature over z; 100 estimates of π(a|s), whose mean is 4.5 standard errors off in 7 of 10⁶ runs."""
    agent = off(name, policy_kwargs={"latent_dim": 1})
    law = ShownActions(agent.policy.actor, num_samples=200)
    seen = torch.randn(1, 3)
    actions = law.decoder(seen, torch.full((1, 1), 0.3)).mode.detach()
    grid = torch.linspace(-8.0, 8.0, 2001)[:, None, None]
    with torch.no_grad():
        z = grid if name == "latent TD3" else law.prior(seen).loc + law.prior(seen).scale * grid
        density = law.decoder(seen, z).log_prob(actions).double().exp().squeeze(-1)
        exact = torch.trapezoid(
            density * Normal(0.0, 1.0).log_prob(grid.double().squeeze()).exp(), grid.squeeze().double()
        )
        found = torch.stack([law(seen, actions) for _ in range(100)]).double().exp()
    assert abs(found.mean() - exact) < 4.5 * found.std() / 10.0
    assert found.std() > 1e-4 * found.mean()


@pytest.mark.filterwarnings("ignore:the latent has collapsed")
@pytest.mark.parametrize("name", OFF)
def test_off_policy_agents_play_what_they_were_shown(name: str) -> None:
    """One of two actions is at its bound; nothing is said of critics, and TD3's target is where the actor is."""
    actions = np.tile(np.array([[3.0, 0.1]], np.float32), (64, 1))
    seen = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    given = Demonstrations.from_arrays(seen, actions, [32, 32], VECTOR, BOUNDS)
    agent = off(name)
    critic = {n: p.clone() for n, p in agent.policy.named_parameters() if "critic" in n}
    buffers = {n: b.clone() for n, b in agent.policy.named_buffers()}
    LatentBC(agent, demonstrations=given, learning_rate=1e-2, seed=0).learn(150)
    assert all(torch.equal(b, buffers[n]) for n, b in agent.policy.named_buffers())  # units, fixed latents
    played = agent.predict(seen, deterministic=True)[0]
    assert (np.abs(played - actions) < 0.15 * (BOUNDS.high - BOUNDS.low)).all()
    assert all(torch.equal(p, critic[n]) for n, p in agent.policy.named_parameters() if n in critic)
    if hasattr(agent, "actor_target"):
        target = agent.actor_target.state_dict()
        assert all(torch.equal(value, target[key]) for key, value in agent.actor.state_dict().items())
    agent.learn(24)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the latent has collapsed")
@pytest.mark.parametrize("name", [name for name in OFF if "latent" in name])
def test_off_policy_agents_play_both_ways_that_they_were_shown(name: str) -> None:
    agent = off(name, Toy(), policy_kwargs={"net_arch": [32, 32]})
    LatentBC(agent, demonstrations=demonstrations(BOX), learning_rate=1e-2, seed=1).learn(900)
    assert 0.2 < share_of_second(agent, BOX) < 0.8


def test_off_policy_agents_see_pictures_and_dicts() -> None:
    picture = spaces.Box(0, 255, (36, 36, 3), np.uint8)
    both = spaces.Dict(picture=picture, numbers=VECTOR, choice=spaces.Discrete(3))
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 255, (16, 36, 36, 3), np.uint8)
    parts = {"picture": pictures, "numbers": rng.normal(size=(16, 3)), "choice": rng.integers(0, 3, 16)}
    for space, seen, policy in ((picture, pictures, "LatentCnnPolicy"), (both, parts, "LatentMultiInputPolicy")):
        agent = SAC(policy, Toy(space), buffer_size=10, policy_kwargs={"net_arch": [16]}, **SMALL)
        given = Demonstrations.from_arrays(seen, demonstrations(BOX).actions[:16], [8, 8], space, BOX)
        before = {n: p.clone() for n, p in agent.policy.actor.named_parameters()}
        LatentBC(agent, demonstrations=given).learn(2)
        moved = [n for n, p in agent.policy.actor.named_parameters() if not torch.equal(p, before[n])]
        assert any("features_extractor" in n for n in moved)


def test_env_is_seen_as_the_agent_sees_it() -> None:
    """Statistics are those of 40 steps; another environment, without them or with its own, is another thing."""
    own = VecNormalize(make_vec_env(Toy, 1))
    agent = PPO("MlpPolicy", own, n_steps=40, batch_size=20, **SMALL).learn(40)
    given = demonstrations(BOX)
    for env in (make_vec_env(Toy, 1), VecNormalize(make_vec_env(Toy, 1))):
        with pytest.raises(LatentRLError, match="env shows other observations than the agent sees"):
            LatentBC(agent, env, demonstrations=given)
        with pytest.raises(LatentRLError, match="env shows other observations than the agent sees"):
            LatentBC(agent, demonstrations=given).set_env(env)
    stock = MAKERS["stock"](Toy())
    with pytest.raises(LatentRLError, match="env shows other observations than the agent sees"):
        LatentBC(stock, own, demonstrations=given)
    for env in (None, own):
        assert LatentBC(agent, env, demonstrations=given).get_vec_normalize_env() is own
    assert LatentBC(stock, make_vec_env(Toy, 1), demonstrations=given).get_vec_normalize_env() is None
    agent.set_env(later := VecNormalize(make_vec_env(Toy, 1)))
    clone = LatentBC(agent, demonstrations=given)
    agent.set_env(own)
    assert clone.get_vec_normalize_env() is own is not later


@pytest.mark.parametrize("prior", ["gaussian", "categorical"])
def test_a_prior_that_learned_after_the_clone_was_made_keeps_what_it_knows(prior: str) -> None:
    agent = LatentPPO("LatentPolicy", Toy(), n_steps=64, policy_kwargs={"latent_dim": 2, "prior": prior}, **SMALL)
    clone = LatentBC(agent, demonstrations=demonstrations(BOX), learning_rate=0.0)
    agent.learn(agent.n_steps)
    for parameter in agent.policy.prior.parameters():
        parameter.data += 1.0
    before = [value.clone() for value in agent.policy.prior.state_dict().values()]
    clone.learn(1)
    after = list(agent.policy.prior.state_dict().values())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True) if a.dtype.is_floating_point)


def test_a_callback_saves_the_agent(tmp_path: Path) -> None:
    """The best one of an evaluation, as any agent is saved."""
    for algorithm, policy in ((PPO, "MlpPolicy"), (TD3, "MlpPolicy")):
        agent = algorithm(policy, Toy(), **SMALL)
        watch = EvalCallback(make_vec_env(Toy, 1), eval_freq=8, best_model_save_path=str(tmp_path), verbose=0)
        LatentBC(agent, demonstrations=demonstrations(BOX)).learn(8, callback=watch)
        again = algorithm.load(tmp_path / "best_model", device="cpu")
        seen = np.zeros((1, 3), np.float32)
        np.testing.assert_array_equal(*(a.predict(seen, deterministic=True)[0] for a in (agent, again)))
        if isinstance(again, TD3):
            kept, target = again.actor.state_dict(), again.actor_target.state_dict()
            assert all(torch.equal(kept[name], target[name]) for name in kept)


def test_what_is_saved_on_the_way_is_the_average_of_the_weights(tmp_path: Path) -> None:
    class Saving(BaseCallback):
        def _on_step(self) -> bool:
            self.model.save(tmp_path / "agent")
            return True

    agent = PPO("MlpPolicy", Toy(), **SMALL)
    LatentBC(agent, demonstrations=demonstrations(BOX), ema_decay=0.9).learn(5, callback=Saving())
    saved = PPO.load(tmp_path / "agent", device="cpu").policy.state_dict()
    assert all(torch.equal(value, saved[name]) for name, value in agent.policy.state_dict().items())


def test_callbacks_begin_once_and_random_actions_stay() -> None:
    class Begun(BaseCallback):
        times = 0

        def _init_callback(self) -> None:
            self.times += 1

        def _on_step(self) -> bool:
            return True

    agent, counted, called = SAC("MlpPolicy", Toy(), **SMALL), Begun(), list[int]()
    agent.action_space.seed(3)
    expected = agent.action_space.sample()
    agent.action_space.seed(3)
    clone = LatentBC(agent, demonstrations=demonstrations(BOX), seed=9, gradient_variance_every=2)
    np.testing.assert_array_equal(agent.action_space.sample(), expected)
    clone.learn(2, callback=[counted])
    assert counted.times == 1
    clone.learn(2, callback=lambda *_: called.append(1) or True)
    assert len(called) == 2


def test_slopes_far_from_an_edge_are_finite() -> None:
    """log Φ of actions at a bound, by scipy in float64, and −x − 1/x as its slope, up to 1/x³; torch's own, for
    x > −300, is off by some thousandths there."""
    x = torch.tensor([-1e5, -3e3, -400.0, -299.0, -20.0, 0.0, 5.0, 1e4], requires_grad=True)
    value = _log_ndtr(x)
    (slope,) = torch.autograd.grad(value.sum(), x)
    np.testing.assert_allclose(value.detach(), norm.logcdf(x.detach().double()), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(slope[:3], -x.detach()[:3] - 1 / x.detach()[:3], rtol=1e-5)
    np.testing.assert_allclose(slope[3:5], -x.detach()[3:5] - 1 / x.detach()[3:5], rtol=5e-3)
    assert slope.isfinite().all()


def test_what_cannot_be_is_refused(tmp_path: Any) -> None:
    given = demonstrations(BOX)
    agent = MAKERS["latent"](Toy())
    with pytest.raises(LatentRLError, match="the agent's policy decides latent_dim, prior"):
        LatentBC(agent, demonstrations=given, policy_kwargs={"latent_dim": 3, "prior": "vamp"})
    with pytest.raises(LatentRLError, match="save that agent, or its policy"):
        LatentBC(agent, demonstrations=given).policy.save(str(tmp_path / "policy.zip"))
    assert not list(tmp_path.iterdir())
    choosing = Toy(action_space=spaces.Discrete(3))
    with pytest.raises(LatentRLError, match="not into DQNPolicy"):
        LatentBC(DQN("MlpPolicy", choosing, buffer_size=10), demonstrations=demonstrations(spaces.Discrete(3)))
    with pytest.raises(LatentRLError, match="actions"):
        LatentBC(MAKERS["latent"](choosing), demonstrations=given)
    with pytest.raises(ValueError, match="Action spaces do not match"):
        LatentBC(agent, choosing, demonstrations=given)
    for exploring in (SAC("MlpPolicy", Toy(), buffer_size=10, use_sde=True), PPO("MlpPolicy", Toy(), use_sde=True)):
        with pytest.raises(LatentRLError, match="leave use_sde at False"):
            LatentBC(exploring, demonstrations=given)
    noisy = PPO("MultiInputPolicy", LatentNoiseWrapper(make_vec_env(Toy, 1), 2), **SMALL)
    with pytest.raises(LatentRLError, match=r"PPO sees a latent of LatentNoiseWrapper, .* clone into LatentPPO"):
        LatentBC(noisy, demonstrations=given)
    with pytest.raises(LatentRLError, match="the agent's policy decides latent_dim"):
        LatentBC(off("latent TD3", Toy()), demonstrations=given, policy_kwargs={"latent_dim": 3})


def test_noise_that_is_wide_beside_what_is_shown_is_told() -> None:
    """Small actions, two ways: as wide as it starts, an agent would learn the middle."""
    wide = demonstrations(BOX)
    small = Demonstrations.from_arrays(wide.observations, 0.1 * wide.actions, wide.episode_lengths, VECTOR, BOX)
    with pytest.warns(UserWarning, match=r"deviation of 1, what it is shown has 0\.066.*log_std_init=-3\.8"):
        LatentBC(MAKERS["stock"](Toy(action_space=BOX)), demonstrations=small).learn(1)
    LatentBC(
        PPO("MlpPolicy", Toy(action_space=BOX), policy_kwargs={"log_std_init": -3.8}, **SMALL), demonstrations=small
    ).learn(1)
    LatentBC(MAKERS["stock"](Toy(action_space=BOX)), demonstrations=wide).learn(1)


def test_another_agents_file_is_refused(tmp_path: Any) -> None:
    MAKERS["stock"](Toy(action_space=BOX)).save(tmp_path / "ppo")
    with pytest.raises(LatentRLError, match="ActorCriticPolicy is no LatentPolicy: load other agents with the class"):
        LatentBC.load(tmp_path / "ppo")


def test_recurrent_policies_are_refused() -> None:
    agent = pytest.importorskip("sb3_contrib").RecurrentPPO("MlpLstmPolicy", Toy())
    with pytest.raises(LatentRLError, match="not into RecurrentActorCriticPolicy"):
        LatentBC(agent, demonstrations=demonstrations(BOX))


class Doubled(FlattenExtractor):
    """Has its own way to see."""

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return 2.0 * super().forward(observations)


@pytest.mark.parametrize("algorithm", [PPO, SAC])
@pytest.mark.parametrize(
    ("policy", "options"),
    [
        ("CnnPolicy", {"normalize_images": False}),
        ("CnnPolicy", {}),
        ("MlpPolicy", {}),
        ("LatentPolicy", {}),
        ("MlpPolicy", {"features_extractor_class": Doubled}),
    ],
)
def test_a_clone_sees_pictures_as_its_agent_does(algorithm: Any, policy: str, options: dict[str, Any]) -> None:
    if algorithm is PPO and policy == "LatentPolicy":
        algorithm = LatentPPO
    space = spaces.Box(0, 255, (3, 36, 36), np.uint8)
    env = Toy(space, spaces.Box(-1, 1, (2,)))
    agent = algorithm(policy, env, policy_kwargs={"net_arch": [8], **options}, **SMALL)
    for parameter in agent.policy.parameters():
        parameter.data.mul_(1.5)  # stable-baselines3's last layers start at almost nothing
    seen = np.stack([space.sample() for _ in range(4)])
    actions = np.zeros((4, 2), np.float32)
    clone = LatentBC(agent, demonstrations=Demonstrations.from_arrays(seen, actions, [4], space, env.action_space))
    z = {"latent": np.zeros(clone.policy.model.latent_dim)} if clone.policy.model.latent_dim else {}
    if not z:
        np.testing.assert_allclose(
            clone.predict(seen, deterministic=True)[0], agent.predict(seen, deterministic=True)[0], atol=1e-5
        )
        return
    shown = clone.policy._flat(clone.policy.obs_to_tensor(seen)[0])
    assert clone.policy.model.trunk is not None
    assert float(clone.policy.model.trunk(shown).max()) <= 1.0


@pytest.mark.parametrize("prior", ["gaussian", "mixture", "categorical"])
@pytest.mark.parametrize("before", ["cloning", "learning"])
def test_a_prior_that_has_learned_keeps_its_units(prior: str, before: str) -> None:
    agent = LatentPPO("LatentPolicy", Toy(), n_steps=16, batch_size=8, policy_kwargs={"prior": prior}, **SMALL)
    first = demonstrations(BOX)
    if before == "cloning":
        LatentBC(agent, demonstrations=first, **SMALL).learn(2)
    else:
        agent.learn(16)
    features = torch.randn(5, 3)
    with torch.no_grad():
        known = agent.policy.prior(features)
    moved = replace(first, observations=5.0 * first.observations + 7.0)
    LatentBC(agent, demonstrations=moved, learning_rate=1e-12, **SMALL).learn(1)
    with torch.no_grad():
        now = agent.policy.prior(features)
    torch.testing.assert_close(now.mean, known.mean)


def test_a_mixture_in_sac_plays_all_of_its_components_without_noise() -> None:
    """One of four equal components is missed in 200 draws in 4e-25."""
    kwargs = {"prior": "categorical", "n_components": 4}
    agent = SAC("LatentPolicy", Toy(), policy_kwargs=kwargs, **SMALL)
    clone = LatentBC(agent, demonstrations=demonstrations(BOX), **SMALL)
    played = clone.predict(np.zeros((200, 3), np.float32))[0]
    assert len(np.unique(played.round(4), axis=0)) == 4


@pytest.mark.parametrize("stopped", [False, True])
def test_the_target_actor_of_td3_is_where_the_actor_is(stopped: bool, tmp_path: Path) -> None:
    """In what is saved on the way, and after training that was interrupted."""
    agent, data = TD3("MlpPolicy", Toy(), **SMALL), demonstrations(BOX)

    def stop(_: Any, calls: int) -> None:
        if stopped and calls == 7:
            raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        LatentBC(agent, demonstrations=data, **SMALL).learn(
            10, callback=[HeldOut(data, every=5), Each(stop)], checkpoint=tmp_path
        )
    for made in (agent, TD3.load(tmp_path / "best.zip")):
        own, target = made.policy.actor.state_dict(), made.policy.actor_target.state_dict()
        assert all(torch.equal(value, target[name]) for name, value in own.items())


class Weighted(FlattenExtractor):
    """One with something to learn."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space)
        self.layer = torch.nn.Linear(self.features_dim, self.features_dim)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return self.layer(super().forward(observations))


@pytest.mark.parametrize("name", OFF)
def test_a_target_has_the_extractor_that_was_cloned_into(name: str) -> None:
    """Where critics share it with the actor; one of their own stays as it was."""
    for shared in (True, False):
        kwargs = {"features_extractor_class": Weighted, "share_features_extractor": shared}
        agent = off(name, policy_kwargs=kwargs)
        policy = agent.policy
        before = policy.actor.features_extractor.layer.weight.detach().clone()
        LatentBC(agent, demonstrations=shown(), seed=0).learn(5)
        for critic in (policy.critic, policy.critic_target):
            weight = critic.features_extractor.layer.weight
            assert torch.equal(weight, policy.actor.features_extractor.layer.weight) == shared
        assert not torch.equal(policy.actor.features_extractor.layer.weight, before)


def test_statistics_of_many_rows_are_exact_enough() -> None:
    """Means of float32 that are added up in float32, row by row, are off by more than a hundredth here."""
    generator = np.random.default_rng(0)
    seen = (3000 + generator.standard_normal((200_000, 3))).astype(np.float32)
    env = VecNormalize(make_vec_env(lambda: Toy(spaces.Box(-np.inf, np.inf, (3,))), 1))
    given = Demonstrations.from_arrays(seen, np.zeros((len(seen), 2), np.float32), [len(seen)], action_space=BOX)
    LatentBC(PPO("MlpPolicy", env, **SMALL), demonstrations=given, noise=None, seed=0)
    np.testing.assert_allclose(env.obs_rms.mean, seen.astype(float).mean(0), rtol=0, atol=1e-4)
    np.testing.assert_allclose(env.obs_rms.var, seen.astype(float).var(0), atol=0.01)  # it begins with 1e-4 of a row


def test_callbacks_find_the_environment_of_the_agent() -> None:
    agent = PPO("MlpPolicy", make_vec_env(Toy, 2, seed=7), **SMALL)
    seeds = agent.env._seeds
    look = EvalCallback(make_vec_env(Toy, 1), n_eval_episodes=1, eval_freq=5, verbose=0)
    LatentBC(agent, demonstrations=demonstrations(BOX), **SMALL).learn(10, callback=look)
    assert np.isfinite(look.last_mean_reward)
    assert agent.env._seeds == seeds  # which start the agent's next episodes


def test_an_average_that_an_interruption_left_does_not_undo_what_the_agent_learns() -> None:
    agent = PPO("MlpPolicy", make_vec_env(Toy, 2, seed=0), n_steps=32, batch_size=32, **SMALL)
    clone = LatentBC(agent, demonstrations=demonstrations(BOX), noise=None, ema_decay=0.9)

    def stop(_: Any, calls: int) -> None:
        if calls == 10:
            raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        clone.learn(20, callback=Each(stop))
    agent.learn(64)
    learned = agent.policy.action_net.weight.clone()
    clone.predict(np.zeros((1, 3), np.float32))
    assert torch.equal(agent.policy.action_net.weight, learned)


class Dropping(FlattenExtractor):
    """Does one thing while it learns, and another while it plays."""

    def __init__(self, space: Any) -> None:
        super().__init__(space)
        self.drop = torch.nn.Dropout(0.5)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return self.drop(super().forward(observations))


def test_modes_of_an_agent_that_plays_meanwhile() -> None:
    kwargs = {"features_extractor_class": Dropping}
    agent = PPO("MlpPolicy", Toy(), n_steps=32, batch_size=32, policy_kwargs=kwargs, **SMALL)
    seen, modes = np.ones((1, 3), np.float32), list[bool]()

    def play(*_: Any) -> None:
        modes.append(agent.policy.features_extractor.training)
        agent.predict(seen)

    clone = LatentBC(agent, demonstrations=demonstrations(BOX), noise=None).learn(4, callback=Each(play))
    assert modes == [True] * 4  # of each update
    agent.learn(32)
    assert len({clone.predict(seen, deterministic=True)[0].tobytes() for _ in range(20)}) == 1
