"""A GPU in the interpreter: runs kernels written in the words of `language` and finds their faults."""

from .device import SimulatedDevice
from .machine import Machine
from .memory import Memory, SimulationError

__all__ = ["Machine", "Memory", "SimulatedDevice", "SimulationError"]
