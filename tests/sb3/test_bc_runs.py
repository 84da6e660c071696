"""Runs of LatentBC: checkpoints, the average of the weights, held-out demonstrations, compiled and in bfloat16."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CheckpointCallback,
    EvalCallback,
    StopTrainingOnNoModelImprovement,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.torch_layers import FlattenExtractor

from latentrl import Demonstrations, LatentRLError
from latentrl.data import HostSegments, host_segments
from latentrl.estimators import RunningMean, ScoreFunction
from latentrl.sb3 import GradientVariance, HeldOut, LatentBC
from latentrl.schedules import FreeBits, KLConstraint
from latentrl.training.held_out import held_out_bound
from tests.sb3.agents_table import Toy

SMALL = {"latent_dim": 2, "hidden": (16,), "n_components": 4, "context_length": 6}


def small(data: Demonstrations, **options: Any) -> LatentBC:
    kwargs = {**SMALL, **options.pop("policy_kwargs", {})}
    given = {"batch_size": 8, "seed": 0, "device": "cpu", "demonstrations": data, "policy_kwargs": kwargs, **options}
    return LatentBC(**given)


def weights(agent: LatentBC) -> torch.Tensor:
    return torch.cat([value.flatten().double() for value in agent.policy.model.state_dict().values()])


class Killed(BaseCallback):
    """Ends a run as a signal would: with nothing tidied up."""

    at = 10**9

    def _on_step(self) -> bool:
        if self.num_timesteps == self.at:
            raise KeyboardInterrupt
        return True


def mixture() -> dict[str, Any]:
    """Its prior is seeded at update 6 of 20, after the first checkpoint."""
    return {"policy_kwargs": {"prior": "mixture"}, "max_grad_norm": 1.0}


def dual_ascent() -> dict[str, Any]:
    """The KL weight learns, and so does the estimator's baseline."""
    return {"kl_weight": KLConstraint(1.0), "kl_warmup": 0.0, "estimator": ScoreFunction(RunningMean())}


def average() -> dict[str, Any]:
    return {"ema_decay": 0.8}


@pytest.mark.parametrize("options", [mixture, dual_ascent, average])
@pytest.mark.parametrize("host", [False, True], ids=["device", "host"])
def test_a_killed_run_ends_at_the_same_weights(
    two_ways: Demonstrations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: Any, host: bool
) -> None:
    if host:
        monkeypatch.setattr(host_segments, "fits", lambda *_: False)

    def learn(folder: str) -> LatentBC:
        train, test = two_ways.split(0.75)
        callbacks = [HeldOut(test, every=3, patience=50), Killed()]
        options_now = {"checkpoint": tmp_path / folder, "checkpoint_every": 5, "log_interval": 4}
        return small(train, **options()).learn(20, callbacks, **options_now)

    whole = weights(learn("whole"))
    for at in (3, 7, 19):
        monkeypatch.setattr(Killed, "at", at)
        with pytest.raises(KeyboardInterrupt):
            learn("killed")
    (tmp_path / "killed" / ".last.1.part.pt").write_text("half of a file")
    monkeypatch.setattr(Killed, "at", 10**9)
    assert torch.equal(whole, weights(learn("killed")))
    again = learn("killed")  # at once, as it is finished
    assert again.num_timesteps == 20
    assert torch.equal(whole, weights(again))
    found = sorted(path.name for path in (tmp_path / "killed").iterdir())
    assert found == [".lock", "best.zip", "last.pt", "previous.pt", "settings.json"]


class Task(Toy):
    """Of the demonstrations' spaces; its rewards are what the test says."""

    worth = 1.0

    def __init__(self) -> None:
        super().__init__(spaces.Box(-np.inf, np.inf, (2,), np.float32), spaces.Box(-2.0, 2.0, (2,), np.float32))

    def step(self, action: Any) -> Any:
        observation, _, *rest = super().step(action)
        return observation, self.worth, *rest


