"""What a command leaves for the next one: a few values by name, in a file for this user only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clawnet.cli.places import write_private
from clawnet.core.errors import BadConfiguration


class Remembered:
    """One JSON object in a file, which is there as long as there is something in it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> dict[str, Any]:
        """Nothing if there is no file, or none of ours. Raises BadConfiguration."""
        try:
            value = json.loads(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise BadConfiguration(
                f"{self._path} cannot be read ({error.strerror}).", next="Check its owner and mode."
            ) from None
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}

    def save(self, values: Mapping[str, Any]) -> None:
        """Keep these in place of what was there. Raises BadConfiguration."""
        if values:
            write_private(self._path, json.dumps(values, indent=2))
        else:
            self._path.unlink(missing_ok=True)
