"""Reproductions: the data as it is read, runs that are killed, and each study in its smallest version."""

import contextlib
import gzip
import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from experiments.reproductions import beta_vae, dci, gumbel_softmax, iwae_dreg, mnist, ratios, relax_rl, vade, vampprior
from experiments.reproductions.shapes import Factors
from experiments.reproductions.study import whole_seeds, with_commit
from experiments.reproductions.training import Best, Minibatches, Training
from latentrl import LatentRLError
from latentrl.cells import Record

CPU = torch.device("cpu")


def idx(values: NDArray[np.uint8]) -> bytes:
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """MNIST's files with 40 and 12 images, zipped and not; pixel (i, 0) of image i is white, and its label i % 10."""
    made = tmp_path / "mnist"
    made.mkdir()
    for part, number in (("train", 40), ("t10k", 12)):
        images = np.zeros((number, 28, 28), np.uint8)
        images[np.arange(number), np.arange(number) % 28, 0] = 255
        (made / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (made / f"{part}-labels-idx1-ubyte").write_bytes(idx((np.arange(number) % 10).astype(np.uint8)))
    return made


# -- data ----------------------------------------------------------------------------------------------------------


def test_digits(folder: Path) -> None:
    found = mnist.digits(folder)
    assert (found.train.shape, found.test.shape) == ((40, 784), (12, 784))
    assert found.train.argmax(1).tolist() == [28 * (i % 28) for i in range(40)]
    assert (float(found.train.max()), float(found.train.sum())) == (1.0, 40.0)
    assert found.test_labels.tolist() == [i % 10 for i in range(12)]


def test_static_bits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn where there is no file of them; white pixels and black ones have no choice. Ten of fifty show four digits
    or fewer in 4e-3.
    """
    monkeypatch.setattr(mnist, "HELD_OUT", 15)
    drawn = mnist.static_bits(folder)
    assert [len(part) for part in drawn] == [25, 15, 12]
    assert torch.equal(drawn.valid, mnist.digits(folder).train[25:])
    bits = np.random.default_rng(0).integers(0, 2, (3, 784))
    packed = np.packbits(bits, axis=1)
    by_digit = np.packbits(np.repeat(np.arange(784) < 9 * np.arange(10)[:, None], 5, axis=0), axis=1)
    np.savez(folder / mnist.STATIC, train=np.asfortranarray(packed), valid=packed[:2], test=by_digit)
    read = mnist.static_bits(folder)
    assert read.train.tolist() == bits.tolist()
    assert read.train.is_contiguous()  # or a minibatch would gather each pixel from afar
    assert [len(part) for part in read] == [3, 2, 50]
    white = read.test.sum(1) / 9
    assert sorted(white.tolist()) == sorted(np.repeat(np.arange(10), 5).tolist())
    assert len(white[:10].unique()) > 4  # as many digits as there are room for
    assert torch.equal(read.test, mnist.static_bits(folder).test)


def test_grey_pixels_are_drawn_by_their_intensity(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five standard errors of a proportion: a false alarm in 10⁶."""
    monkeypatch.setattr(mnist, "HELD_OUT", 0)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(np.full((40, 28, 28), 51, np.uint8))))
    share = float(mnist.static_bits(folder).train.mean())
    assert share == pytest.approx(0.2, abs=5 * (0.2 * 0.8 / (40 * 784)) ** 0.5)