def test_evaluations_are_found_again_where_a_killed_run_goes_on(
    two_ways: Demonstrations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After which all is worth less; without what was found it would be the best so far."""

    def learn() -> EvalCallback:
        folder = str(tmp_path / "looks")
        ends = StopTrainingOnNoModelImprovement(9)
        looks = EvalCallback(
            make_vec_env(Task, 1), callback_after_eval=ends, eval_freq=5, log_path=folder, verbose=0, warn=False
        )
        small(two_ways, env=make_vec_env(Task, 1)).learn(
            20, [looks, Killed()], checkpoint=tmp_path / "run", checkpoint_every=5
        )
        found.append(ends.no_improvement_evals)
        return looks

    found: list[int] = []

    monkeypatch.setattr(Killed, "at", 12)
    with pytest.raises(KeyboardInterrupt):
        learn()
    monkeypatch.setattr(Killed, "at", 10**9)
    monkeypatch.setattr(Task, "worth", 0.5)
    looks = learn()
    assert looks.last_mean_reward == 0.5 * looks.best_mean_reward
    with np.load(tmp_path / "looks" / "evaluations.npz") as kept:
        assert kept["timesteps"].tolist() == [5, 10, 15, 20]
        assert kept["results"].mean(1).tolist() == [looks.best_mean_reward] * 2 + [looks.last_mean_reward] * 2
    assert found == [3]  # of the second look on, one of them before the kill


def test_a_run_that_a_callback_ended_says_so(two_ways: Demonstrations, tmp_path: Path) -> None:
    class Stops(BaseCallback):
        def _on_step(self) -> bool:
            return self.num_timesteps < 3

    small(two_ways).learn(6, Stops(), checkpoint=tmp_path)
    with pytest.warns(UserWarning, match=r"ended this run at update 3 of 6, .* raise KeyboardInterrupt"):
        assert small(two_ways).learn(6, Stops(), checkpoint=tmp_path).num_timesteps == 3


def test_policies_act_with_latents_of_the_data_while_they_learn(two_ways: Demonstrations, tmp_path: Path) -> None:
    """Of the weights that act: at such a rate those of the last look are not those of the best one."""
    train, test = two_ways.split(0.75)
    env = make_vec_env(Task, 1)
    callbacks = [HeldOut(test, every=3), EvalCallback(env, eval_freq=5, deterministic=False, verbose=0, warn=False)]
    agent = small(train, env=env, learning_rate=0.3, policy_kwargs={"latents": "aggregate"})
    agent.learn(10, callbacks, checkpoint=tmp_path)
    best, last = LatentBC.load(tmp_path / "best.zip", device="cpu"), agent.policy.model.remembered
    best.predict(np.zeros(2, np.float32))
    assert best.policy.model.remembered.isfinite().all()
    assert last.isfinite().all()
    assert not torch.equal(best.policy.model.remembered, last)
    assert agent.policy.remember is None


def test_another_run_is_refused(two_ways: Demonstrations, tmp_path: Path) -> None:
    small(two_ways).learn(2, checkpoint=tmp_path)
    others: dict[str, dict[str, Any]] = {
        "batch_size": {"batch_size": 4}, "seed": {"seed": 1}, "ema_decay": {"ema_decay": 0.9},
        "learning_rate": {"learning_rate": 1e-3}, "kl_weight": {"kl_weight": 0.5}, "kl_warmup": {"kl_warmup": 0.5},
        "noise": {"noise": None}, "max_grad_norm": {"max_grad_norm": 1.0}, "num_samples": {"num_samples": 2},
        "steps_per_segment": {"steps_per_segment": 3}, "estimator": {"estimator": ScoreFunction(RunningMean())},
        "precision": {"precision": "bf16-mixed"}, "gradient_variance_every": {"gradient_variance_every": 5},
        "policy": {"policy_kwargs": {"temperature": 0.5}},
        "trunk": {"policy_kwargs": {"features_extractor_class": FlattenExtractor}},
    }  # fmt: skip
    for name, options in others.items():
        with pytest.raises(LatentRLError, match=rf"of another run \((.*; )?{name}: "):
            small(two_ways, **options).learn(2, checkpoint=tmp_path)
    with pytest.raises(LatentRLError, match=r"of another run \((.*; )?data: "):
        small(two_ways.split(0.5)[0]).learn(2, checkpoint=tmp_path)
    with pytest.raises(LatentRLError, match=r"of another run \((.*; )?updates: "):
        small(two_ways).learn(3, checkpoint=tmp_path)
    with pytest.raises(LatentRLError, match=r"of another run \((.*; )?callbacks: "):
        small(two_ways).learn(2, HeldOut(two_ways, every=2), checkpoint=tmp_path)
    with pytest.raises(LatentRLError, match="checkpoint_every must be a whole number"):
        small(two_ways).learn(2, checkpoint=tmp_path, checkpoint_every=0)
    agent = small(two_ways)
    agent.learn(2, checkpoint=tmp_path)  # it is finished
    assert agent.num_timesteps == 2
    agent.learn(2, checkpoint=tmp_path)


def test_the_average_predicts_and_is_saved(two_ways: Demonstrations, tmp_path: Path) -> None:
    """Against updates without it: the same training weights, whose average is what acts, is evaluated and saved."""
    seen: list[torch.Tensor] = []
    played: list[np.ndarray] = []

    class Look(BaseCallback):
        def _on_step(self) -> bool:
            model = self.model.policy.model
            seen.append(torch.cat([p.detach().flatten() for p in model.parameters()]).clone())
            played.append(self.model.predict(two_ways.observations[:1], deterministic=True)[0])
            return True

    plain = small(two_ways).learn(6, Look())
    raw, actions = [*seen], [*played]
    agent = small(two_ways, ema_decay=0.7)
    seen.clear()
    played.clear()
    agent.learn(6, Look())
    for mine, theirs in zip(seen, raw, strict=True):
        assert torch.equal(mine, theirs)
    np.testing.assert_array_equal(played[0], actions[0])
    assert not np.array_equal(played[5], actions[5])
    factors = torch.tensor([0.7 ** (5 - i) for i in range(6)])
    expected = (torch.stack(raw) * (factors / factors.sum())[:, None]).sum(0)
    found = torch.cat([p.detach().flatten() for p in agent.policy.model.parameters()])
    torch.testing.assert_close(found, expected)
    agent.save(tmp_path / "bc")
    loaded = LatentBC.load(tmp_path / "bc", demonstrations=two_ways, device="cpu")
    assert torch.equal(weights(loaded), weights(agent))
    for one in (agent, plain):
        torch.manual_seed(2)
        one.learn(1, reset_num_timesteps=False)
    agent.policy.train()
    assert torch.equal(weights(agent), weights(plain))


def test_weights_that_are_loaded_replace_the_average(two_ways: Demonstrations) -> None:
    agent, other = small(two_ways, ema_decay=0.9).learn(3), small(two_ways, policy_kwargs={"prior": "vamp"}, seed=1)
    agent.set_parameters(other.get_parameters())
    agent.policy.train()
    assert torch.equal(weights(agent), weights(other))


def test_held_out_bounds_are_logged_and_stop(two_ways: Demonstrations, tmp_path: Path) -> None:
    """A learning rate that is far too high: the bound gets worse, and the best weights come back."""
    train, test = two_ways.split(0.75)
    agent = small(train, learning_rate=lambda left: 2e-3 if left > 0.8 else 0.3, kl_warmup=0.0, ema_decay=0.5)
    agent.set_logger(configure(str(tmp_path / "log"), ["csv"]))
    held_out = HeldOut(test, every=2, patience=3)
    agent.learn(100, held_out, log_interval=2, checkpoint=tmp_path / "run")
    agent.logger.close()
    header, *rows = (tmp_path / "log" / "progress.csv").read_text().splitlines()
    assert {"eval/elbo", "eval/reconstruction", "eval/kl", "eval/best_elbo"} <= set(header.split(","))
    assert agent.num_timesteps == held_out.best_update + 6 < 100
    assert held_out.best is not None
    column = header.split(",").index("eval/elbo")
    bounds = [float(row.split(",")[column]) for row in rows if row.split(",")[column]]
    assert max(bounds) == pytest.approx(held_out.best.elbo)
    assert held_out._segments is not None
    assert held_out_bound(agent.policy.model.eval(), held_out._segments) == held_out.best
    best = LatentBC.load(tmp_path / "run" / "best.zip", device="cpu")
    assert torch.equal(weights(best), weights(agent))


def test_patience_is_not_renewed_where_a_killed_run_goes_on(
    two_ways: Demonstrations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def learn(folder: str) -> int:
        train, test = two_ways.split(0.75)
        agent = small(train, learning_rate=lambda left: 2e-3 if left > 0.8 else 0.3, kl_warmup=0.0)
        callbacks = [HeldOut(test, every=2, patience=3), Killed()]
        return agent.learn(100, callbacks, checkpoint=tmp_path / folder, checkpoint_every=1).num_timesteps

    end = learn("whole")
    assert end < 100
    monkeypatch.setattr(Killed, "at", end - 1)
    with pytest.raises(KeyboardInterrupt):
        learn("killed")
    monkeypatch.setattr(Killed, "at", 10**9)
    assert learn("killed") == end


def test_bounds_are_logged_where_they_are_seen(two_ways: Demonstrations, tmp_path: Path) -> None:
    """Whatever the interval of the log, and the last one before a stop or at the end too."""
    train, test = two_ways.split(0.75)
    for rate, patience, updates in ((1e-3, None, [3, 6, 9, 11]), (0.0, 1, [3, 6])):
        agent, folder = small(train, learning_rate=rate), tmp_path / str(rate)
        agent.set_logger(configure(str(folder), ["csv"]))
        agent.learn(11, HeldOut(test, every=3, patience=patience), log_interval=100)
        agent.logger.close()
        header, *rows = (folder / "progress.csv").read_text().splitlines()
        names = header.split(",")
        seen = [dict(zip(names, row.split(","), strict=True)) for row in rows]
        assert [int(row["time/total_timesteps"]) for row in seen if row["eval/elbo"]] == updates


def test_one_callback_may_watch_one_agent_after_another(two_ways: Demonstrations) -> None:
    train, test = two_ways.split(0.75)
    watch = HeldOut(test, every=2, patience=3)
    first = small(train, learning_rate=1e-2).learn(20, watch)
    best = watch.best
    second = small(train, learning_rate=1e-5, seed=1).learn(4, watch)
    assert not torch.equal(weights(first), weights(second))
    assert watch.best != best
    assert (watch.last_update, second.num_timesteps) == (4, 4)


def test_held_out_bounds_do_not_disturb_training(two_ways: Demonstrations) -> None:
    train, test = two_ways.split(0.75)
    plain, watched = small(train).learn(6), small(train).learn(6, HeldOut(test, every=2))
    assert torch.equal(weights(plain), weights(watched))
    with pytest.raises(LatentRLError, match="patience must be a whole number of at least 1"):
        HeldOut(test, patience=0)


def test_a_batch_that_breaks_the_loss_is_kept(two_ways: Demonstrations, tmp_path: Path) -> None:
    def rate(left: float) -> float:
        return 1e-3 if left > 0.5 else 1e30

    with pytest.raises(FloatingPointError, match=r"at update (1\d): .*non_finite_\1\.npz"):
        small(two_ways, learning_rate=rate, kl_warmup=0.0).learn(
            20, log_interval=100, checkpoint=tmp_path, checkpoint_every=2
        )
    (path,) = tmp_path.glob("non_finite_*.npz")
    assert np.load(path)["observations"].shape == np.load(path)["before_observations"].shape == (8, 16, 2)
    kept = torch.load(tmp_path / "last.pt", weights_only=True)
    assert all(bool(value.isfinite().all()) for value in kept["trainer"]["model"].values())


@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_last_gradient_that_is_not_finite_is_found(
    two_ways: Demonstrations, tmp_path: Path, checkpoint: bool
) -> None:
    """No loss comes after it that could tell."""
    agent = small(two_ways)
    weight = next(agent.policy.model.decoder.parameters())
    weight.register_hook(lambda gradient: gradient * (torch.nan if agent.num_timesteps == 4 else 1.0))
    with pytest.raises(FloatingPointError, match="the weights are not finite, though the last loss was"):
        agent.learn(5, checkpoint=tmp_path if checkpoint else None)


def test_a_run_of_files_learns_as_of_arrays(two_ways: Demonstrations, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the same random numbers, but the same task: the ELBO rises alike."""
    monkeypatch.setattr(host_segments, "fits", lambda *_: False)
    agent = small(two_ways)
    trainer = agent._trainer(agent.demonstrations, 100)  # type: ignore[arg-type]
    assert isinstance(trainer.segments, HostSegments)
    first = float(trainer.update(0).value)
    for step in range(1, 100):
        last = float(trainer.update(step).value)
    assert last > first + 10
    trainer.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "16-mixed"}, "unknown precision '16-mixed': choose one of '32-true', 'bf16-mixed'|bf16-mixed"),
        ({"devices": 0}, "devices must be a whole number of at least 1"),
        ({"devices": 3}, "batch_size=8 .* cannot be split over devices=3: use a multiple, such as 9"),
        ({"ema_decay": 1.5}, "ema_decay must lie between 0 and 1"),
        ({"compile": True, "kl_weight": FreeBits(1.0)}, "compile=True needs a KL weight that does not read"),
    ],
)
def test_bad_options(two_ways: Demonstrations, options: dict[str, Any], message: str) -> None:
    with pytest.raises(LatentRLError, match=message):
        small(two_ways, **options).learn(1)


