"""What threads need besides arithmetic: atomic numbers, barriers, jobs, floating-point modes."""

from __future__ import annotations

import platform
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, register_jitable

from fastbp.backends.cpu.intrinsics import as_pointer, call_kernel, offset
from fastbp.backends.cpu.job import Job, Mode, Team

__all__ = ["FACTORIES", "arrive", "await_all", "await_release", "release"]

# Made by this module for the table of the compiler.
FACTORIES = ("call_in_mode", "exchange_mode", "lead", "work")

FUNCTION, MODE, RESULT = int(Job.FUNCTION), int(Job.MODE), int(Job.RESULT)
FLUSH = int(Mode.FLUSH)
POSTED, JOB, WORKERS = int(Team.POSTED), int(Team.JOB), int(Team.WORKERS)
SLEEPERS, CALL = int(Team.SLEEPERS), int(Team.CALL)
MUTEX, CONDITION = int(Team.MUTEX), int(Team.CONDITION)
LOCK, UNLOCK = int(Team.LOCK), int(Team.UNLOCK)
WAIT, BROADCAST = int(Team.WAIT), int(Team.BROADCAST)
YIELD, NAP = int(Team.YIELD), int(Team.NAP)
RELEASED, ARRIVED, LINE = int(Team.RELEASED), int(Team.ARRIVED), int(Team.LINE)

# A thread that waits for another asks again so often before it offers its core to others, and so
# often more before it sleeps between looks. A pause takes 15 to 50 nanoseconds, a look after
# yielding less than a microsecond. Few looks, because two workers that share a core, as they do
# beside other programs, hand it over at every meeting: a step of 10-32-1 takes 6 microseconds there
# with 30 looks, and 60 with 1000.
SPINS = 30
YIELDS = 3000
# Between jobs, Python needs some tens of microseconds.
LOOKS_FOR_A_JOB = 1000
NAP_MICROSECONDS = 50

MACHINE = platform.machine().lower()
IS_X86 = MACHINE in {"x86_64", "amd64", "i386", "i686"}
IS_ARM = MACHINE in {"aarch64", "arm64"}
BYTE, I32, I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)


def declare(builder: Any, name: str, kind: Any) -> Any:
    """A function of LLVM's in the module under construction."""
    function = builder.module.globals.get(name)
    return ir.Function(builder.module, kind, name) if function is None else function


@intrinsic
def load_acquire(typing_context, base):
    """The number at a pointer, and all that its writer wrote before it."""

    def generate(context, builder, signature, arguments):
        return builder.load_atomic(arguments[0], "acquire", 8)

    return types.int64(base), generate


@intrinsic
def store_release(typing_context, base, value):
    """Write a number, after all that this thread wrote before."""

    def generate(context, builder, signature, arguments):
        builder.store_atomic(arguments[1], arguments[0], "release", 8)
        return context.get_dummy_value()

    return types.void(base, types.int64), generate


@intrinsic
def pause(typing_context):
    """Tell the processor that this is a loop that waits."""

    def generate(context, builder, signature, arguments):
        if IS_X86:
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(declare(builder, "llvm.x86.sse2.pause", kind), [])
        elif IS_ARM:
            kind = ir.FunctionType(ir.VoidType(), [I32])
            builder.call(declare(builder, "llvm.aarch64.hint", kind), [I32(1)])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def call_library(typing_context, address, first, second, third):
    """Call a function of the C library by address; what it returns is dropped.

    Functions of fewer arguments never look at the registers of the rest.
    """

    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(I32, [I64, I64, I64])
        function = builder.inttoptr(arguments[0], kind.as_pointer())
        builder.call(function, arguments[1:])
        return context.get_dummy_value()

    integer = types.int64
    return types.void(integer, integer, integer, integer), generate


@intrinsic
def address_of(typing_context, base):
    """A pointer as a number."""

    def generate(context, builder, signature, arguments):
        return builder.ptrtoint(arguments[0], I64)

    return types.int64(base), generate


# The mode of floating-point arithmetic: the control register of this thread.

X86_DEFAULT, X86_FLUSH = 0x1F80, 0x8040  # no exception traps, rounding to nearest; FTZ and DAZ
ARM_FLUSH = 1 << 24  # FZ


@intrinsic
def get_mode(typing_context):
    """The register that says how this thread rounds and treats subnormal numbers."""

    def generate(context, builder, signature, arguments):
        if IS_X86:
            place = cgutils.alloca_once(builder, I32)
            kind = ir.FunctionType(ir.VoidType(), [BYTE.as_pointer()])
            function = declare(builder, "llvm.x86.sse.stmxcsr", kind)
            builder.call(function, [builder.bitcast(place, BYTE.as_pointer())])
            return builder.zext(builder.load(place), I64)
        if IS_ARM:
            function = declare(builder, "llvm.aarch64.get.fpcr", ir.FunctionType(I64, []))
            return builder.call(function, [])
        return I64(0)

    return types.int64(), generate


