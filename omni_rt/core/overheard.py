"""placeholder until merge"""

from typing import Literal

Overheard = Literal["nothing", "backchannel", "stop", "words"]