def test_bfloat16_learns_as_float32(two_ways: Demonstrations) -> None:
    """Weights stay float32; the first ELBO differs by rounding, and training raises it as far."""
    for prior in ("normal", "vamp"):
        bounds, first = [], []
        for precision in ("32-true", "bf16-mixed"):
            agent = small(two_ways, precision=precision, policy_kwargs={"prior": prior}).learn(1)
            first.append(weights(agent))
            assert {p.dtype for p in agent.policy.model.parameters()} == {torch.float32}
            segments = agent._segments_on(two_ways)("cpu")
            agent.learn(60)
            bounds.append(held_out_bound(agent.policy.model.eval(), segments).elbo)
        assert not torch.equal(*first)
        assert bounds[1] == pytest.approx(bounds[0], abs=2.0)


def test_what_the_docs_show(two_ways: Demonstrations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of docs/training.md, cut short, with its progress bar."""
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    block = text.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"demonstrations": two_ways}
    exec(block.replace("50_000", "4").replace("every=500", "every=2"), namespace)
    assert namespace["agent"].num_timesteps == 4
    assert (tmp_path / "runs" / "clone" / "best.zip").exists()


def test_measuring_the_gradient_leaves_a_running_baseline_alone(two_ways: Demonstrations) -> None:
    """A baseline that learns from being used does not learn from gradients that no step follows."""
    plain = small(two_ways, estimator=ScoreFunction(RunningMean())).learn(12)
    measured = small(two_ways, estimator=ScoreFunction(RunningMean())).learn(12, GradientVariance(4, 4))
    assert torch.equal(weights(plain), weights(measured))


def test_files_and_agents_of_a_run_that_was_cut_act_with_latents_of_their_weights(
    two_ways: Demonstrations, tmp_path: Path
) -> None:
    agent = small(two_ways, learning_rate=0.3, policy_kwargs={"latents": "aggregate"})
    killed = Killed()
    killed.at = 5
    with pytest.raises(KeyboardInterrupt):
        agent.learn(9, [CheckpointCallback(2, str(tmp_path), "cut"), killed])
    files = [LatentBC.load(tmp_path / f"cut_{step}_steps.zip", device="cpu") for step in (2, 4)]
    drawn = [one.policy.model.remembered for one in (*files, agent)]
    assert all(latents.isfinite().all() for latents in drawn)
    assert not any(torch.equal(a, b) for a, b in itertools.pairwise(drawn))
    agent.predict(np.zeros(2, np.float32))
    assert agent.policy.remember is None


def test_limits_of_a_multiplier_are_a_setting(two_ways: Demonstrations, tmp_path: Path) -> None:
    small(two_ways, kl_weight=KLConstraint(1.0)).learn(2, checkpoint=tmp_path)
    with pytest.raises(LatentRLError, match=r"of another run .*kl_weight"):
        small(two_ways, kl_weight=KLConstraint(1.0, limits=(0.5, 2.0))).learn(2, checkpoint=tmp_path)


class Ends(BaseCallback):
    """Notes what the agent plays at the end of training."""

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self.played, _ = self.model.predict(np.zeros(2, np.float32), deterministic=True)


def test_the_average_is_seen_at_the_end_with_checkpoints_too(two_ways: Demonstrations, tmp_path: Path) -> None:
    train, test = two_ways.split(0.75)
    found = []
    for options in ({}, {"checkpoint": tmp_path}):
        ends = Ends()
        agent = small(train, ema_decay=0.9, learning_rate=0.05)
        agent.learn(6, [HeldOut(test, every=3), ends], **options)
        found.append(ends.played)
        assert np.array_equal(ends.played, agent.predict(np.zeros(2, np.float32), deterministic=True)[0])
    assert np.array_equal(*found)


def test_a_callback_goes_on_in_a_list_or_alone(two_ways: Demonstrations, tmp_path: Path) -> None:
    train, test = two_ways.split(0.75)
    first = small(train).learn(4, HeldOut(test, every=2), checkpoint=tmp_path)
    again = small(train).learn(4, [HeldOut(test, every=2)], checkpoint=tmp_path)
    assert torch.equal(weights(first), weights(again))


def test_patience_is_that_of_a_call(two_ways: Demonstrations) -> None:
    """A callback that has ended one call of ``learn`` has its patience again in the next, and keeps its best; of
    another agent it knows nothing."""
    train, test = two_ways.split(0.75)
    held = HeldOut(test, every=1, patience=2)
    agent = small(train, learning_rate=0.5).learn(50, held)
    before, best = agent.num_timesteps, held.best_update
    assert before == best + 2
    agent.learn(50, held, reset_num_timesteps=False)
    assert agent.num_timesteps >= before + 2
    other = small(train)
    other.num_timesteps = 1
    other.learn(2, held, reset_num_timesteps=False)
    assert held.best_update in (2, 3)
