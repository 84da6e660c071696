"""Jobs in processes and on a cluster: each is made once, and what dies with its process is made again."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from latentrl import LatentRLError
from latentrl.cells import Cells, Record
from latentrl.files import locked
from latentrl.sweeps import sweep


def square(number: int, folder: Path) -> Record:
    """Counts how often it ran."""
    with (folder / f"ran_{number}").open("a") as file:
        file.write("x")
    return {"square": number**2, "process": os.getpid()}


def dies_once(number: int, folder: Path) -> Record:
    """The first process that runs it is killed."""
    if not (folder / f"died_{number}").exists():
        (folder / f"died_{number}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return square(number, folder)


def dies(folder: Path) -> Record:
    with (folder / "deaths").open("a") as file:
        file.write("x")
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def refuses() -> Record:
    raise LatentRLError("not with this")


def refuses_first(folder: Path) -> Record:
    (folder / "refused").touch()
    return refuses()


def outlasts(number: int, folder: Path) -> Record:
    """Is still at work when the other refuses."""
    while not (folder / "refused").exists():
        time.sleep(0.01)
    time.sleep(0.5)
    return square(number, folder)


def jobs_of(folder: Path, *numbers: int) -> dict[str, Any]:
    return {f"job {number}": partial(square, number, folder) for number in numbers}


@pytest.mark.parametrize("workers", [1, 3])
def test_each_job_is_made_once_and_kept(tmp_path: Path, workers: int) -> None:
    cells = Cells(tmp_path / "study", {})
    sweep(cells, jobs_of(tmp_path, 3), workers)
    found = sweep(cells, jobs_of(tmp_path, 1, 3, 2), workers)
    assert [record["square"] for record in found] == [1, 9, 4]
    assert all((tmp_path / f"ran_{number}").read_text() == "x" for number in (1, 2, 3))
    assert all((record["process"] == os.getpid()) == (workers == 1) for record in found)


def test_what_died_with_its_process_is_made_again(tmp_path: Path) -> None:
    jobs = {f"job {number}": partial(dies_once, number, tmp_path) for number in (1, 2)} | jobs_of(tmp_path, 3)
    found = sweep(Cells(tmp_path / "study", {}), jobs, 2)
    assert [record["square"] for record in found] == [1, 4, 9]


def test_a_job_that_always_dies_ends_the_study_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latentrl.sweeps.RETRIES", 1)  # each costs new processes
    cells = Cells(tmp_path / "study", {})
    sweep(cells, jobs_of(tmp_path, 1), 2)
    with pytest.raises(LatentRLError, match=r"died 2 times with 1 jobs left, such as 'bad': where memory"):
        sweep(cells, jobs_of(tmp_path, 1) | {"bad": partial(dies, tmp_path)}, 2)
    assert len((tmp_path / "deaths").read_text()) == 2
    assert "job 1" in cells
    assert "bad" not in cells


@pytest.mark.parametrize("workers", [1, 2])
def test_a_refusal_is_passed_on_and_what_is_done_is_kept(tmp_path: Path, workers: int) -> None:
    cells = Cells(tmp_path / "study", {})
    with pytest.raises(LatentRLError, match="not with this"):
        sweep(cells, jobs_of(tmp_path, 1) | {"bad": refuses}, workers)
    assert sweep(cells, jobs_of(tmp_path, 1), workers)[0]["square"] == 1
    assert (tmp_path / "ran_1").read_text() == "x"


def test_what_others_have_begun_outlasts_a_refusal(tmp_path: Path) -> None:
    cells = Cells(tmp_path / "study", {})
    jobs = {f"job {number}": partial(outlasts, number, tmp_path) for number in range(12)}
    jobs = {"bad": partial(refuses_first, tmp_path)} | jobs
    with pytest.raises(LatentRLError, match="not with this"):
        sweep(cells, jobs, 2)
    assert cells.read("job 0")["square"] == 0
    assert "job 11" not in cells  # what nobody had begun is not


def test_bad_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = Cells(tmp_path, {})
    with pytest.raises(LatentRLError, match="unknown backend 'dask'"):
        sweep(cells, {}, backend="dask")  # type: ignore[arg-type]
    with pytest.raises(LatentRLError, match="workers must be a whole number of at least 1"):
        sweep(cells, {}, 0)
    with pytest.raises(LatentRLError, match="gpus must be a number of at least 0"):
        sweep(cells, {}, gpus=-1.0)
    with pytest.raises(LatentRLError, match=r"gpus=0\.5 are shared out by Ray alone"):
        sweep(cells, {}, gpus=0.5)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(LatentRLError, match=r"pip install 'latentrl\[ray\]'"):
        sweep(cells, {"a": refuses}, backend="ray")


HOLDER = """
import sys, time
from latentrl.files import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_process_at_a_time_writes_to_a_folder(tmp_path: Path) -> None:
    cells = Cells(tmp_path, {})
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(LatentRLError, match=r"another process is writing to .*: wait until it has ended"):
            sweep(cells, jobs_of(tmp_path, 1))
        other.kill()
    with locked(tmp_path):  # a lock goes with its process, and its own process may take it again
        assert sweep(cells, jobs_of(tmp_path, 1))[0]["square"] == 1


