"""An emulated device at the end of a serial line, which is a pty; a subclass makes the model."""

from __future__ import annotations

import os
import pty
import select
import tty

from devices.mock.device_rig import DeviceRig


class PtyRig(DeviceRig):
    """The pty of a `DeviceRig`; what is plugged out stays out."""

    def _open_line(self) -> str:
        """Get hold of the line; returns what goes into ``device.port``."""
        # The process keeps its own end of the host's side open: a host that closes then never looks like a
        # hang-up.
        self._master, self._slave = pty.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self._poll.register(self._master, select.POLLIN)
        return os.ttyname(self._slave)

    def _close_line(self) -> None:
        self._poll.unregister(self._master)
        os.close(self._master)
        os.close(self._slave)

    def _read_host(self, ready: list[int]) -> bytes:
        if self._master not in ready:
            return b""
        try:
            return os.read(self._master, 65_536)
        except BlockingIOError:
            return b""

    def _write_host(self) -> None:
        fresh = self._model.take_output()
        if not self._plugged:
            return
        if not self._unsent:
            self._unsent = fresh
        # else: nobody reads; what is new is lost like on a real line, but the frame under way is finished.
        if self._unsent:
            try:
                self._unsent = self._unsent[os.write(self._master, self._unsent) :]
            except BlockingIOError:
                return
