"""Time that a peer's cloning takes over that of a hand-written loop, in a process of its own; run by ``bc_throughput``.

    .peers/imitation/bin/python -m experiments.benchmarks.bc_worker imitation 20 390

It prints one line of JSON: median and quartiles of time over raw torch's, measured in turn. That loop is the yardstick
which makes figures of different processes comparable. This file imports only what its candidate needs: the peers'
environments lack the library.
"""

import json
import math
import sys

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from experiments.benchmarks.timing import Step, paired_ratio

O, A, H, B, N = 17, 6, 256, 256, 100_000  # noqa: E741
EPOCH = N // B
"""Updates after which each transition has been seen, less the last few: what loaders do once an epoch is done once."""


def arrays() -> tuple[np.ndarray, np.ndarray]:
    """Random linear behaviour with noise."""
    generator = np.random.default_rng(0)
    observations = generator.normal(size=(N, O)).astype(np.float32)
    actions = observations @ generator.normal(size=(O, A)) / 4 + 0.1 * generator.normal(size=(N, A))
    return observations, actions.astype(np.float32)


def raw(updates: int) -> Step:
    """Behaviour cloning as a user would write it by hand."""
    net = nn.Sequential(nn.Linear(O, H), nn.SiLU(), nn.Linear(H, H), nn.SiLU(), nn.Linear(H, A))
    raw_sigma = nn.Parameter(torch.full((A,), 0.5413))
    optimizer = torch.optim.Adam([*net.parameters(), raw_sigma], 1e-3)
    observations, actions = map(torch.as_tensor, arrays())

    def loop() -> None:
        for _ in range(updates):
            index = torch.randint(N, (B,))
            sigma = F.softplus(raw_sigma)
            error = (actions[index] - net(observations[index])) / sigma
            loss = (0.5 * error.square() + sigma.log() + 0.5 * math.log(2 * math.pi)).sum(-1).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    return loop


def imitation(updates: int, likelihood: bool = True) -> Step:
    """Its ``train``, σ one parameter per action; as it is shipped, with tanh, a critic as large and an entropy bonus.

    With ``likelihood`` loss and network are the same as ours, and the critic is a linear layer. What stays is its own:
    a DataLoader and, at each update, the critic's value, the entropy and the norm of the weights.
    """
    from gymnasium import spaces
    from imitation.algorithms.bc import BC
    from imitation.data.types import Transitions
    from imitation.util.logger import configure
    from stable_baselines3.common.policies import ActorCriticPolicy

    observations, actions = arrays()
    demonstrations = Transitions(
        observations, actions, np.full(N, {}), np.roll(observations, -1, 0), np.arange(1, N + 1) % 100 == 0
    )
    observation_space = spaces.Box(-np.inf, np.inf, (O,), np.float32)
    action_space = spaces.Box(-np.inf, np.inf, (A,), np.float32)
    same = {"net_arch": {"pi": [H, H], "vf": []}, "activation_fn": nn.SiLU}
    network = same if likelihood else {"net_arch": [H, H]}
    policy = ActorCriticPolicy(observation_space, action_space, lambda _: 1e-3, **network)
    algorithm = BC(
        observation_space=observation_space,
        action_space=action_space,
        rng=np.random.default_rng(0),
        policy=policy,
        demonstrations=demonstrations,
        batch_size=B,
        optimizer_kwargs={"lr": 1e-3},
        ent_weight=0.0 if likelihood else 1e-3,
        l2_weight=0.0,
        device="cpu",
        custom_logger=configure(format_strs=[]),
    )
    return lambda: algorithm.train(n_batches=updates, log_interval=10**9, progress_bar=False)


def d3rlpy(updates: int, likelihood: bool = True) -> Step:
    """Its ``fit`` of a stochastic policy: σ is read off the state, and the mean goes through a tanh.

    Its own loss is no likelihood but the squared error of an action that is drawn from the policy and clipped at ±1.
    With ``likelihood`` this function is replaced by the negative log-likelihood of the policy's own law.
    """
    import d3rlpy as peer
    from d3rlpy.models.torch import ImitationLoss
    from d3rlpy.models.torch.policies import build_gaussian_distribution

    ends = (np.arange(1, N + 1) % 100 == 0).astype(np.float32)
    data = peer.dataset.MDPDataset(*arrays(), np.zeros(N, np.float32), ends)
    encoder = peer.models.VectorEncoderFactory([H, H], activation="swish" if likelihood else "relu")
    config = peer.algos.BCConfig(batch_size=B, learning_rate=1e-3, policy_type="stochastic", encoder_factory=encoder)
    algorithm = config.create(device="cpu:0")
    algorithm.build_with_dataset(data)

    def negative_log_likelihood(observations: torch.Tensor, actions: torch.Tensor) -> ImitationLoss:
        law = build_gaussian_distribution(algorithm.impl.policy(observations))
        return ImitationLoss(-law.log_prob(actions).mean())

    if likelihood:
        algorithm.impl.compute_loss = negative_log_likelihood
    quiet = {"logger_adapter": peer.logging.NoopAdapterFactory(), "show_progress": False}
    return lambda: algorithm.fit(data, updates, updates, **quiet)


def imitation_as_shipped(updates: int) -> Step:
    return imitation(updates, likelihood=False)


def d3rlpy_as_shipped(updates: int) -> Step:
    return d3rlpy(updates, likelihood=False)


def main(candidate: str, rounds: int, updates: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(json.dumps(paired_ratio(globals()[candidate](updates), raw(updates), rounds, 1)))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
