"""Start a program of Ray by the fork server that listens at a socket, or alone where none answers.

    python -IS fork_client.py SOCKET PROGRAM ARGUMENT...

Run by its path, with nothing but the standard library: it has to be over in an instant.
"""

import json
import os
import socket
import sys

# Ray's program that prepares a process for an environment of its own, and what it is given for that.
SETUP = "setup_worker.py"
CONTEXT, LANGUAGE = "--serialized-runtime-env-context=", "--language="
READ_LATE = ("RAY_", "TUNE_", "PL_")  # variables of what the server does not import


def without_setup(arguments: list[str]) -> list[str] | None:
    """The program that a command ends in, once the variables that it asks for are set.

    Returns:
        None: it asks for more than a few variables that can be set after a fork.
    """
    if os.path.basename(arguments[0]) != SETUP:
        return arguments
    program = [part for part in arguments[1:] if not part.startswith((CONTEXT, LANGUAGE))]
    contexts = [part.removeprefix(CONTEXT) for part in arguments if part.startswith(CONTEXT)]
    if not contexts:
        return program
    context = json.loads(contexts[0])
    variables, python = context.pop("env_vars"), context.pop("py_executable")
    plain = all(name.startswith(READ_LATE) and "$" not in value for name, value in variables.items())
    if any(context.values()) or not plain or os.path.realpath(python) != os.path.realpath(sys.executable):
        return None
    os.environ.update(variables)
    return program


def is_forked(address: str, arguments: list[str]) -> bool:
    """Whether the server has forked a process for a command; it has this one's files and environment."""
    request = {
        "arguments": arguments,
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "niceness": os.nice(0),
        "leads_group": os.getpgrp() == os.getpid(),
    }
    with socket.socket(socket.AF_UNIX) as server:
        try:
            server.connect(address)
            socket.send_fds(server, [b"\0"], [0, 1, 2])
            server.sendall(json.dumps(request).encode())
            server.shutdown(socket.SHUT_WR)
            return server.recv(1) == b"\1"
        except OSError:
            return False


if __name__ == "__main__":
    address, arguments = sys.argv[1], sys.argv[2:]
    program = without_setup(arguments)
    if program is None or not is_forked(address, program):
        os.execv(sys.executable, [sys.executable, *(program or arguments)])  # nosec B606  # Ray's own command
