"""The launcher, with toy scripts: routing, preflight, devices, processes, signals, exit status."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import types
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from pet.config import get_base_cfg, infer_cfg
from pet.engine.arguments import default_argument_parser, overrides, parse_known
from pet.engine.launch import DEFAULT_CFG, UsageError, choose_devices, find_domain, find_training_script, main
from tests.helpers import REPOSITORY, Cli, free_port, run_cli, start_cli

# Runs the launcher on a tree of its own, whose domain tasks/toy has only the shared keys. At the end it tells what it
# loaded and how much it computed.
_LAUNCHER = """
import sys, types, time, pathlib, atexit, os
from pet import config
from pet.engine.launch import main
domain = types.ModuleType("pet.tasks.toy.config")
domain.get_base_cfg, domain.infer_cfg = config.get_base_cfg, config.infer_cfg
sys.modules["pet.tasks.toy.config"] = domain
status = main(sys.argv[2:], root=pathlib.Path(sys.argv[1]))
print("launcher: torch", "torch" in sys.modules, "cpu seconds", time.process_time(), flush=True)
sys.exit(status)
"""

_SCRIPT = """
import json, os, signal, sys, time
print(json.dumps({"argv": sys.argv[1:], "pid": os.getpid(), "ppid": os.getppid(), "rank": os.environ.get("RANK"),
                  "world": os.environ.get("WORLD_SIZE"), "threads": os.environ.get("OMP_NUM_THREADS"),
                  "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"), "port": os.environ.get("MASTER_PORT")}), flush=True)
rank = int(os.environ.get("RANK", "0"))
"""

_CONFIG = "SOLVER: {SCHEDULER: {TOTAL_EPOCHS: 1}}\nTRAIN: {BATCH_SIZE: 4}\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree with one domain, ``tasks/toy``, and one experiment."""
    (tmp_path / "tools/tasks/toy").mkdir(parents=True)
    (tmp_path / "cfgs/tasks/toy/digits").mkdir(parents=True)
    (tmp_path / "cfgs/tasks/toy/digits/lenet.yaml").write_text(_CONFIG)
    write_script(tmp_path, "")
    return tmp_path


def write_script(root: Path, body: str) -> None:
    (root / "tools/tasks/toy/train_net.py").write_text(_SCRIPT + body)


def command(root: Path, *arguments: str) -> list[str]:
    return ["-c", _LAUNCHER, str(root), "--cfg", str(root / "cfgs/tasks/toy/digits/lenet.yaml"), *arguments]


