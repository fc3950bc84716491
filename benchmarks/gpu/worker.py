"""A helper process: ``python -m benchmarks.gpu.worker``."""

from __future__ import annotations

import importlib
import traceback
from typing import Any

from benchmarks.gpu.helpers import Failed, Skipped, main_loop

__all__ = ["SIDES", "call"]

SIDES = {
    "checks": "benchmarks.gpu.checks",
    "questions": "benchmarks.gpu.questions",
    "fastbp": "benchmarks.gpu.fastbp_side",
    "torch": "benchmarks.gpu.peers_torch",
    "jax": "benchmarks.gpu.peers_jax",
    "prepare": "benchmarks.gpu.prepare",
}


def call(request: dict[str, Any]) -> dict[str, Any]:
    """The answer to a request: a function's result, or why there is none."""
    try:
        side = importlib.import_module(SIDES[request["side"]])
        result: dict[str, Any] = side.COMMANDS[request["command"]](**request["arguments"])
        return result
    except Failed as error:
        return {"failed": str(error)}
    except Skipped as error:
        return {"skipped": str(error)}
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(("fastbp", "benchmarks")):
            return {"error": str(error)}
        return {"skipped": f"{error.name} is not installed"}
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    main_loop(call)
