"""Writing files of runs while disks fill up, calls fail and writers are killed."""

import errno
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from killing import ROOT, found, kill_writers, number_of, state, writer

import fastbp as fb
from fastbp import files
from fastbp.checkpoint import read_run_file, write_run_file
from fastbp.files import previous_of, write_whole

SIZE = 4000
BOTH = ["run.ckpt", "run.ckpt.previous"]


@pytest.fixture
def path(tmp_path):
    """Of a run that was written twice."""
    path = tmp_path / "run.ckpt"
    for number in (0, 1):
        write_run_file(path, state(number, SIZE))
    return path


def test_writers_that_are_killed_at_random_moments(tmp_path):
    outcomes, files = kill_writers(tmp_path / "run.ckpt", kills=30)
    assert outcomes["killed"] == sum(files.values()) == 30
    for wrong in ("unreadable", "lost", "leftovers that stay"):
        assert outcomes[wrong] == 0
    assert any("partial" in left for left in files)  # some were in the middle of it


def test_writers_that_die_before_and_after_every_call(tmp_path):
    with writer(tmp_path / "run.ckpt", SIZE, "every") as child:
        output = child.stdout.read()
    assert child.returncode == 0
    assert int(output) >= 20


def failing(monkeypatch, call, number, code):
    """Make the so manieth call of a function of `os` fail; say whether it came to that."""
    original = getattr(os, call)
    calls = []

    def fails(*arguments, **keywords):
        calls.append(arguments)
        if len(calls) == number:
            raise OSError(code, os.strerror(code), "a name that the user does not know")
        return original(*arguments, **keywords)

    monkeypatch.setattr(os, call, fails)
    return lambda: len(calls) >= number


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EIO], ids=errno.errorcode.get)
@pytest.mark.parametrize("call", ["open", "write", "fsync", "link", "replace"])
def test_every_call_that_fails_leaves_the_old_file(call, code, path, monkeypatch):
    reached = 0
    for number in range(1, 20):
        current, previous = found(path)
        with monkeypatch.context() as patched:
            has_failed = failing(patched, call, number, code)
            try:
                write_run_file(path, state(current + 1, SIZE))
                error = None
            except OSError as caught:
                error = caught
        if not has_failed():
            break
        reached += 1
        # The folder is opened for its flush, the last of all: one that may not be read has none.
        is_folder = (call, number) == ("fsync", 2)
        is_no_error = (call, number, code) == ("open", 1, errno.EACCES)
        assert found(path)[0] == current + (is_folder or is_no_error)
        assert found(path)[1] in (previous, current)
        assert sorted(os.listdir(path.parent)) == BOTH
        if not is_no_error:
            assert (error.errno, error.filename) == (code, str(path))
    assert error is None
    assert reached == {"open": 2, "write": 1, "fsync": 2, "link": 1, "replace": 2}[call]


def test_what_is_written_in_parts_is_written_whole(path, monkeypatch):
    original = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: original(descriptor, data[:777]))
    write_run_file(path, state(2, SIZE))
    assert found(path) == [2, 1]


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP], ids=errno.errorcode.get)
def test_where_there_are_no_links_the_file_before_is_a_copy(code, path, monkeypatch):
    flushed = []
    original = os.fsync
    with monkeypatch.context() as patched:
        failing(patched, "link", 1, code)
        patched.setattr(os, "fsync", lambda d: (flushed.append(os.fstat(d).st_size), original(d)))
        write_run_file(path, state(2, SIZE))
    assert found(path) == [2, 1]
    assert os.stat(path).st_nlink == os.stat(previous_of(path)).st_nlink == 1
    assert flushed[1] == os.path.getsize(previous_of(path))
    for call, number in (("fsync", 2), ("replace", 1)):  # while it is copied
        with monkeypatch.context() as patched:
            failing(patched, "link", 1, code)
            failing(patched, call, number, errno.ENOSPC)
            with pytest.raises(OSError, match="No space left") as error:
                write_run_file(path, state(3, SIZE))
        assert error.value.filename == str(path)
        assert found(path) == [2, 1]
        assert sorted(os.listdir(path.parent)) == BOTH


def test_a_file_system_without_locks_and_flushes_of_folders(path, monkeypatch):
    leftover = path.with_name(".run.ckpt.0123456789abcdef.partial")
    leftover.touch()

    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", no_locks)
    failing(monkeypatch, "fsync", 2, errno.EINVAL)
    write_run_file(path, state(2, SIZE))
    assert found(path) == [2, 1]
    assert leftover.exists()  # nobody can say whether its writer lives


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(path):
    token = "0123456789abcdef"
    dead = [
        f".run.ckpt.{token}.partial",
        f".run.ckpt.{token}.link",
        ".run.ckpt." + "f" * 16 + ".link",
    ]
    others = [
        ".run.ckpt.notes",
        f".run.ckpt.{token}",
        f".other.{token}.partial",
        f"run.ckpt.{token}.partial",
    ]
    others += [f".run.ckpt.{token}0.partial", f".runxckpt.{token}.partial"]
    for name in (*dead, *others):
        path.with_name(name).write_bytes(b"x")
    with files.temporary_beside(str(path)) as (_, stem):
        os.link(path, stem + files.LINK)
        write_run_file(path, state(2, SIZE))
        living = [os.path.basename(stem) + ending for ending in (files.PARTIAL, files.LINK)]
        assert sorted(os.listdir(path.parent)) == sorted([*BOTH, *others, *living])
    write_run_file(path, state(3, SIZE))
    assert sorted(os.listdir(path.parent)) == sorted([*BOTH, *others])