def launched(root: Path, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return run_cli(command(root, *arguments), env=env)


def start(root: Path, *arguments: str) -> AbstractContextManager[Cli]:
    return start_cli(command(root, *arguments))


def reports(done: subprocess.CompletedProcess[str]) -> list[dict[str, str]]:
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return sorted(found, key=lambda report: report["rank"] or "")


# ------------------------------------------------------------------------------------------------------ routing


@pytest.mark.parametrize(
    ("path", "kind", "domain"),
    [
        ("cfgs/vision/COCO/x.yaml", None, "vision"),
        ("cfgs/tasks/cls/MNIST/lenet5.yaml", None, "tasks/cls"),
        ("cfgs/projects/fairmot/mot/x.yaml", None, "projects/fairmot"),
        ("ckpts/tasks/cls/MNIST/lenet5/config.yaml", None, "tasks/cls"),
        ("/home/cfgs/vision/pet/cfgs/tasks/cls/x.yaml", None, "tasks/cls"),
        ("/home/cfgs/someone/pet/ckpts/vision/x.yaml", None, "vision"),
        ("cfgs/tasks/../vision/x.yaml", None, "vision"),
        ("cfgs/tasks/cls/x.yaml", "vision", "vision"),
        ("copies/tasks/cls/x.yaml", "tasks", "tasks/cls"),
        ("copies/x.yaml", "tasks", None),
        ("cfgs/vision_notes/x.yaml", None, None),
        ("cfgs/my_tasks/cls/x.yaml", None, None),
        ("cfgs/tasks/x.yaml", None, None),
        ("mycfgs/vision/x.yaml", None, None),
        ("cfgs/tutorials/x.yaml", None, None),
    ],
)
def test_route_is_a_function_of_the_path_components(path: str, kind: str | None, domain: str | None) -> None:
    assert find_domain(path, kind) == domain


def test_script_is_found_by_the_path_and_by_the_first_line_of_a_copied_yaml(root: Path) -> None:
    script = root / "tools/tasks/toy/train_net.py"
    yaml = root / "cfgs/tasks/toy/digits/lenet.yaml"
    assert find_training_script(yaml, root=root) == ("tasks/toy", script)
    assert find_training_script(yaml, type="none", root=root) == ("tasks/toy", script)
    copied = root / "work/config.yaml"
    copied.parent.mkdir()
    copied.write_text("# pet: domain tasks/toy, from cfgs/tasks/toy/digits/lenet.yaml\n" + _CONFIG)
    assert find_training_script(copied, root=root) == ("tasks/toy", script)


def test_wrong_path_lists_the_scripts_that_exist_and_the_nearest(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = root / "cfgs/tasks/toyy/lenet.yaml"
    wrong.parent.mkdir()
    wrong.write_text(_CONFIG)
    assert main(["--cfg", str(wrong)], root=root) == 2
    text = capsys.readouterr().err
    assert "tools/tasks/toyy/train_net.py" in text
    assert "Did you mean 'tasks/toy'?" in text
    assert "cfgs/tasks/toy/...  ->  tools/tasks/toy/train_net.py" in text


def test_path_without_a_domain_says_how_to_name_one(root: Path) -> None:
    loose = root / "x.yaml"
    loose.write_text(_CONFIG)
    with pytest.raises(UsageError, match="--type"):
        find_training_script(loose, root=root)
    with pytest.raises(UsageError, match="Did you mean 'tasks'"):
        find_training_script(loose, type="task", root=root)
    with pytest.raises(UsageError, match="--type tasks needs a folder tasks/<name> in its path"):
        find_training_script(loose, type="tasks", root=root)


def test_missing_yaml_names_the_nearest(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--cfg", str(root / "cfgs/tasks/toy/digits/lenet5.yaml")], root=root) == 2
    text = capsys.readouterr().err
    assert "lenet5.yaml does not exist" in text
    assert "digits/lenet.yaml" in text
    assert main([], root=root) == 2
    assert DEFAULT_CFG in capsys.readouterr().err, "without --cfg the experiment of the tutorial runs"


# ------------------------------------------------------------------------------------------------------ devices


@pytest.mark.parametrize(
    ("gpu_id", "nproc", "visible", "expected"),
    [
        (None, None, [], (1, ())),
        (None, 3, [], (3, ())),
        ("cpu", 2, ["0", "1"], (2, ())),
        (None, None, ["0", "1"], (2, ("0", "1"))),
        (None, 1, ["4", "5"], (1, ("4",))),
        ("1,0", None, ["4", "5"], (2, ("5", "4"))),
        ("1", 1, ["GPU-a", "GPU-b"], (1, ("GPU-b",))),
    ],
)
def test_devices_follow_ids_and_what_is_visible(
    gpu_id: str | None, nproc: int | None, visible: list[str], expected: tuple[int, tuple[str, ...]]
) -> None:
    assert choose_devices(gpu_id, nproc, visible) == expected


@pytest.mark.parametrize(
    ("gpu_id", "nproc", "visible", "message"),
    [
        ("0,1", None, [], "--nproc N"),
        ("0,0", None, ["0", "1"], "twice"),
        ("0,2", None, ["0", "1"], "no GPU 2; allowed: 0 to 1"),
        ("gpu0", None, ["0"], "numbers with commas"),
        ("", None, ["0"], "numbers with commas"),
        ("0", 2, ["0", "1"], "--nproc 2 does not fit 1 GPUs"),
        (None, 3, ["0", "1"], "--nproc 3 does not fit 2 GPUs"),
        (None, 0, [], "at least 1"),
    ],
)
def test_impossible_devices_are_refused(gpu_id: str | None, nproc: int | None, visible: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        choose_devices(gpu_id, nproc, visible)


# ---------------------------------------------------------------------------------------------------- preflight


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("A.B 1 --amp C.D=2", ["A.B", "1", "C.D=2"]),
        ("--work-dir out --cfg-options A.B=1 C.D=2 --seed 3", ["A.B=1", "C.D=2"]),
        ("--resume A.B 1", ["A.B", "1"]),
        ("--resume ckpts/x.pth A.B 1", ["A.B", "1"]),
        ("A.B -1 --local_rank 0", ["A.B", "-1"]),
    ],
)
def test_config_overrides_are_told_from_the_flags_of_the_script(words: str, options: list[str]) -> None:
    args, unknown = parse_known(default_argument_parser(), words.split())
    assert overrides(args) == options
    assert not unknown


def test_wrong_config_is_reported_at_once_without_torch(root: Path) -> None:
    done = launched(root, "SOLVER.OPTIMISER.BASE_LR", "0.1", "TRAIN.BATCH_SIZE=many", "--nproc", "2")
    assert done.returncode == 2
    assert "SOLVER.OPTIMIZER.BASE_LR" in done.stderr
    assert "TRAIN.BATCH_SIZE" in done.stderr
    assert "launcher: torch False" in done.stdout
    assert float(done.stdout.split()[-1]) < 0.5
    assert not reports(done)


def test_other_mistakes_are_refused_before_anything_starts(root: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for arguments, message in (
            (["--master-port", str(port), "--nproc", "2"], f"--master-port {port} cannot be used"),
            (["--nproc", "3"], "a multiple of 3, e.g. 6"),
            (["--gpu_id", "0,1"], "--nproc N"),
        ):
            done = launched(root, *arguments, env={"CUDA_VISIBLE_DEVICES": "-1"})
            assert done.returncode == 2, done.stderr
            assert message in done.stderr
            assert "launcher: torch False" in done.stdout
            assert not reports(done)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--nnodes 0", "--nnodes is 0; it must be at least 1"),
        ("--nnodes 2 --node_rank 2 --master_addr x", "--node_rank is 2; the ranks of 2 nodes are 0 to 1"),
        ("--node-rank 1", "the ranks of 1 nodes are 0 to 0"),
        ("--nnodes 2", "--nnodes 2 needs --master_addr (MASTER_ADDR of the shell scripts)"),
        ("--max_restarts -1", "--max_restarts is -1; it must be at least 0"),
        ("--nnodes 3 --master-addr x --nproc 2", "6 processes"),
        ("--launcher pytorch --nnodes 2", "leave --nnodes out"),
        ("--launcher mpi --nproc 2 --max-restarts 1", "leave --nproc and --max_restarts out"),
    ],
)
def test_impossible_nodes_are_refused(words: str, message: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(root, words) == 2
    assert message in capsys.readouterr().err


def refused(root: Path, words: str) -> int:
    """Type a wrong command; the domain is that of the shared keys."""
    domain = types.ModuleType("pet.tasks.toy.config")
    vars(domain).update(get_base_cfg=get_base_cfg, infer_cfg=infer_cfg)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, domain.__name__, domain)
        return main(command(root, *words.split())[3:], root=root)


def test_questions_about_the_config_are_answered_without_a_run(root: Path) -> None:
    explained = launched(root, "--explain", "TRAIN.BATCH_SIZE", "TRAIN.BATCH_SIZE", "8")
    assert explained.returncode == 0
    assert "TRAIN.BATCH_SIZE = 8" in explained.stdout
    assert "lenet.yaml" in explained.stdout
    listed = launched(root, "--help-config", "SOLVER.AMP")
    assert listed.returncode == 0
    assert "SOLVER.AMP.DTYPE" in listed.stdout
    assert not reports(listed)


def test_flags_that_change_the_config_as_a_whole_are_in_the_answer(root: Path) -> None:
    scaled = ["--auto-scale-lr", "SOLVER.BASE_BATCH_SIZE", "16", "SOLVER.OPTIMIZER.BASE_LR", "0.01"]
    explained = launched(root, *scaled, "--explain", "SOLVER.OPTIMIZER.BASE_LR")
    assert (explained.returncode, "BASE_LR 0.01 x 4 / 16 = 0.0025" in explained.stdout) == (0, True), explained.stdout
    folder = launched(root, "--overfit-batch", "1", "--explain", "MISC.CKPT").stdout
    assert "digits/lenet_overfit" in folder
    own = launched(root, *scaled, "--flag-of-the-script", "1")  # the script knows which words are its own, and answers
    assert len(reports(own)) == 1, own.stderr


def test_a_rate_that_cannot_be_scaled_is_refused_once(root: Path) -> None:
    done = launched(root, "--auto-scale-lr", "--nproc", "2")
    assert done.returncode == 2
    assert done.stderr.count("--auto-scale-lr needs SOLVER.BASE_BATCH_SIZE") == 1
    assert "launcher: torch False" in done.stdout
    assert not reports(done)


# -------------------------------------------------------------------------------------------------- one process


def test_one_process_runs_in_place_with_its_arguments_untouched(root: Path) -> None:
    write_script(root, "import helper_beside_the_script\nsys.exit(int(os.environ['STATUS']))")
    (root / "tools/tasks/toy/helper_beside_the_script.py").write_text("")
    arguments = ["--work-dir", "out", "TRAIN.BATCH_SIZE", "8", "--seed", "3", "--cfg-options", "MISC.SEED=4"]
    for status in (0, 1, 2, 143):
        with start_cli(command(root, *arguments), env={"STATUS": str(status), "OMP_NUM_THREADS": ""}) as cli:
            done = cli.wait()
        assert done.returncode == status
        (report,) = reports(done)
        assert report["pid"] == cli.process.pid
        assert report["argv"] == ["--cfg", str(root / "cfgs/tasks/toy/digits/lenet.yaml"), *arguments]
    assert report["rank"] is None


# --------------------------------------------------------------------------------------------- several processes


@pytest.mark.distributed
def test_two_processes_get_ranks_gpus_and_a_port_and_each_launch_its_own(root: Path) -> None:
    write_script(root, "import pet, torch.distributed as dist\ndist.init_process_group('gloo')\ndist.barrier()\n")
    fixed, elsewhere = ["--nproc", "2", "--master-port", str(free_port())], {"PYTHONPATH": str(REPOSITORY)}
    with start(root, "--nproc", "2") as one, start_cli(command(root, *fixed), cwd=root, env=elsewhere) as two:
        done = [one.wait(), two.wait()]
        assert one.gone()
        assert two.gone()
    assert [d.returncode for d in done] == [0, 0], done[0].stderr + done[1].stderr
    assert [report["rank"] for d in done for report in reports(d)] == ["0", "1", "0", "1"]
    assert {report["world"] for d in done for report in reports(d)} == {"2"}
    assert {report["gpus"] for d in done for report in reports(d)} == {""}
    assert len({report["port"] for d in done for report in reports(d)}) == 2


def test_cores_are_shared_between_the_processes_unless_the_user_says_otherwise(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pet.engine import launch

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for name in ("PYTHONPATH", "CUDA_VISIBLE_DEVICES", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "")
    for given, nproc, expected in ((None, 1, "8"), (None, 3, "2"), (None, 16, "1"), ("5", 2, "5")):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        if given:
            monkeypatch.setenv("OMP_NUM_THREADS", given)
        launch.prepare_environment(launch.Plan(nproc), root)
        assert os.environ["OMP_NUM_THREADS"] == expected


@pytest.mark.parametrize(("policy", "expected"), [(None, "1000"), ("ACTIVE", None)])
def test_waiting_threads_leave_their_core_unless_the_user_says_otherwise(
    policy: str | None, expected: str | None, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pet.engine import launch

    for name in ("PYTHONPATH", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "1")
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.delenv("OMP_WAIT_POLICY")
    if policy:
        monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    launch.prepare_environment(launch.Plan(), root)
    assert os.environ.get("GOMP_SPINCOUNT") == expected


@pytest.mark.distributed
def test_first_failure_ends_all_ranks_within_10_s_and_its_traceback_is_last(root: Path) -> None:
    # Rank 0 computes, ignores the request to stop, and would go on for minutes.
    write_script(
        root,
        "if rank == 0:\n    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n    print('busy', flush=True)\n    time.sleep(300)\n"
        "time.sleep(2)\nprint('failing', flush=True)\nraise ValueError('the real cause')\n",
    )
    with start(root, "--nproc", "2") as cli:
        cli.wait_for("failing")
        begin = time.monotonic()
        done = cli.wait()
        assert cli.gone(1)
    assert time.monotonic() - begin < 10
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("ValueError: the real cause")
    assert "rank 1 failed" in done.stderr


@pytest.mark.distributed
def test_cause_is_named_when_the_peers_only_lost_their_connection(root: Path) -> None:
    barrier = "import torch.distributed as dist\ndist.init_process_group('gloo')\n{}\ndist.barrier()\n"
    write_script(root, barrier.format("if rank == 1: raise KeyError('the real cause')"))
    done = launched(root, "--nproc", "2")
    assert (done.returncode, done.stderr.rstrip().splitlines()[-1]) == (1, "KeyError: 'the real cause'")
    write_script(root, barrier.format("if rank == 1: os.kill(os.getpid(), signal.SIGKILL)"))
    done = launched(root, "--nproc", "2")
    assert done.returncode == 1
    assert "rank 1 was killed by SIGKILL (by a user, or by the system when memory ran out)" in done.stderr.rstrip().splitlines()[-1]


@pytest.mark.distributed
def test_status_of_the_ranks_becomes_the_status_of_the_launcher(root: Path) -> None:
    write_script(root, "sys.exit(2)")
    assert launched(root, "--nproc", "2").returncode == 2


@pytest.mark.distributed
@pytest.mark.faults
def test_restarts_are_announced_with_their_cause_and_only_made_where_they_help(root: Path) -> None:
    first = "os.environ['TORCHELASTIC_RESTART_COUNT'] == '0'"
    dies = f"if rank == 1 and {first}: raise OSError('the cable fell out')\n"
    write_script(root, f"{dies}time.sleep(60 if {first} else 0)\n")
    done = run_cli(command(root, "--nproc", "2", "--max_restarts", "2"), timeout=120)
    assert done.returncode == 0, done.stderr
    told = "rank 1 failed with exit status 1: OSError: the cable fell out\nRestart 1 of 2: all processes, from the last checkpoint.\n"
    assert done.stderr.endswith(told)
    ranks = [report["rank"] for report in reports(done)]
    assert ranks in (["0", "0", "1", "1"], ["0", "1", "1"]), "the first rank 0 may be stopped before it reports"
    write_script(root, "time.sleep(60 * rank)\nsys.exit(2)")
    wrong = launched(root, "--nproc", "2", "--max-restarts", "3")
    assert (wrong.returncode, "Restart" in wrong.stderr) == (2, False), "another attempt would not mend the command"


@pytest.mark.distributed
def test_launcher_pytorch_with_a_number_starts_processes_as_torchrun_does(root: Path) -> None:
    done = launched(root, "--launcher", "pytorch", "--nproc", "1")
    assert (done.returncode, [(report["rank"], report["world"]) for report in reports(done)]) == (0, [("0", "1")]), done.stderr


@pytest.mark.parametrize(
    ("codes", "first", "expected"),
    [
        ({0: 143, 1: 143}, [0, 1], 143),
        ({0: -signal.SIGTERM, 1: 143}, [1], 143),
        ({0: 0, 1: 3}, [1], 1),
        ({0: -signal.SIGABRT, 1: -signal.SIGSEGV}, [0, 1], 1),
    ],
)
def test_status_after_a_failure(codes: dict[int, int | None], first: list[int], expected: int) -> None:
    from pet.engine.elastic import Ranks, status_after_failure

    assert status_after_failure(Ranks(codes, first)) == expected


@pytest.mark.parametrize(
    ("codes", "expected"),
    [({0: 143, 1: 143}, 143), ({0: 143, 1: -15}, 143), ({0: 0, 1: 0}, 0), ({0: 143, 1: 1}, 1), ({0: 143, 1: -9}, 1), ({}, 143)],
)
def test_status_after_a_signal(codes: dict[int, int | None], expected: int) -> None:
    from pet.engine.elastic import Ranks, status_after_signal

    assert status_after_signal(Ranks(codes), signal.SIGTERM) == expected


@pytest.mark.distributed
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signal_reaches_every_rank_and_the_status_tells_it(root: Path, number: signal.Signals) -> None:
    write_script(
        root,
        "def stop(number, frame):\n    time.sleep(rank)\n    print('saved', rank, flush=True)\n    sys.exit(128 + number)\n"
        f"signal.signal({int(number)}, stop)\nprint('ready', rank, flush=True)\ntime.sleep(300)\n",
    )
    with start(root, "--nproc", "2") as cli:
        cli.wait_for("ready 0")
        cli.wait_for("ready 1")
        cli.process.send_signal(number)
        done = cli.wait(20)
        assert cli.gone()
    assert done.returncode == 128 + number
    assert "saved 0" in done.stdout
    assert "saved 1" in done.stdout


@pytest.mark.distributed
@pytest.mark.faults
def test_rank_that_does_not_leave_is_killed_after_the_grace_period(root: Path) -> None:
    write_script(root, "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('ready', rank, flush=True)\ntime.sleep(300)\n")
    with start(root, "--nproc", "2", "--grace-period", "1") as cli:
        cli.wait_for("ready 0")
        cli.wait_for("ready 1")
        cli.process.terminate()
        done = cli.wait(15)
        assert cli.gone(1)
    assert done.returncode == 1
    assert "did not leave in time and was killed" in done.stderr


@pytest.mark.distributed
@pytest.mark.faults
def test_no_process_survives_a_launcher_that_was_killed(root: Path) -> None:
    write_script(root, "print('ready', rank, flush=True)\ntime.sleep(300)\n")
    with start(root, "--nproc", "2") as cli:
        cli.wait_for("ready 0")
        cli.process.kill()
        assert cli.gone(10)
