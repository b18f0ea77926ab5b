"""Why a client command failed, as an exit status and a sentence."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any

from omni_rt.client.dialogue import NoAnswer
from omni_rt.client.speech import UnreadableFile
from omni_rt.models.fetch import FetchError
from omni_rt.transport.caller import CallError

BAD_INPUT, UNREACHABLE, REFUSED, NO_ANSWER, CUT_OFF = 2, 3, 4, 5, 6

EPILOG = """\
exit status: 0 done, 2 a file or option cannot be used, 3 the server was not reached, 4 the server refused the call
(busy, for one), 5 no answer came, 6 the call was cut off"""

_CALL_STATUS = {"unreachable": UNREACHABLE, "no_connection": UNREACHABLE, "closed": CUT_OFF}


def run_client(work: Coroutine[Any, Any, int]) -> int:
    """Run a client and give its exit status; what stopped it goes to stderr."""
    try:
        return asyncio.run(work)
    except (UnreadableFile, FetchError) as error:
        return _say(error, BAD_INPUT)
    except NoAnswer as error:
        return _say(error, NO_ANSWER)
    except CallError as error:
        status = _CALL_STATUS.get(error.code, REFUSED)
        return _say(f"the server refused the call ({error.code}): {error}" if status == REFUSED else error, status)


def _say(what: object, status: int) -> int:
    print(f"omni-rt: {what}", file=sys.stderr)
    return status
