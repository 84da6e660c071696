"""``latentrl train``: clone demonstrations, into a folder that a killed run goes on in."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from latentrl.checks import LatentRLError, count
from latentrl.config import LatentConfig
from latentrl.data.cuts import check_lengths
from latentrl.files import locked
from latentrl.runs import HELP, OPTIONS, POLICY, make_env, options_of, plain, read_source, write_options
from latentrl.training.checkpoints import has_states, refuse_study

if TYPE_CHECKING:
    from latentrl.sb3 import HeldOut, LatentBC
    from latentrl.training.held_out import Bound


@dataclass(frozen=True)
class TrainConfig:
    """Clone demonstrations into a latent policy.

    The same command goes on with a run that was killed, to the same weights. Options may stand in a YAML file
    (--config FILE); those on the command line come on top. The run's own are in its config.yaml, and
    `latentrl train --resume RUN` goes on with them.
    """

    data: str = ""
    """What to clone: READER or READER:WHERE, with lasa, minari, trajectories, hdf5, lerobot, pusht, pedestrians, npz; a
    path that ends in .npz needs no reader."""
    out: Path = Path("runs/train")
    """Folder of the run: config.yaml, last.pt and best.zip, logs as CSV and, with latentrl[tensorboard], for
    TensorBoard, and the policy as safe files."""
    env: str | None = None
    """Gymnasium id of the task, for its spaces and for `latentrl evaluate`; by default those of the data."""
    updates: int = 3000
    """Gradient updates."""
    policy: LatentConfig = field(default_factory=LatentConfig)
    batch_size: int = 64
    """Segments per update (transitions where hold is 1)."""
    learning_rate: float = 2e-3
    """At the start; it falls to 0 along half a cosine."""
    kl_weight: float | None = None
    """β; by default 1, as long as the latent neither collapses nor memorises."""
    noise: Literal["auto", "none"] = "auto"
    """Corrective noise on observations: estimated from the data, or none."""
    ema_decay: float | None = None
    """Of an average of the weights, such as .999, which then predicts."""
    held_out: float = 0.1
    """Share of the episodes that is not learned from; their bound is logged, and the best weights are kept in best.zip,
    or with patience as the policy."""
    patience: int | None = None
    """Looks at the held-out bound without a better one after which training stops."""
    every: int = 500
    """Updates between two looks, and between two checkpoints."""
    devices: int = 1
    """GPUs, or processes on a CPU."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Of the arithmetic."""
    compile: bool = False
    """Compile the loss."""
    seed: int = 0
    """Of weights, batches and latents, and of what is held out."""
    device: str = "auto"
    """auto, cpu, cuda, …"""

    def __post_init__(self) -> None:
        count("updates", self.updates, 1)
        count("every", self.every, 1)
        if count("seed", self.seed, 0) >= 2**32:
            raise LatentRLError(f"seed must be below 2**32, but {self.seed} was given")
        if not 0.0 <= self.held_out < 1.0:
            raise LatentRLError(f"held_out is a share of the episodes in [0, 1), but {self.held_out!r} was given")
        if self.patience is not None and self.held_out == 0.0:
            raise LatentRLError("patience looks at held-out episodes, and there are none: give held_out")


def train(config: TrainConfig, console: Console | None = None) -> Any:
    """Train, write and tell what comes next; the agent.

    :raises LatentRLError: bad data, options or folder, before any training
    :raises FloatingPointError: where the loss stops being finite
    """
    console = console or Console()
    agent, held_out = fit(config, console)
    bound, update = (None, None) if held_out is None else played(held_out)
    told = "" if bound is None else f"held-out bound {bound.elbo:.4g} nats at update {update}; "
    plain: dict[str, Any] = {"soft_wrap": True, "markup": False}
    console.print(f"{agent.num_timesteps} updates; {told}policy in {config.out / POLICY}", **plain)
    if held_out is not None and held_out.best is not None and update != held_out.best_update:
        console.print(
            f"the best bound was {held_out.best.elbo:.4g} nats at update {held_out.best_update}, in "
            f"{config.out / 'best.zip'}; --patience makes it the policy",
            **plain,
        )
    console.print(f"next: latentrl evaluate {config.out}{'' if config.env else ' --env ID'}", **plain)
    return agent


def played(held_out: "HeldOut") -> "tuple[Bound | None, int | None]":
    """The held-out bound of the policy that predicts after training, and the update at which it was seen."""
    if held_out.patience is not None and held_out.best is not None:
        return held_out.best, held_out.best_update
    return (None, None) if held_out.last is None else (held_out.last, held_out.last_update)


def fit(config: TrainConfig, console: Console) -> "tuple[LatentBC, HeldOut | None]":
    """The agent, and what looked at held-out episodes; without a bar where the console is quiet.

    :raises LatentRLError: as :func:`train`; a file or the log cannot be written
    """
    from latentrl.commands.log import run_log
    from latentrl.sb3 import HeldOut, LatentBC
    from latentrl.schedules import Cosine

    config = replace(config, out=config.out.expanduser())
    if not config.data:
        raise LatentRLError(f"there is nothing to clone: give --data {HELP}")
    _refuse_another(config)
    demonstrations = read_source(config.data)
    check_lengths(demonstrations.episode_lengths, config.policy.hold, config.policy.chunk)
    shown, others = (demonstrations, None)
    if config.held_out:
        if demonstrations.num_episodes == 1:
            raise LatentRLError("there is one episode, and a share of episodes is to be held out: give --held-out 0")
        shown, others = demonstrations.split(1.0 - config.held_out, seed=config.seed)
    agent = LatentBC(
        demonstrations=shown,
        env=None if config.env is None else make_env(config.env),
        learning_rate=Cosine(config.learning_rate),
        batch_size=config.batch_size,
        kl_weight="auto" if config.kl_weight is None else config.kl_weight,
        noise=None if config.noise == "none" else "auto",
        ema_decay=config.ema_decay,
        devices=config.devices,
        precision=config.precision,
        compile=config.compile,
        policy_kwargs=asdict(config.policy),
        seed=config.seed,
        device=config.device,
    )
    callback = None if others is None else HeldOut(others, config.every, config.patience)
    with locked(config.out):
        _refuse_another(config)  # which may have ended only now
        write_options(config.out / OPTIONS, asdict(config))
        with run_log(config.out) as log:
            agent.set_logger(log)
            agent.learn(
                config.updates,
                callback,
                progress_bar=not console.quiet,
                checkpoint=config.out,
                checkpoint_every=config.every,
            )
        agent.policy.save_pretrained(config.out / POLICY, about=f"Cloned from `{config.data}` by `latentrl train`.")
    return agent, callback


def _refuse_another(config: TrainConfig) -> None:
    """:raises LatentRLError: the folder is of a run with other options, or of a study"""
    refuse_study(config.out)
    path = config.out / OPTIONS
    if not path.exists() or not has_states(config.out):  # what failed at once has nothing to lose
        return
    before, now = options_of(path), plain(asdict(config))
    other = sorted(name for name in {**before, **now} if before.get(name) != now.get(name) and name != "out")
    if other:
        raise LatentRLError(
            f"{str(config.out)!r} is of another run ({', '.join(other)} differ), whose options stay as they were: give "
            f"another --out, or --resume {config.out} alone to go on with its own"
        )
