"""Several processes that train one model: each on its share of every batch, with averaged gradients.

The process that calls ``learn`` is the first of them. It alone has callbacks, logs, files and the environment; the
others are helpers that do nothing but update the same weights in the same way, and that are ended when it is done.

Gradients are averaged explicitly, as one flat tensor, and not by DistributedDataParallel. The loss is ``model.elbo``,
not a ``forward`` that it could wrap; the networks are small, so that one message costs less than several that overlap
with the backward pass; and what KL schedules observe travels in the same message.
"""

import io
import multiprocessing
import os
import pickle
import socket
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from latentrl.checks import LatentRLError, count, one_of, require
from latentrl.data.mapped import root
from latentrl.processes import end_with_parent

Precision = Literal["32-true", "bf16-mixed"]


class Processes:
    """What one of the processes knows of all.

    :param device: of this one
    :param precision: "32-true", or "bf16-mixed": weights and their updates in float32, matrix products in bfloat16
    :param rank: 0 is the one that calls ``learn``
    :param size: how many there are
    :param port: where they meet on this machine; None where ``torchrun`` started them
    """

    def __init__(
        self, device: torch.device, precision: Precision, rank: int = 0, size: int = 1, port: int | None = 0
    ) -> None:
        require("lightning_fabric", "scale")
        from latentrl.training.fabric import make_fabric

        self.rank: int = rank
        self.size: int = size
        self._fabric = make_fabric(device, precision, rank, size, port)
        self.device: torch.device = self._fabric.device if size > 1 else device

    def autocast(self) -> AbstractContextManager[Any]:
        """Operations in the block run in this precision."""
        return self._fabric.autocast()

    def goes_on(self, more: bool = True) -> bool:
        """Whether the first process makes another update: what it says is what all others get."""
        return more

    def mean(self, values: Tensor) -> Tensor:
        """The average over all processes, the same number everywhere."""
        if self.size == 1:
            return values
        # Fabric's own all_reduce lets all processes meet first, which would wait for a GPU at each update.
        values = values.clone()
        torch.distributed.all_reduce(values)
        return values / self.size

    def means(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The averages of several tensors, in one message."""
        if self.size == 1:
            return list(tensors)
        flat = self.mean(torch.cat([tensor.reshape(-1) for tensor in tensors]))
        pieces = flat.split([tensor.numel() for tensor in tensors])
        return [piece.view_as(tensor).to(tensor.dtype) for piece, tensor in zip(pieces, tensors, strict=True)]

    @torch.no_grad()
    def average_gradients(self, parameters: Sequence[nn.Parameter], others: Sequence[Tensor] = ()) -> list[Tensor]:
        """Let every parameter's gradient be the average over all processes; returns the averages of other tensors."""
        given = [parameter for parameter in parameters if parameter.grad is not None]
        found = self.means([*(p.grad for p in given if p.grad is not None), *others])
        for parameter, gradient in zip(given, found[: len(given)], strict=True):
            parameter.grad = gradient
        return found[len(given) :]

    @torch.no_grad()
    def share(self, tensors: Sequence[Tensor]) -> None:
        """Let tensors everywhere be those of the first process."""
        if self.size > 1:
            for tensor in tensors:
                torch.distributed.broadcast(tensor, 0)


def check_processes(devices: Any, precision: str, batch_size: int, device: torch.device, here: int) -> None:
    """:raises LatentRLError: precision, or a number of devices, that is not there or does not divide the batch

    :param here: how many of the devices are to be on this machine
    """
    one_of("precision", precision, get_args(Precision))
    count("devices", devices, 1)
    if precision == "bf16-mixed" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise LatentRLError(f"{torch.cuda.get_device_name(device)} has no bfloat16: use precision='32-true'")
    if batch_size % devices:
        raise LatentRLError(
            f"batch_size={batch_size} is that of all devices together and cannot be split over devices={devices}: "
            f"use a multiple, such as {batch_size + devices - batch_size % devices}"
        )
    if devices == 1 and (precision == "32-true" or device.type in ("cpu", "cuda")):
        return
    if device.type == "cuda" and here > torch.cuda.device_count():
        raise LatentRLError(f"devices={here}, but there are {torch.cuda.device_count()} GPUs: use as many at most")
    if device.type not in ("cpu", "cuda") or device.index not in (None, 0):
        raise LatentRLError(
            f"several devices are CPU processes or the first GPUs, and bfloat16 is for CPU and CUDA, but the device is "
            f"{device}: use device='cuda' or 'cpu', or devices=1 and precision='32-true'"
        )
    alone = not torch.distributed.is_available() or torch.distributed.is_torchelastic_launched()
    if not alone and torch.distributed.is_initialized():
        raise LatentRLError(f"devices={devices} starts processes of its own, but this is one of a group: use devices=1")


Job = Callable[[Processes], None]


@contextmanager
def together(devices: int, precision: Precision, device: torch.device, job: Job) -> Iterator[Processes]:
    """The processes, for the time of the block; helpers do ``job`` meanwhile and are ended with it.

    :param job: what each helper does, once; it is copied to them
    :raises LatentRLError: a helper did not start
    :raises Exception: what a helper raised, if the block failed for it
    """
    if devices == 1:
        yield Processes(device, precision)
        return
    environment, threads, port = dict(os.environ), torch.get_num_threads(), _free_port()
    helpers = [_Helper(rank, devices, port, precision, device.type, job) for rank in range(1, devices)]
    try:
        for helper in helpers:
            helper.await_start()
        for helper in helpers:
            helper.await_ready()
        yield Processes(device, precision, 0, devices, port)
    except RuntimeError as error:  # what torch raises where another process is gone
        for helper in helpers:
            if (reason := helper.failure()) is not None:
                raise reason from error
        raise
    finally:
        for helper in helpers:
            helper.end()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        torch.set_num_threads(threads)
        os.environ.clear()
        os.environ.update(environment)


class _Helper:
    """A process beside this one, as this one sees it."""

    def __init__(self, rank: int, size: int, port: int, precision: Precision, device: str, job: Job) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        arguments = (theirs, rank, size, port, precision, device, torch.get_num_threads())
        self._process = context.Process(target=_help, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        self._job = job

    def await_start(self) -> None:
        try:
            self._pipe.recv()  # it is there
            self._pipe.send_bytes(dumps(self._job))
        except (EOFError, OSError) as error:
            raise LatentRLError(
                "a helper process ended before it began to train. A script that uses devices=2 or more is read again "
                "by each of them: call learn below `if __name__ == '__main__':`"
            ) from error

    def await_ready(self) -> None:
        """Before the processes meet, where each would wait for the others without end.

        :raises LatentRLError: it is gone
        :raises Exception: what it raised
        """
        try:
            told = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise LatentRLError(
                "a helper process was ended when it got the data, which each process holds: where memory runs out, "
                "give fewer devices, or demonstrations in a file that is mapped (from_npz)"
            ) from error
        if isinstance(told, BaseException):
            raise told

    def failure(self) -> BaseException | None:
        """What it raised, if it ended by that."""
        try:
            while self._pipe.poll(5.0):
                if isinstance(told := self._pipe.recv(), BaseException):  # and not that it was ready
                    return told
        except EOFError:
            pass
        return None

    def end(self) -> None:
        self._process.terminate()
        self._process.join()
        self._pipe.close()


def _help(pipe: Any, rank: int, size: int, port: int, precision: Precision, device: str, threads: int) -> None:
    """What a helper process runs."""
    end_with_parent()
    try:
        pipe.send("here")
        job = pickle.loads(pipe.recv_bytes())
        torch.zeros(1, device=f"cuda:{rank}" if device == "cuda" else device)  # one that is not to be had says so
        pipe.send("ready")
        processes = Processes(torch.device(device), precision, rank, size, port)
        torch.set_num_threads(threads)
        job(processes)
        pipe.recv()  # the first process may not be done: it ends this one
    except BaseException as error:
        if torch.distributed.is_initialized():  # or the first process would wait for this one, and not read
            torch.distributed.destroy_process_group()
        try:
            pickle.loads(dumps(error))
            pipe.send_bytes(dumps(error))
        except Exception:
            pipe.send(RuntimeError("".join(traceback.format_exception(error))))


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def dumps(value: Any) -> bytes:
    """Pickled for another process of ours: functions too, files in memory as their names, tensors on the CPU."""
    cloudpickle = require("cloudpickle", "scale")

    class Pickler(cloudpickle.Pickler):  # type: ignore[name-defined]
        def reducer_override(self, obj: Any) -> Any:
            file = root(obj) if isinstance(obj, np.ndarray) else None
            # A copy-on-write map may differ from its file.
            if file is not None and file.filename is not None and file.mode != "c":
                return _mapped, _place_in(file, obj)
            if isinstance(obj, Tensor) and obj.is_cuda:
                return _tensor, (obj.detach().cpu(), isinstance(obj, nn.Parameter), obj.requires_grad)
            return super().reducer_override(obj)

    buffer = io.BytesIO()
    Pickler(buffer).dump(value)
    return buffer.getvalue()


def _tensor(values: Tensor, parameter: bool, requires_grad: bool) -> Tensor:
    return nn.Parameter(values, requires_grad) if parameter else values.requires_grad_(requires_grad)


def _place_in(file: "np.memmap[Any, Any]", view: Any) -> tuple[Any, ...]:
    """Where in a file a view of it lies."""
    ahead = view.__array_interface__["data"][0] - file.__array_interface__["data"][0]
    return str(file.filename), file.offset, file.nbytes, ahead, view.shape, view.strides, view.dtype


def _mapped(
    name: str, offset: int, size: int, ahead: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: Any
) -> Any:
    file: Any = np.memmap(name, np.uint8, "r", offset, (size,))
    return np.ndarray(shape, dtype, file, ahead, strides)
