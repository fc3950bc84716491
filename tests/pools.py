"""Pools of processes that train, and Numba's own threads beside ours."""

import concurrent.futures
import multiprocessing
import os
import pickle

import numpy as np
from concurrency import Beside, check, data, drive, expected, in_child, scenario, trained

import fastbp as fb
from fastbp.backends.cpu import workers


def compared(wanted):
    """For a child of any kind: whether its bits are those of the parent."""
    drive(True)
    return trained() == wanted


def ran_in_parallel(_):
    """For a child of any kind: whether it has workers of its own."""
    return compared(trained()) and workers.POOL.threads.count == 2


def sent(model):
    """For a child of any kind: train what was sent, and send it back."""
    trained(model=model)
    return model


def nested(method, wanted):
    """For a child of any kind: a pool of its own."""
    with multiprocessing.get_context(method).Pool(1) as pool:
        return pool.apply(compared, (wanted,)) and compared(wanted)


def processes(method):
    context = multiprocessing.get_context(method)
    wanted = expected()
    drive(True)
    assert compared(wanted)
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        assert all(pool.map(compared, [wanted] * 3))
        assert all(pool.map(ran_in_parallel, range(3)))
        model = fb.Model(fb.mlp(3, 16, 1, activation="tanh"))
        model.predict(data()[0])
        back = pool.submit(sent, model).result()
        assert back.parameters.tobytes() == wanted
        assert np.array_equal(
            back.predict(data()[0]), pickle.loads(pickle.dumps(back)).predict(data()[0])
        )
        assert pool.submit(nested, method, wanted).result()
    with Beside(lambda began: (trained(), began.set())):
        process = context.Process(target=compared, args=(wanted,))
        process.start()
        process.join()
        assert process.exitcode == 0
    assert trained(model=back) != wanted


@scenario
def pools_by_fork():
    processes("fork")


@scenario
def pools_by_forkserver():
    processes("forkserver")


@scenario
def pools_by_spawn():
    processes("spawn")


@scenario
def joblib_and_loky():
    from joblib import Parallel, delayed

    wanted = expected()
    for backend in ("loky", "multiprocessing", "threading"):
        found = Parallel(n_jobs=2, backend=backend)(delayed(compared)(wanted) for _ in range(4))
        assert all(found), backend
    model = fb.Model(fb.mlp(3, 16, 1, activation="tanh"))
    (back,) = Parallel(n_jobs=2)([delayed(sent)(model)])
    assert back.parameters.tobytes() == wanted


# Numba's own threads beside ours.


@scenario
def parallel_loops_of_a_user():
    """A user's prange in the same process; the layer is that of NUMBA_THREADING_LAYER."""
    import numba

    @numba.njit(parallel=True)
    def squares(x):
        out = np.empty_like(x)
        for i in numba.prange(x.size):
            out[i] = x[i] * x[i]
        return out

    x = np.arange(1000.0)

    def both():
        assert np.array_equal(squares(x), x * x)
        check()
        assert np.array_equal(squares(x), x * x)

    wanted = expected()
    both()
    layer = numba.threading_layer()
    assert layer == os.environ["NUMBA_THREADING_LAYER"]
    in_child(check)
    if layer == "workqueue":  # the others do not survive a fork, or say that they do not
        in_child(both)
    with Beside(lambda began: (check(), began.set())):
        for _ in range(200):
            assert np.array_equal(squares(x), x * x)
    inside = []
    assert trained(callbacks=[lambda row, model: inside.append(squares(x)[-1])]) == expected()
    assert inside == [x[-1] ** 2] * 3
    assert compared(wanted)


@scenario
def bits():
    """Print the bits of a training in parallel and of one that is serial."""
    for parallel in (True, False):
        drive(parallel)
        print(trained().hex())