def test_writers_of_one_file_at_once_do_not_disturb_one_another(path):
    errors = []

    def write(number):
        try:
            for _ in range(20):
                write_run_file(path, state(number, SIZE))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in (5, 6, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    for name in (path, previous_of(path)):
        assert number_of(read_run_file(name)) in (5, 6, 7)
    assert sorted(os.listdir(path.parent)) == BOTH


def test_ctrl_c_leaves_the_old_file(path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    for call in ("write", "fsync", "replace"):
        with monkeypatch.context() as patched:
            patched.setattr(os, call, interrupted)
            with pytest.raises(KeyboardInterrupt):
                write_run_file(path, state(2, SIZE))
        assert found(path) == [1, 0]
        assert sorted(os.listdir(path.parent)) == BOTH


def test_a_link_stays_a_link(tmp_path):
    """The target is replaced, and its previous state lies beside it."""
    (tmp_path / "disk").mkdir()
    link, target = tmp_path / "run.ckpt", tmp_path / "disk" / "long.ckpt"
    link.symlink_to(os.path.join("disk", "long.ckpt"))
    for number in (0, 1):  # at first it points to nothing
        write_run_file(link, state(number, SIZE))
    assert link.is_symlink()
    assert found(link) == found(target) == [1, 0]
    assert sorted(os.listdir(target.parent)) == ["long.ckpt", "long.ckpt.previous"]
    assert sorted(os.listdir(tmp_path)) == ["disk", "run.ckpt"]
    target.unlink()
    assert number_of(read_run_file(link)) == 0
    fb.Model(fb.mlp(2, 1)).save(link)
    assert link.is_symlink()
    assert fb.load(target).network == fb.mlp(2, 1)
    circle = tmp_path / "circle"
    circle.symlink_to("circle")
    with pytest.raises(OSError, match="symbolic links") as error:
        write_run_file(circle, state(0, SIZE))
    assert (error.value.errno, error.value.filename) == (errno.ELOOP, str(circle))


def test_what_is_no_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="Invalid argument") as error:
        write_whole(tmp_path / "pipe", b"x")
    assert error.value.filename == str(tmp_path / "pipe")
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)
    (tmp_path / "file").touch()
    for name, kind in {
        "": IsADirectoryError,  # the current folder
        str(tmp_path): IsADirectoryError,
        str(tmp_path / "no" / "folder"): FileNotFoundError,
        str(tmp_path / "file" / "run"): NotADirectoryError,
    }.items():
        with pytest.raises(kind) as error:
            write_whole(name, b"x")
        assert error.value.filename == name
    assert sorted(os.listdir(tmp_path)) == ["file", "pipe"]


def test_models_too_are_flushed_with_their_folder(tmp_path, monkeypatch):
    kinds = []
    original = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda d: (kinds.append(stat.S_ISDIR(os.fstat(d).st_mode)), original(d))
    )
    fb.Model(fb.mlp(2, 1)).save(tmp_path / "net")
    assert kinds == [False, True]
    assert os.listdir(tmp_path) == ["net"]  # models keep nothing of before


def run_child(program, *arguments, before=()):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    command = [*before, sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=60
    )


FULL = """
import errno, os, sys
from killing import found, state, write_run_file
path, code = sys.argv[1], int(sys.argv[2])
for number in (0, 1):
    write_run_file(path, state(number, 20_000))
try:
    write_run_file(path, state(2, 400_000))
except OSError as error:
    assert (error.errno, error.filename) == (code, path), error
else:
    raise AssertionError("there was room")
assert found(path) == [1, 0]
assert sorted(os.listdir(os.path.dirname(path))) == ["run.ckpt", "run.ckpt.previous"]
write_run_file(path, state(2, 20_000))
assert found(path) == [2, 1]
print("done")
"""


def test_a_file_that_becomes_too_long_for_the_system(tmp_path):
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000,) * 2)\n{FULL}"
    done = run_child(limited, tmp_path / "run.ckpt", errno.EFBIG)
    assert done.stdout == "done\n", done.stderr


NAMESPACE = ("unshare", "--map-root-user", "--mount")


def test_a_file_system_that_is_full(tmp_path):
    """A small one in memory, which any user may mount in a namespace of their own."""
    if subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system gives no mount namespaces to its users")
    mount = f'mount -t tmpfs -o size=200k none "{tmp_path}" && exec "$@"'
    before = [*NAMESPACE, "sh", "-c", mount, "sh"]
    done = run_child(FULL, tmp_path / "run.ckpt", errno.ENOSPC, before=before)
    assert done.stdout == "done\n", done.stderr


READ_ONLY = """
import os, sys
from killing import found
from fastbp.files import write_whole
path = sys.argv[1]
content = open(path, "rb").read()
before = found(path)
if os.geteuid() == 0:
    os.seteuid(65534)
try:
    write_whole(path, content, keep_previous=True)
except PermissionError as error:
    assert error.filename == path
    print("refused", found(path) == before, sorted(os.listdir(os.path.dirname(path))))
"""


def test_a_folder_that_may_not_be_written():
    """Whoever may write everywhere gives that up first."""
    folder = Path(tempfile.mkdtemp())
    try:
        path = folder / "run.ckpt"
        for number in (0, 1):
            write_run_file(path, state(number, SIZE))
        folder.chmod(0o555)
        done = run_child(READ_ONLY, path)
        assert done.stdout == f"refused True {BOTH}\n", done.stderr
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)
