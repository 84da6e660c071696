"""The linear-quadratic regulator: the task whose expected return and policy gradient are known exactly."""
# ruff: noqa: ARG002 - the signatures are FuncEnv's

import math
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from latentrl_envs.task import Task, checked_count, checked_number


class LQR(Task):
    """Linear dynamics x' = A x + B u and a quadratic reward -(xᵀQ x + uᵀR u), with Q = I and R = I.

    State and observation (..., S): x, in no unit. Action (..., A): u, taken as it is: a clip would spoil the closed
    form. The bounds ±5 of the action space are for learners that need some, and clip or squash of their own accord; the
    best policy's actions have standard deviations of about 1 at the start and less later. Reward: of the state *before*
    the step and the action. Start: independent numbers ~ U(-√3, √3), with mean 0 and the identity as covariance, the
    only moments on which the expected returns below depend. Never terminates; the registered id truncates after 50
    steps.

    The entries of ``A`` (S, S) are normal and scaled to the spectral radius asked for, those of ``B`` (S, A) are normal
    with variance 1/S: float64 tensors, the same for the same seed. Other Q and R are a matter of coordinates.

    Differentiable everywhere. Pathwise and score-function gradients are both unbiased here, and the truth that they
    estimate is ``expected_return_gradient``.

    Args:
        state_dim: S.
        action_dim: number of action dimensions A.
        seed: of the matrices; that of the starts is the environment's.
        spectral_radius: largest modulus of an eigenvalue of ``A``; beyond 1 the state grows if left alone.

    Raises:
        ValueError: an argument is not a number, not finite or out of range.
    """

    differentiable: ClassVar[bool] = True
    action_bound = 5.0

    def __init__(self, state_dim: int = 4, action_dim: int = 2, seed: int = 0, spectral_radius: float = 0.95) -> None:
        super().__init__()
        size, pushes = checked_count("state_dim", state_dim), checked_count("action_dim", action_dim)
        radius = checked_number("spectral_radius", spectral_radius, minimum=0.0)
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
            raise ValueError(f"seed must be an integer of at least 0, got {seed!r}")
        rng = np.random.default_rng(seed)
        dynamics = rng.standard_normal((size, size))
        dynamics *= radius / np.abs(np.linalg.eigvals(dynamics)).max()
        self.A = torch.from_numpy(dynamics)
        self.B = torch.from_numpy(rng.standard_normal((size, pushes)) / math.sqrt(size))
        self._step = torch.cat((self.A, self.B), 1).mT.contiguous()  # (x, u) @ _step is the next x: one product
        self.initial_noise_dim = size  # the one task in which it is an argument
        high = np.finfo(np.float32).max
        self.observation_space = Box(-high, high, (size,), dtype=np.float32)
        self.action_space = Box(-self.action_bound, self.action_bound, (pushes,), dtype=np.float32)

    def initial(self, rng: Tensor, params: Any = None) -> Tensor:
        """Return numbers of mean 0 and variance 1 from uniforms (..., S)."""
        return math.sqrt(3) * (2 * rng - 1)

    def transition(self, state: Tensor, action: Tensor, rng: Tensor | None = None, params: Any = None) -> Tensor:
        """Return A x + B u."""
        return torch.cat((state, action), -1) @ self._step.to(state)

    def observation(self, state: Tensor, rng: Tensor | None = None, params: Any = None) -> Tensor:
        """Return the state."""
        return state.clone()

    def reward(
        self, state: Tensor, action: Tensor, next_state: Tensor, rng: Tensor | None = None, params: Any = None
    ) -> Tensor:
        """Return -(xᵀx + uᵀu)."""
        return -(state.square().sum(-1) + action.square().sum(-1))

    def expected_return(self, gain: Tensor, sigma: Tensor, horizon: int) -> Tensor:
        """Return J, the expected sum of the rewards of ``horizon`` steps under the policy u = K x + σ ε, ε ~ N(0, I).

        The second moment of the state is X_0 = I and X_{t+1} = M X_t Mᵀ + B diag(σ²) Bᵀ with M = A + B K, and a step
        costs tr((I + KᵀK) X_t) + Σᵢ σᵢ². Autograd goes through.

        Args:
            gain: K (A, S), best in float64.
            sigma: σ, () or (A,).
            horizon: number of steps.
        """
        moments, _, spread = self._moments(gain, sigma, horizon)
        cost = sum(moment.trace() + (gain @ moment @ gain.mT).trace() for moment in moments)
        return -(cost + horizon * spread.square().sum())

    def expected_return_gradient(self, gain: Tensor, sigma: Tensor, horizon: int) -> tuple[Tensor, Tensor]:
        """Return dJ/dK (A, S) and dJ/dσ, of σ's shape, exactly and without autograd.

        The adjoints of the X_t are the costs to go: P_T = 0, P_t = I + KᵀK + Mᵀ P_{t+1} M. They give

            dJ/dK = -2 Σ_t (K + Bᵀ P_{t+1} M) X_t,    dJ/dσᵢ = -2 σᵢ Σ_t (1 + Bᵀ P_{t+1} B)ᵢᵢ,

        the form for a finite horizon of lemma 1 in Fazel, Ge, Kakade and Mesbahi, "Global convergence of policy
        gradient methods for the linear quadratic regulator" (2018).

        Args:
            gain: K (A, S), best in float64.
            sigma: σ, () or (A,).
            horizon: number of steps.
        """
        moments, closed, spread = self._moments(gain, sigma, horizon)
        inputs = self.B.to(gain)
        to_go, by_gain, by_spread = torch.zeros_like(closed), torch.zeros_like(gain), torch.zeros_like(spread)
        for moment in reversed(moments):
            push = inputs.mT @ to_go
            by_gain = by_gain - 2 * (gain + push @ closed) @ moment
            by_spread = by_spread - 2 * spread * (1 + (push @ inputs).diagonal())
            to_go = self._to_go(gain, closed, to_go)
        return by_gain, by_spread.sum_to_size(sigma.shape)

    def best_gains(self, horizon: int) -> Tensor:
        """Return the gains K_t (horizon, A, S) of the best of all policies for that many steps, u_t = K_t x_t.

        In float64, by Riccati's recursion from the end. The first gain of a long horizon is the best stationary one.
        """
        to_go, gains = torch.zeros_like(self.A), []
        for _ in range(checked_count("horizon", horizon)):
            push = self.B.mT @ to_go
            curvature = torch.eye(len(push)).to(push) + push @ self.B
            gains.append(-torch.linalg.solve(curvature, push @ self.A))
            to_go = self._to_go(gains[-1], self.A + self.B @ gains[-1], to_go)
        return torch.stack(gains[::-1])

    def _moments(self, gain: Tensor, sigma: Tensor, horizon: int) -> tuple[list[Tensor], Tensor, Tensor]:
        """Return X_0 ... X_{T-1}, M and σ as (A,)."""
        inputs, spread = self.B.to(gain), sigma.expand(len(gain))
        closed = self.A.to(gain) + inputs @ gain
        moments = [torch.eye(len(closed)).to(closed)]
        for _ in range(checked_count("horizon", horizon) - 1):
            moments.append(closed @ moments[-1] @ closed.mT + (inputs * spread.square()) @ inputs.mT)
        return moments, closed, spread

    @staticmethod
    def _to_go(gain: Tensor, closed: Tensor, to_go: Tensor) -> Tensor:
        """Return P_t from P_{t+1}."""
        return torch.eye(len(closed)).to(closed) + gain.mT @ gain + closed.mT @ to_go @ closed
