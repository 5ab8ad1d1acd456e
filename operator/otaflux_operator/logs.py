"""Log lines: ours by structlog, and those of libraries in the same format."""

import logging
import sys
from types import TracebackType

import structlog

from otaflux_policy.lines import one_line

_LENGTH = 500


def log_to_stderr(level: str) -> None:
    """Lines of at least this level: readable at a terminal, else one JSON object each."""
    number = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
    processors: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    if sys.stderr.isatty():
        processors += [one_line, structlog.dev.ConsoleRenderer()]
    else:
        processors.append(structlog.processors.JSONRenderer())
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[Forwarding()])


class Forwarding(logging.Handler):
    """Takes lines of the standard library's loggers to structlog, shortened.

    Of an error only its type and place are told: its text may hold anything.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one line."""
        fields = {"logger": record.name}
        if record.exc_info is not None and (error := record.exc_info[1]) is not None:
            fields |= {"error": type(error).__name__, "where": place(error.__traceback__)}
        structlog.get_logger(record.name).log(
            record.levelno, record.getMessage()[:_LENGTH], **fields
        )


def place(trace: TracebackType | None) -> str:
    """Where an error was raised: file, line and function."""
    found = ""
    while trace is not None:
        code = trace.tb_frame.f_code
        found, trace = f"{code.co_filename}:{trace.tb_lineno} in {code.co_name}", trace.tb_next
    return found
