"""Signals by name and number, for stopping a container as its pod or image asks.

The numbers are Linux's on every architecture but alpha, mips, parisc and sparc, which Kubernetes does not run on.

Source: signal(7); CRI ContainerConfig.stop_signal; OCI image-spec config.md "StopSignal".
"""

from __future__ import annotations

from typing import Final

from ocid.domain.configs import ContainerConfig
from ocid.domain.image_config import ImageConfig
from ocid.errors import InvalidRequest

SIGKILL: Final = 9
SIGTERM: Final = 15
SIGRTMIN: Final = 34  # as the C libraries have it: they keep 32 and 33 for themselves
SIGRTMAX: Final = 64
LIBRARY: Final = (32, 33)  # of the C libraries' threads; they have no names

_IN_ORDER: Final = (  # from 1 on, two names of one signal side by side
    "HUP|INT|QUIT|ILL|TRAP|ABRT IOT|BUS|FPE|KILL|USR1|SEGV|USR2|PIPE|ALRM|TERM|STKFLT|CHLD CLD|CONT|STOP|TSTP|"
    "TTIN|TTOU|URG|XCPU|XFSZ|VTALRM|PROF|WINCH|IO POLL|PWR|SYS"
)
NUMBER_OF: Final = {
    f"SIG{name}": number for number, names in enumerate(_IN_ORDER.split("|"), start=1) for name in names.split()
}


def signal_number(text: str) -> int:
    """The number of a signal spelled "SIGTERM", "term", "15", "SIGRTMIN+3", "RTMAX-1" or, as in CRI, "SIGRTMINPLUS3".

    Raises:
        InvalidRequest: Linux has no such signal.
    """
    name = text.strip().upper()
    if _small(name) and 1 <= int(name) <= SIGRTMAX and int(name) not in LIBRARY:
        return int(name)
    name = name if name.startswith("SIG") else f"SIG{name}"
    name = name.replace("PLUS", "+").replace("MINUS", "-")
    if name in NUMBER_OF:
        return NUMBER_OF[name]
    for base, sign, number in (("SIGRTMIN", "+", SIGRTMIN), ("SIGRTMAX", "-", SIGRTMAX)):
        rest = name.removeprefix(base)
        offset = rest[1:] if rest.startswith(sign) else "0" if rest == "" else ""
        if rest != name and _small(offset) and int(offset) <= SIGRTMAX - SIGRTMIN:
            return number + int(offset) if sign == "+" else number - int(offset)
    raise InvalidRequest(f"signal {text[:32]!r} is unknown: wanted a name such as 'SIGTERM' or a number up to 64")


def stop_signal(config: ContainerConfig, image: ImageConfig) -> int:
    """The signal that asks a container to stop: the config's, else the image's, else SIGTERM.

    An image's misspelt signal counts as none, for a container must be stoppable.
    """
    if config.stop_signal:
        return signal_number(config.stop_signal)
    try:
        return signal_number(image.stop_signal) if image.stop_signal else SIGTERM
    except InvalidRequest:
        return SIGTERM


def _small(text: str) -> bool:
    """Whether *text* is one or two ASCII digits."""
    return text.isascii() and text.isdigit() and len(text) <= 2


def signal_name(number: int) -> str:
    """The name of a signal: "SIGTERM", "SIGRTMIN", "SIGRTMIN+3", "SIGRTMAX-14"."""
    if number >= SIGRTMIN:
        below = number < SIGRTMIN + 16  # CRI and kill(1) go up to SIGRTMIN+15 and down to SIGRTMAX-14
        base, offset = ("SIGRTMIN", number - SIGRTMIN) if below else ("SIGRTMAX", number - SIGRTMAX)
        return f"{base}{offset:+d}" if offset else base
    return next(name for name, known in NUMBER_OF.items() if known == number)
