"""Logs as one JSON object a line, for machines that read them: time, level, event, and what the event is about."""

import json
import logging
import time

_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}  # what every record has


class JsonFormatter(logging.Formatter):
    """A record as JSON: {"time", "level", "logger", "event", ...}; `extra` of the call stands beside them."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; an exception's traceback stands in "traceback"."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {"time": f"{seconds}.{int(record.msecs):03d}Z", "level": record.levelname, "logger": record.name}
        line |= {"event": record.getMessage()} | {name: value for name, value in vars(record).items() if name not in _PLAIN}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """The same for people: time, level, event, then name=value."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The line with what the event is about."""
        about = " ".join(f"{name}={_one_line(value)}" for name, value in vars(record).items() if name not in _PLAIN)
        return f"{super().formatMessage(record)}{'  ' + about if about else ''}"


def _one_line(value: object) -> str:
    """A stranger's text must not begin a line of its own, nor move a terminal's cursor."""
    text = str(value)
    return text if text.isprintable() else json.dumps(text)


FORMATTERS = {"text": TextFormatter, "json": JsonFormatter}


def start(form: str, level: int = logging.INFO) -> None:
    """Log to standard error in a form of FORMATTERS."""
    handler = logging.StreamHandler()
    handler.setFormatter(FORMATTERS[form]())
    logging.basicConfig(level=level, handlers=[handler], force=True)