@intrinsic
def set_mode(typing_context, mode):
    """Set that register."""

    def generate(context, builder, signature, arguments):
        if IS_X86:
            place = cgutils.alloca_once(builder, I32)
            builder.store(builder.trunc(arguments[0], I32), place)
            kind = ir.FunctionType(ir.VoidType(), [BYTE.as_pointer()])
            function = declare(builder, "llvm.x86.sse.ldmxcsr", kind)
            builder.call(function, [builder.bitcast(place, BYTE.as_pointer())])
        elif IS_ARM:
            kind = ir.FunctionType(ir.VoidType(), [I64])
            builder.call(declare(builder, "llvm.aarch64.set.fpcr", kind), [arguments[0]])
        return context.get_dummy_value()

    return types.void(types.int64), generate


STANDARD = X86_DEFAULT if IS_X86 else 0
FLUSHING = STANDARD | (X86_FLUSH if IS_X86 else ARM_FLUSH)


def call_in_mode(real):
    """Make ``call_in_mode``."""

    def call_in_mode(job, first, second):
        """Call a job's function in the job's floating-point mode; return its result.

        The calling thread's own mode has no influence, and is put back. The function is called by
        address, so that no arithmetic can move out of the mode when LLVM optimises.
        """
        before = get_mode()
        set_mode(FLUSHING if job[MODE] == FLUSH else STANDARD)
        call_kernel(job[FUNCTION], address_of(job), first, second)
        set_mode(before)
        return job[RESULT]

    return call_in_mode


def exchange_mode(real):
    """Make ``exchange_mode``."""

    def exchange_mode(unused, mode, unused_too):
        """Set this thread's mode, a negative one meaning the standard; return what it was."""
        before = get_mode()
        set_mode(STANDARD if mode < 0 else mode)
        return before

    return exchange_mode


# Barriers. Worker 0 leads: it waits until all have arrived, does what only one may do, and releases
# the others. Counts only grow during a job, so nothing is reset between two barriers.


@register_jitable
def wait_until(place, wanted, team):
    """Wait until a count has reached a number: spin, then yield, then sleep between looks."""
    looks = 0
    while load_acquire(place) < wanted:
        looks += 1
        if looks < SPINS:
            pause()
        elif looks < SPINS + YIELDS:
            call_library(team[YIELD], 0, 0, 0)
        else:
            call_library(team[NAP], NAP_MICROSECONDS, 0, 0)


@register_jitable
def arrive(team, worker, count):
    """Worker w > 0 has reached its barrier number `count`."""
    store_release(offset(team, ARRIVED + LINE * worker), count)


@register_jitable
def await_release(team, count):
    """Wait until worker 0 has opened barrier number `count`."""
    wait_until(offset(team, RELEASED), count, team)


@register_jitable
def await_all(team, workers, count):
    """Worker 0 waits until all others have reached barrier number `count`."""
    for worker in range(1, workers):
        wait_until(offset(team, ARRIVED + LINE * worker), count, team)


@register_jitable
def release(team, count):
    """Worker 0 opens barrier number `count`."""
    store_release(offset(team, RELEASED), count)


# Jobs.


def lead(real):
    """Make ``lead``."""

    def lead(team, job, workers):
        """Post a job for the other workers and do the share of worker 0; all are done at return."""
        store_release(offset(team, RELEASED), 0)
        for worker in range(1, workers):
            store_release(offset(team, ARRIVED + LINE * worker), 0)
        call_library(team[LOCK], team[MUTEX], 0, 0)
        team[JOB] = job
        team[WORKERS] = workers
        store_release(offset(team, POSTED), load_acquire(offset(team, POSTED)) + 1)
        if team[SLEEPERS] > 0:
            call_library(team[BROADCAST], team[CONDITION], 0, 0)
        call_library(team[UNLOCK], team[MUTEX], 0, 0)
        call_kernel(team[CALL], job, 0, workers)

    return lead


def work(real):
    """Make ``work``, what a worker thread runs."""

    def work(place, unused, unused_too):
        """Do a share of every job that is posted, until one comes for less than no workers.

        `place` holds the address of the team, the worker's number, the jobs posted so far, and
        where to begin: an address of sched_setaffinity, or 0, with the size of a mask of cores and
        the addresses of two masks, a core of the worker's own and all cores.
        """
        team, worker, seen = as_pointer(place[0], types.int64), place[1], place[2]
        if place[3] != 0:
            # Begun beside its maker on one core, it would stay there for tens of milliseconds:
            # two threads that wait for one another look busy to the scheduler.
            call_library(place[3], 0, place[4], place[5])
            call_library(place[3], 0, place[4], place[6])
        posted = offset(team, POSTED)
        workers = 0
        while workers >= 0:
            looks = 0
            while load_acquire(posted) == seen and looks < LOOKS_FOR_A_JOB:
                pause()
                looks += 1
            call_library(team[LOCK], team[MUTEX], 0, 0)
            while load_acquire(posted) == seen:
                team[SLEEPERS] += 1
                call_library(team[WAIT], team[CONDITION], team[MUTEX], 0)
                team[SLEEPERS] -= 1
            seen = load_acquire(posted)
            job, workers = team[JOB], team[WORKERS]
            call_library(team[UNLOCK], team[MUTEX], 0, 0)
            if worker < workers:
                call_kernel(team[CALL], job, worker, workers)
        return 0

    return work