CLUSTER = """
import os, signal, sys, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from latentrl import LatentRLError
from latentrl.cells import Cells
from latentrl.sweeps import sweep

folder = Path(sys.argv[1])
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1}, connect=False)
cluster.add_node(num_cpus=1)
ray.init(address=cluster.address, log_to_driver=False)
assert len(ray.nodes()) == 2

def job(number):
    node = ray.get_runtime_context().get_node_id()
    if number == 2 and not (folder / "died").exists():
        (folder / "died").touch()
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.3)
    return {"square": number ** 2, "node": node}

from functools import partial
found = sweep(Cells(folder / "study", {}), {f"job {n}": partial(job, n) for n in range(6)}, backend="ray")
print([record["square"] for record in found], len({record["node"] for record in found}))

def refuses():
    raise LatentRLError("not with this")

try:
    sweep(Cells(folder / "refused", {}), {"bad": refuses}, backend="ray")
except LatentRLError as error:
    print(error)
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.slow
def test_a_cluster_of_two_nodes_one_of_whose_workers_is_killed(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    run = subprocess.run([sys.executable, "-c", CLUSTER, str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "died").exists()
    assert run.stdout.splitlines()[-2:] == ["[0, 1, 4, 9, 16, 25] 2", "not with this"]
    again = Cells(tmp_path / "study", {})
    begun = time.monotonic()
    assert len(sweep(again, {f"job {number}": refuses for number in range(6)})) == 6
    assert time.monotonic() - begun < 5.0


def naps(folder: Path, number: int) -> Record:
    with (folder / f"napping_{number}").open("w") as file:
        file.write(str(os.getpid()))
    time.sleep(60)
    return {}


STUDY = """
import sys
from functools import partial
from pathlib import Path
from latentrl.cells import Cells
from latentrl.sweeps import sweep
from tests.test_sweeps import naps

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    sweep(Cells(folder / "study", {}), {str(n): partial(naps, folder, n) for n in range(4)}, 2, label=None)
"""


@pytest.mark.skipif(not Path("/proc").exists(), reason="there is no /proc to see processes in")
def test_workers_end_with_a_study_that_is_killed(tmp_path: Path) -> None:
    """Or they would write beside its next start."""
    (tmp_path / "study.py").write_text(STUDY)
    root = str(Path(__file__).parents[1])
    paths = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    study = subprocess.Popen([sys.executable, tmp_path / "study.py", tmp_path], env=os.environ | {"PYTHONPATH": paths})
    try:
        wait_for(lambda: len([path for path in tmp_path.glob("napping_*") if path.read_text()]) == 2)
    finally:
        study.kill()
    study.wait()
    workers = [int(path.read_text()) for path in tmp_path.glob("napping_*")]
    assert len(workers) == 2
    wait_for(lambda: not any(is_alive(worker) for worker in workers))
    assert len(list(tmp_path.glob("napping_*"))) == 2


def is_alive(process: int) -> bool:
    """And not what is left of one that nobody waits for, which has no command line."""
    try:
        return bool(Path(f"/proc/{process}/cmdline").read_bytes())
    except OSError:
        return False


def wait_for(condition: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