def test_data_that_are_not_there(folder: Path) -> None:
    (folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(LatentRLError, match=r"has no t10k-labels-idx1-ubyte or .*give the folder"):
        mnist.digits(folder)
    whole = (folder / "train-images-idx3-ubyte.gz").read_bytes()
    for damaged in (whole[:-9], b"no zip", gzip.compress(b"\0\0\x0d\x03" + bytes(40)), gzip.compress(b"\0")):
        (folder / "train-images-idx3-ubyte.gz").write_bytes(damaged)
        with pytest.raises(LatentRLError, match=r"train-images-idx3-ubyte\.gz' is damaged"):
            mnist.digits(folder)
    (folder / mnist.STATIC).write_bytes(b"nothing")
    with pytest.raises(LatentRLError, match="holds no packed bits"):
        mnist.static_bits(folder)


def test_fetching(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    pixels = np.zeros((70_000, 784))
    pixels[60_000, 3] = 255
    monkeypatch.setattr(datasets, "fetch_openml", lambda *_, **__: (pixels, np.full(70_000, "7")))
    found = mnist.digits(None)
    assert (len(found.train), len(found.test), float(found.test[0, 3])) == (60_000, 10_000, 1.0)
    assert set(found.train_labels) == {7}

    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "fetch_openml", unreachable)
    with pytest.raises(LatentRLError, match=r"could not be fetched .*no network.*--data-dir"):
        mnist.digits(None)


# -- runs ----------------------------------------------------------------------------------------------------------


def test_minibatches() -> None:
    """Each datum once in an epoch, in another order in each, the same for the same seed whoever asks first. Seeds 1 and
    2 agree in three rows once in 720 times.
    """
    rows = Minibatches(10, 3, seed=1, device=CPU)
    epochs = [torch.cat([rows(step) for step in range(3 * epoch, 3 * epoch + 3)]).tolist() for epoch in range(2)]
    assert all(len(set(epoch)) == 9 for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert Minibatches(10, 3, seed=1, device=CPU)(4).tolist() == epochs[1][3:6]
    assert Minibatches(10, 3, seed=2, device=CPU)(4).tolist() != epochs[1][3:6]


class Killed(Exception):
    pass


def learn(folder: Path, epochs: int, killed_at: int | None = None, settings: int = 0) -> tuple[list[Record], Any]:
    """A line through noise, with a random number in each update."""
    torch.manual_seed(3)
    model = torch.nn.Linear(2, 1)
    optimizer, best = torch.optim.Adam(model.parameters(), 0.1), Best(model)

    def update(step: int) -> None:
        if step == killed_at:
            raise Killed
        x = torch.randn(8, 2)
        loss = (model(x) - x.sum(1, keepdim=True) - torch.randn(8, 1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def look(epoch: int) -> Record:
        value = float((model.weight.detach() - 1).square().sum())
        return {"value": value, "stop": best(value, epoch) >= 4}

    training = Training(folder, {"of": settings}, {"model": model, "optimizer": optimizer, "best": best}, CPU)
    history = training.run(epochs, 5, update, look)
    return [{name: value for name, value in seen.items() if name != "seconds"} for seen in history], best.state_dict()


def test_a_run_that_was_killed_goes_on_to_the_same_result(tmp_path: Path) -> None:
    undisturbed, best = learn(tmp_path / "whole", 12)
    with pytest.raises(Killed):
        learn(tmp_path / "killed", 12, killed_at=13)
    with pytest.raises(Killed):
        learn(tmp_path / "killed", 12, killed_at=10)
    found, again = learn(tmp_path / "killed", 12)
    assert found == undisturbed
    assert torch.equal(best["weights"]["weight"], again["weights"]["weight"])
    assert learn(tmp_path / "killed", 12, killed_at=0)[0] == undisturbed  # nothing is left to do
    with pytest.raises(LatentRLError, match="is of another run"):
        learn(tmp_path / "killed", 12, settings=1)


def test_training_stops_where_nothing_gets_better(tmp_path: Path) -> None:
    history, best = learn(tmp_path, 200)
    assert len(history) == best["epoch"] + 4 < 200
    assert history[-1]["stop"]
    assert best["value"] == min(seen["value"] for seen in history)
    assert list(tmp_path.glob("events.out.tfevents.*"))


# -- studies -------------------------------------------------------------------------------------------------------


KILLED = [vampprior, iwae_dreg, vade, gumbel_softmax, beta_vae, relax_rl]


@pytest.mark.slow
@pytest.mark.parametrize("study", KILLED, ids=lambda study: study.__name__.rpartition(".")[2])
def test_a_study_that_is_killed_again_and_again_ends_as_an_undisturbed_one(
    study: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After whatever is saved first in a run, and before it is: half of all runs stop once in between."""
    packed = np.packbits(np.random.default_rng(0).integers(0, 2, (12, 784)), axis=1)
    np.savez(folder / mnist.STATIC, train=packed, valid=packed, test=packed)
    name, kind = study.__name__.rpartition(".")[2], vade.VadeArgs if study is vade else study.Args

    def runs(out: Path) -> list[Record]:
        study.main(kind(data_dir=folder, smoke=True, seeds=(0,), out=out, device="cpu"))
        found = json.loads((out / name / "smoke" / "records.json").read_text())["runs"]
        return [{key: value for key, value in run.items() if key != "seconds"} for run in found]

    undisturbed = runs(tmp_path / "whole")
    save, killed = Training._save, set[Path]()

    def save_or_die(training: Training) -> None:
        place = training.folder.folder
        before = int(place.name.encode().hex(), 16) % 2
        if place not in killed:
            killed.add(place)
            if not before:
                save(training)
            raise KeyboardInterrupt
        save(training)

    monkeypatch.setattr(Training, "_save", save_or_die)
    for _ in range(1_000):
        with contextlib.suppress(KeyboardInterrupt):
            assert runs(tmp_path / "killed") == undisturbed
            break
    else:
        pytest.fail("it never ended")
    assert len(killed) >= len(undisturbed) // 2


def test_orders_of_likelihoods_are_counted() -> None:
    found = [
        {"method": name, "−log p(x)": value}
        for name, values in {"N(0, I)": (90.0, 90.0), "mixture": (89.0, 91.0), "VampPrior": (88.0, 89.0)}.items()
        for value in values
    ]
    said = vampprior.orderings([*found, {"method": "flow", "−log p(x)": 1.0}])
    assert "VampPrior below mixture in 2 of 2; VampPrior below N(0, I) in 2 of 2; mixture below N(0, I) in 1" in said
    assert "all three in 1." in said
    assert "gains 1.5 ± 0.71 nats on N(0, I), in the paper 2.99." in said


def test_gated_layers() -> None:
    layer = vampprior.Gated([3, 2])
    x = torch.randn(5, 3)
    (linear,) = layer
    assert isinstance(linear, torch.nn.Linear)
    hidden = x @ linear.weight.T + linear.bias
    torch.testing.assert_close(layer(x), hidden[:, :2] * hidden[:, 2:].sigmoid())


@pytest.mark.slow
def test_vampprior(folder: Path, tmp_path: Path) -> None:
    packed = np.packbits(np.random.default_rng(0).integers(0, 2, (12, 784)), axis=1)
    np.savez(folder / mnist.STATIC, train=packed, valid=packed, test=packed)
    args = vampprior.Args(data_dir=folder, smoke=True, seeds=(0,), out=tmp_path, device="cpu")
    vampprior.main(args)
    record = json.loads((tmp_path / "vampprior" / "smoke" / "records.json").read_text())
    assert [run["method"] for run in record["runs"]] == list(vampprior.METHODS)
    assert all(400 < run["−log p(x)"] < 700 for run in record["runs"])
    assert {"environment", "command"} <= record.keys()
    assert all("commit" in run for run in record["runs"])
    np.savez(folder / mnist.STATIC, train=packed[::-1], valid=packed, test=packed)
    with pytest.raises(LatentRLError, match=r"another study \(data differ\)"):
        vampprior.main(args)


def test_signal_to_noise_is_that_of_gradients_drawn_one_by_one() -> None:
    """By autograd from other draws, 100 of each; both are seeded, and .04 of it apart."""
    torch.manual_seed(0)
    model = iwae_dreg.autoencoder(torch.full((1, 784), 0.3))
    data = torch.bernoulli(torch.full((2, 784), 0.3))
    found = ratios.of_encoder(model, iwae_dreg.ESTIMATORS, (1, 5), data, 100, seed=0)
    assert found["STL"][0] == found["DReG"][0]  # the same gradient
    surrogate = ratios.Surrogate(model)
    assert model.posterior is not None
    parameters = list(model.posterior.parameters())
    rows = []
    for _ in range(100):
        parts = torch.autograd.grad(surrogate(data, 5, iwae_dreg.ESTIMATORS["plain"]), parameters)
        rows.append(torch.cat([part.flatten() for part in parts]).double())
    gradients = torch.stack(rows)
    trace = float(gradients.var(0).sum())
    expected = ((float(gradients.mean(0).square().sum()) - trace / 100) / trace) ** 0.5
    assert found["plain"][1] == pytest.approx(expected, rel=0.25)


def test_what_is_said_of_ratios() -> None:
    """Two seeds: in one all is as in the papers, in the other nothing is."""
    nll = {1: (86.0, 84.0), 5: (85.0, 85.0), 50: (84.0, 86.0)}
    found: list[Record] = [
        {"method": f"plain, K = {k}", "−log p(x)": value} for k, values in nll.items() for value in values
    ]
    others = {"DReG, K = 1": (85.0, 83.0), "STL, K = 5": (90.0, 90.0), "DReG, K = 5": (84.0, 84.0)}
    others |= {"STL, K = 50": (83.0, 87.0), "DReG, K = 50": (84.0, 86.0)}
    flat = {"STL": [1.0, 1.0, 1.0]}
    found[0]["linear snr"] = {"plain": [3.0, 2.0, 1.0, 0.5], "DReG": [1.0, 2.0, 3.0, 4.0], **flat}
    found[1]["linear snr"] = {"plain": [3.0, 2.0, 2.5, 3.5], "DReG": [1.0, 1.0, 3.0, 0.5], **flat}
    found[0]["snr"] = found[1]["snr"] = {"plain": [1.5, 1.0, 0.5], "DReG": [1.0, 1.0, 1.0], **flat}
    found += [{"method": name, "−log p(x)": value} for name, values in others.items() for value in values]
    said = iwae_dreg.note(found)
    assert "STL, K = 5 in 0; STL, K = 50 in 1; DReG, K = 1 in 2; DReG, K = 5 in 2; DReG, K = 50 in 0." in said
    assert "linear Gaussian is smaller with K = 500 than with 1 under the plain gradient in 1, and larger" in said
    assert "larger under DReG in 1; on images, with 50 draws, in 2 and 0; more plain draws give a better" in said
    assert "a better model of images in 1" in said
    assert "| plain | 3 | 2 | 1.75 ± 1.1 | 2 ± 2.1 |" in said
    assert "| plain | 1.5 | 1 | 0.5 |" in said


def test_more_draws_drown_the_plain_gradient_and_not_dregs(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the linear Gaussian, seed 0: DReG's ratio more than doubles from K = 1 to 100. With seeds 0 to 11 it rose
    3.2-fold, with a standard deviation of .2: false alarm below 1e-8. So few gradients tell no small ratios apart,
    and the plain one is only held to be far below."""
    monkeypatch.setattr(ratios, "DRAWS", (1, 10, 100))
    monkeypatch.setattr(ratios, "POINTS", 8)
    found = ratios.of_linear_gaussian(iwae_dreg.ESTIMATORS, 40, seed=0)
    plain, dreg = (np.array(found[name]) for name in ("plain", "DReG"))
    assert dreg[-1] > 2.0 * dreg[0]
    assert plain[-1] < 0.5 * dreg[-1]


@pytest.mark.slow
def test_iwae_dreg(folder: Path, tmp_path: Path) -> None:
    args = iwae_dreg.Args(data_dir=folder, smoke=True, seeds=(0,), out=tmp_path, device="cpu")
    iwae_dreg.main(args)
    record = json.loads((tmp_path / "iwae_dreg" / "smoke" / "records.json").read_text())
    assert [run["method"] for run in record["runs"]] == list(iwae_dreg.METHODS)
    assert [len(run.get("snr", {})) for run in record["runs"]] == [3, 0, 0, 0, 0, 0, 0, 0]
    assert "Of 1 seeds, the ratio on the linear" in (tmp_path / "iwae_dreg" / "smoke" / "table.md").read_text()


def test_pictures_have_their_factors() -> None:
    """Places move the centre of mass and nothing else does; sizes scale the area; the square's is known."""
    factors = Factors()
    values = torch.tensor(
        [[0, 5, 0, 16, 16], [0, 5, 0, 24, 16], [0, 5, 0, 16, 24], [0, 0, 0, 16, 16], [1, 5, 10, 16, 16]]
    )
    pictures = factors.render(values).unflatten(1, (64, 64))
    line = torch.linspace(0.0, 1.0, 64)
    area = pictures.mean((1, 2))
    across, down = (pictures * line).mean((1, 2)) / area, (pictures * line[:, None]).mean((1, 2)) / area
    assert (across - 0.26 - 0.48 * values[:, 3] / 31).abs().max() < 0.005
    assert (down - 0.26 - 0.48 * values[:, 4] / 31).abs().max() < 0.005
    width = 2 * 0.7 * 0.24
    assert float(area[0]) == pytest.approx(width**2, rel=0.1)
    assert float(area[3]) == pytest.approx(width**2 / 4, rel=0.1)
    ellipse = pictures[4]  # a quarter of a turn: what was wide is high
    assert int(ellipse.any(1).sum()) == pytest.approx(2 * int(ellipse.any(0).sum()), abs=2)
    everything = factors.render(factors.sample(500, CPU)).unflatten(1, (64, 64))
    assert not everything[:, [0, -1]].any()
    assert not everything[:, :, [0, -1]].any()
    assert everything.any(2).any(1).all()


def test_factors_are_drawn_evenly() -> None:
    """χ² of each at a false-alarm rate of 10⁻⁴."""
    torch.manual_seed(0)
    factors = Factors(3, 3, 8, 8, 8, 24)
    for column, size in zip(factors.sample(5_000, CPU).T, factors.sizes, strict=True):
        assert stats.chisquare(torch.bincount(column, minlength=size).numpy()).pvalue > 1e-4


def test_disentanglement_and_completeness() -> None:
    """Eastwood & Williams: each code for one factor, all for all, and two codes that share one factor."""
    assert dci.disentanglement(np.eye(5)) == (1.0, 1.0)
    assert dci.disentanglement(np.ones((5, 5))) == pytest.approx((0.0, 0.0), abs=1e-12)
    shared = np.array([[0.5, 0.0], [0.5, 0.0], [0.0, 1.0], [0.0, 0.0]])
    modular, compact = dci.disentanglement(shared)
    assert modular == 1.0
    assert compact == pytest.approx((1.0 - np.log(2) / np.log(4) + 1.0) / 2)


def test_forests_find_the_code_of_a_factor() -> None:
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    values = np.stack([rng.integers(0, 4, 400), rng.integers(0, 2, 400)], 1)
    codes = np.stack([rng.normal(size=400), values[:, 1] + 0.01 * rng.normal(size=400), -values[:, 0]], 1)
    importance, accuracies = dci.importances(codes, values)
    assert importance.argmax(0).tolist() == [2, 1]
    assert importance.max(0).min() > 0.6
    assert min(accuracies) > 0.97


@pytest.mark.slow
def test_beta_vae(tmp_path: Path) -> None:
    beta_vae.main(beta_vae.Args(smoke=True, seeds=(0,), out=tmp_path, device="cpu"))
    record = json.loads((tmp_path / "beta_vae" / "smoke" / "records.json").read_text())
    assert len(record["runs"]) == 9
    assert all(run["distortion"] > 0 and 0 <= run["informativeness"] <= 1 for run in record["runs"])


def test_rates_lie_below_what_pictures_hold() -> None:
    """Counted: how many different pictures the shapes, the sizes and the angles of one place give."""
    for scale in (beta_vae.SCALES["full"], beta_vae.SCALES["quick"]):
        factors = scale.factors
        turned = torch.cartesian_prod(*(torch.arange(n) for n in factors.sizes[:3]))
        values = torch.cat([turned, torch.zeros(len(turned), 2, dtype=torch.int64)], 1)
        _, counts = factors.render(values).unique(dim=0, return_counts=True)
        shares = counts / counts.sum()
        held = -float((shares * shares.log()).sum()) + np.log(factors.x * factors.y)
        assert max(scale.nats) < 0.95 * held


def test_seeds_of_which_a_run_diverged_are_left_out() -> None:
    """JSON has no infinity: it is None, deep inside, too."""

    def job() -> Record:
        return {"value": math.inf, "curve": [1.0, math.nan], "more": {"error": -math.inf}, "n": 3}

    assert with_commit(job).items() >= {"value": None, "curve": [1.0, None], "more": {"error": None}, "n": 3}.items()
    found: list[Record] = [
        {"method": "a", "seed": 0, "value": 1.0}, {"method": "a", "seed": 1, "value": 2.0},
        {"method": "b", "seed": 0, "value": None}, {"method": "b", "seed": 1},
    ]  # fmt: skip
    left, said = whole_seeds(found, ("value",))
    assert [record["seed"] for record in left] == [1, 1]
    assert "left out of all above: b 0." in said
    assert whole_seeds(found[1:2], ("value",)) == (found[1:2], "")
    with pytest.raises(LatentRLError, match=r"with every seed a run diverged \(b 0\)"):
        whole_seeds([found[0], found[2]], ("value",))


def test_two_scales_at_once_are_refused() -> None:
    with pytest.raises(LatentRLError, match="give one of them"):
        vampprior.Args(quick=True, smoke=True)
