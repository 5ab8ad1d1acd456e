"""What a command says when it cannot do what it was asked for: one line, and what to do.

Exit codes: 0 done, 1 not done, 2 wrong usage, 3 a part is missing on this machine, 130 Ctrl-C.
"""

NOT_DONE = 1
WRONG_USAGE = 2
PART_MISSING = 3
INTERRUPTED = 130


class UserError(Exception):
    """Ends the command with `message` (and `hint`: what to do) on stderr, without a traceback."""

    def __init__(self, message: str, *, hint: str = "", exit_code: int = NOT_DONE) -> None:
        super().__init__(message)
        self.hint = hint
        self.exit_code = exit_code
