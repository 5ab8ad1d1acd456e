"""How the server logs: structlog, text on a terminal and JSON elsewhere, to stderr."""

import logging
import sys

import structlog

from otaflux_policy.lines import one_line
from otaflux_server.settings import Settings


def configure(settings: Settings) -> None:
    """Sets up structlog, and the standard library's loggers of uvicorn and the like, once."""
    level = getattr(logging, settings.log_level.upper())
    text = settings.log_format == "text" or (settings.log_format == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    rendering: list[structlog.typing.Processor] = [structlog.processors.format_exc_info]
    if text:
        rendering += [one_line, structlog.dev.ConsoleRenderer()]
    else:
        rendering.append(structlog.processors.JSONRenderer())
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *rendering,
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)
