"""RELAX for policies: its gradient against the paper's formula and an exact sum; the study in its smallest version."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

from experiments.reproductions import policy_gradients, relax_rl
from experiments.reproductions.policy_gradients import (
    Episode,
    Learner,
    Played,
    Relaxed,
    Value,
    network,
    no_control,
    policy_gradient,
    to_go,
)
from latentrl import LatentRLError
from latentrl.cells import Record

ACTIONS, STATES = 3, 4
REWARDS = torch.tensor([[0.0, 1.0, 3.0], [2.0, -1.0, 0.5], [1.0, 4.0, -2.0], [-3.0, 0.0, 2.0]])
"""Of three actions in the first state (row 0), and in the second (row 1 + the first action)."""


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def policy() -> torch.nn.Module:
    return network(STATES, ACTIONS)


def flat(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in parts])


# -- the gradient --------------------------------------------------------------------------------------------------


def two_steps(policy: torch.nn.Module, episodes: int) -> tuple[Episode, Tensor]:
    """Episodes of two steps, all in one; the observation is the state as a one-hot vector. And the returns to go."""
    with torch.no_grad():
        log_probs = policy(torch.eye(STATES)).log_softmax(-1)
    first = torch.zeros(episodes, dtype=torch.long)
    states, z = [first], []
    for _ in range(2):
        z.append(log_probs[states[-1]] + torch.distributions.Gumbel(0.0, 1.0).sample((episodes, ACTIONS)))
        states.append(1 + z[-1].argmax(-1))
    rewards = [REWARDS[states[0], z[0].argmax(-1)], REWARDS[states[1], z[1].argmax(-1)]]
    observations = torch.eye(STATES)[torch.cat(states[:2])]
    return Episode(observations, torch.cat(z), torch.cat(rewards)), torch.cat([rewards[0] + rewards[1], rewards[1]])


@pytest.mark.parametrize("name", ["none", "value", "relaxed"])
def test_gradient_of_two_steps_against_the_sum_over_all_choices(policy: torch.nn.Module, name: str) -> None:
    """Mean of 100 gradients of 2000 episodes: the largest z-score of 193 parameters, of Student's t with 99 degrees of
    freedom, is beyond 5.5 in less than one of 10⁴ runs."""
    controls = {"none": no_control, "value": Value(STATES, ACTIONS), "relaxed": Relaxed(STATES, ACTIONS)}
    if isinstance(control := controls[name], Relaxed):
        with torch.no_grad():
            for weights in control.net.parameters():
                weights.mul_(3.0)  # so steep that a wrong slope would be seen
    probs = policy(torch.eye(STATES)).softmax(-1)
    expected = (probs[0] * (REWARDS[0] + (probs[1:] * REWARDS[1:]).sum(-1))).sum()
    exact = flat(torch.autograd.grad(expected, list(policy.parameters())))
    found = []
    for _ in range(100):
        episode, returns = two_steps(policy, 2_000)
        found.append(policy_gradient(policy, control, episode, returns)[0].detach() / 2_000)
    rows = torch.stack(found).double()
    assert ((rows.mean(0) - exact).abs() < 5.5 * rows.std(0) / 10 + 1e-6).all()
    assert float(rows.std(0).norm() / 10) < 0.1 * float(exact.norm())


def test_relax_against_the_formula_of_the_paper(policy: torch.nn.Module) -> None:
    """Appendices B and C by autograd: z̃ is made of the noise v that gives it the value of z."""
    control = Relaxed(STATES, ACTIONS)
    with torch.no_grad():
        control.log_temperature.fill_(-0.4)
        control.eta.fill_(1.7)

    def c(z: Tensor) -> Tensor:
        relaxed = (z / math.exp(-0.4)).softmax(-1)
        return 1.7 * control.net(torch.cat([episode.observations, relaxed], -1)).squeeze(-1)

    episode, returns = two_steps(policy, 5)
    log_probs = policy(episode.observations).log_softmax(-1)
    taken = torch.nn.functional.one_hot(episode.z.argmax(-1), ACTIONS).bool()
    largest = episode.z.amax(-1, keepdim=True)
    minus_log_v = torch.where(
        taken, (-episode.z).exp(), log_probs.detach().exp() * ((-episode.z).exp() - (-largest).exp())
    )
    top = (minus_log_v * taken).sum(-1, keepdim=True)
    conditional = torch.where(taken, -minus_log_v.log(), -(minus_log_v / log_probs.exp() + top).log())
    unconditional = log_probs + (episode.z - log_probs).detach()
    torch.testing.assert_close(conditional, episode.z)
    score = (log_probs * taken).sum(-1) * (returns - c(conditional)).detach()
    surrogate = (score - c(conditional) + c(unconditional)).sum()
    exact = flat(torch.autograd.grad(surrogate, list(policy.parameters())))
    found, values = policy_gradient(policy, control, episode, returns)
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(values, c(episode.z))


def test_a_trained_control_variate_lowers_the_variance(policy: torch.nn.Module) -> None:
    control = Relaxed(STATES, ACTIONS)
    optimizer = torch.optim.RMSprop(control.parameters(), 3e-3)
    for _ in range(300):
        episode, returns = two_steps(policy, 1)
        gradient, values = policy_gradient(policy, control, episode, returns)
        optimizer.zero_grad()
        control.loss(returns, values, gradient).backward(inputs=list(control.parameters()))
        optimizer.step()
    episodes = [two_steps(policy, 1) for _ in range(300)]
    plain, trained = (
        torch.stack([policy_gradient(policy, kind, *episode)[0].detach() for episode in episodes]).var(0).sum()
        for kind in (no_control, control)
    )
    assert float(trained) < 0.7 * float(plain)


def test_returns_to_go() -> None:
    rewards = torch.tensor([1.0, -2.0, 0.5, 4.0])
    expected = [sum(0.9 ** (u - t) * float(rewards[u]) for u in range(t, 4)) for t in range(4)]
    torch.testing.assert_close(to_go(rewards, 0.9), torch.tensor(expected))


# -- the learner ---------------------------------------------------------------------------------------------------


class Counting(gym.Env):
    """Ends after as many steps as its seed and its spec tell; the reward is the action."""

    observation_space = gym.spaces.Box(-9.0, 9.0, (STATES,), np.float32)
    action_space = gym.spaces.Discrete(ACTIONS)
    spec = gym.envs.registration.EnvSpec("Counting-v0", max_episode_steps=7)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self.left = int(self.np_random.integers(2, 8))
        return self._observation(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        return self._observation(), float(action), self.left == 0, False, {}

    def _observation(self) -> Any:
        return self.np_random.standard_normal(STATES).astype(np.float32)


def learner(kind: type[Value | Relaxed]) -> Learner:
    return Learner(Counting(), kind, (0.01, 0.02), seed=3)


def test_episodes() -> None:
    """The largest noisy logit is what was done, and the noise is Gumbel: a false alarm in 10⁴ by its mean. One of six
    lengths is missed in 7e-8.
    """
    agent = learner(Value)
    episodes = [agent.play(number) for number in range(100)]
    assert {len(episode.rewards) for episode in episodes} == set(range(2, 8))
    assert all(torch.equal(episode.z.argmax(-1), episode.rewards.long()) for episode in episodes)
    assert torch.equal(episodes[0].observations[0], agent.play(0).observations[0])
    assert not torch.equal(episodes[0].observations[0], episodes[1].observations[0])
    noise = torch.cat([e.z - agent.policy(e.observations).log_softmax(-1) for e in episodes]).detach()
    assert float(noise.mean()) == pytest.approx(np.euler_gamma, abs=4 * math.pi / math.sqrt(6 * noise.numel()))


@pytest.mark.parametrize("kind", [Value, Relaxed])
def test_update(kind: type[Value | Relaxed]) -> None:
    """The gradients of an A2C loss with an entropy bonus by autograd, and each part moves with its own rate."""
    agent = learner(kind)
    state = torch.get_rng_state()
    episode = agent.play(0)
    returns = to_go(episode.rewards)
    log_probs = agent.policy(episode.observations).log_softmax(-1)
    entropy = -(log_probs.exp() * log_probs).sum()
    if kind is Value:
        taken = log_probs.gather(-1, episode.z.argmax(-1, keepdim=True)).squeeze(-1)
        values = agent.control.net(episode.observations).squeeze(-1)
        surrogate, loss = (taken * (returns - values.detach())).sum(), (returns - values).square().sum()
        ascent = flat(torch.autograd.grad(surrogate, list(agent.policy.parameters()), retain_graph=True))
    else:
        gradient, _ = policy_gradient(agent.policy, agent.control, episode, returns)
        ascent, loss = gradient.detach(), gradient.square().sum()
    bonus = flat(torch.autograd.grad(entropy, list(agent.policy.parameters())))
    descent = flat(torch.autograd.grad(loss, list(agent.control.parameters()), materialize_grads=True))
    parts = (agent.policy, agent.control)
    before = [flat(list(part.parameters())).detach() for part in parts]
    torch.set_rng_state(state)
    agent.update(0)
    grads = [flat([p.grad if p.grad is not None else torch.zeros_like(p) for p in part.parameters()]) for part in parts]
    torch.testing.assert_close(grads[0], -(ascent + 0.01 * bonus), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(grads[1], descent, rtol=1e-4, atol=1e-4)
    for old, part, rate in zip(before, parts, (0.01, 0.02), strict=True):
        moved = (flat(list(part.parameters())).detach() - old).abs().max()
        assert float(moved) == pytest.approx(10 * rate, rel=1e-3)  # RMSprop's first step: rate / √(1 − 0.99)
    assert agent.played == [(float(episode.rewards.sum()), len(episode.rewards))]


def test_log_variance() -> None:
    agent = learner(Relaxed)
    state = torch.get_rng_state()
    found = agent.log_variance(20, look=4)
    torch.set_rng_state(state)
    episodes = [agent.play(1, 4, number) for number in range(20)]
    expected = [
        torch.stack([policy_gradient(agent.policy, kind, e, to_go(e.rewards))[0].detach() for e in episodes])
        .var(0)
        .sum()
        .log()
        for kind in (agent.control, no_control)
    ]
    assert found == pytest.approx((float(expected[0]), float(expected[0] - expected[1])), rel=1e-3)
    with torch.no_grad():
        agent.policy[-1].bias.copy_(torch.tensor([0.0, 1e4, 0.0]))
    assert learner(Value).log_variance(2, look=0) is not None
    agent.control = no_control  # type: ignore[assignment]
    assert agent.log_variance(2, look=0) is None


def test_when_a_task_is_solved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_gradients, "WINDOW", 3)
    returns = [9.0, 1.0, 2.0, 3.0, 7.0, 5.0]
    played = Played((value, 10) for value in returns)
    means = [np.mean(returns[end - 3 : end]) for end in range(3, 7)]
    assert [played.solved_at(target) for target in (3.9, 4.1, 5.0, 5.1)] == [3, 6, 6, None]
    assert means == pytest.approx([4.0, 2.0, 4.0, 5.0])
    assert (Played([(9.0, 1)]).solved_at(0.0), Played().solved_at(0.0), played.frames) == (None, None, 60)
    again = Played()
    again.load_state_dict(played.state_dict())
    assert again == played


# -- the study -----------------------------------------------------------------------------------------------------


def tuned(rate: float, episodes: int | None, found: float = 0.0) -> Record:
    record = {"rate": rate, "control rate": 0.1, "solved": int(episodes is not None), "return": found}
    return record | ({} if episodes is None else {"episodes to solve": episodes})


def test_best_rates() -> None:
    often = [tuned(1.0, 300), tuned(1.0, None), tuned(2.0, 900), tuned(2.0, 800), tuned(3.0, 850), tuned(3.0, 840)]
    assert relax_rl.best_rates(often) == (3.0, 0.1)
    assert relax_rl.best_rates([tuned(1.0, None, 50.0), tuned(2.0, None, 70.0)]) == (2.0, 0.1)


def test_orderings() -> None:
    """RELAX: faster in two of three seeds, less variance in two where both have looked, and less beside none in one."""

    def record(method: str, episodes: int | None, curve: list[list[Any]]) -> Record:
        return {"method": f"CartPole {method}", "curve": curve, **tuned(0.1, episodes)}

    a2c = [
        record("A2C", 500, [[0.0, 5.0, -1.0], [0.0, 7.0, -1.0]]),
        record("A2C", None, [[0.0, 5.0, -1.0]]),
        record("A2C", 300, [[0.0, 5.0, -1.0]]),
    ]
    relax = [
        record("RELAX", 400, [[0.0, 5.5, -0.5], [0.0, 6.0, -0.5]]),
        record("RELAX", 900, [[0.0, 4.0, -2.0], [0.0, 99.0, 99.0], [0.0, None, None]]),
        record("RELAX", None, [[0.0, 6.0, 0.0]]),
    ]
    said = relax_rl.orderings(a2c + relax)
    assert "A2C 500 (300 to inf), RELAX 900 (400 to inf)" in said
    assert (
        "fewer: 2 of 3; has less variance: 2 of 3; has less beside no control variate at its own policies: 1 of" in said
    )


def test_what_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def make(*_: Any, **__: Any) -> None:
        raise gym.error.DependencyNotInstalled("Box2D is not installed")

    monkeypatch.setattr(relax_rl.gym, "make", make)
    with pytest.raises(LatentRLError, match=r"LunarLander-v3 needs pip install 'gymnasium\[box2d\]'"):
        relax_rl.environment(relax_rl.TASKS["LunarLander"])
    with pytest.raises(LatentRLError, match="needs pip install"):
        relax_rl.main(relax_rl.Args(out=tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_relax_rl(tmp_path: Path) -> None:
    relax_rl.main(relax_rl.Args(smoke=True, seeds=(0, 1), out=tmp_path, device="cpu"))
    record = json.loads((tmp_path / "relax_rl" / "smoke" / "records.json").read_text())
    assert [run["method"] for run in record["runs"]] == ["CartPole A2C"] * 2 + ["CartPole RELAX"] * 2
    assert all(run["curve"] and np.isfinite(run["curve"]).all() for run in record["runs"])
    assert all(run["rate"] in (0.01, 0.003) and run["solved"] == 0 for run in record["runs"])
    assert {"environment", "command"} <= record.keys()
    assert all("commit" in run for run in record["runs"])
