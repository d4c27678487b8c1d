"""The parser of every command but train, which is Hydra's."""

from __future__ import annotations

import argparse
import re
from typing import NoReturn

from adaptkit.config.overrides import known_keys
from adaptkit.config.suggest import of_flag
from adaptkit.errors import ConfigError


class Parser(argparse.ArgumentParser):
    """A parser that says what is wrong as every other mistake is said."""

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError instead of printing how the command is used."""
        flag = re.match(r"unrecognized arguments: (-\S+) ?(\S*)", message)
        if flag and flag[1] in ("-m", "--multirun"):
            message = f"{flag[1]}: adaptkit train alone runs several jobs"
        elif flag:
            word, following = flag.groups()
            message = of_flag(word, following, known_keys([]), list(self._option_string_actions))
        raise ConfigError(f"{message.rstrip('.')}. {self.prog} --help says more.")


def command(name: str, text: str) -> Parser:
    """Return the empty parser of `adaptkit NAME`."""
    return Parser(prog=f"adaptkit {name}", description=text)
