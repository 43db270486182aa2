"""How streams learn: the server's own way, and the ways that single streams were given."""

import threading
from collections.abc import Callable
from weakref import WeakValueDictionary

from tta_server.adapters import Adapter
from tta_server.adapters.base import check
from tta_server.guard.judge import Judge
from tta_server.models import Backbone, Reference
from tta_server.settings import AdapterSettings
from tta_server.streams.stream import Method
from tta_server.wanted import make_adapter


class Methods:
    """Make each method once: its first state and its guard are shared by all streams that use it.

    A method that no stream uses any more is gone.
    """

    def __init__(
        self,
        backbone: Backbone,
        reference: Reference | None,
        adapter: Adapter,
        guard: Callable[[Adapter], Judge],
    ) -> None:
        """Prepare the server's own method.

        Args:
            backbone: The network.
            reference: Its bundle, if there is one.
            adapter: How streams without settings of their own learn.
            guard: Makes the guard of an adapter.

        Raises:
            ValueError: If the adapter does not fit the network or the bundle.
        """
        self._backbone = backbone
        self._reference = reference
        self._guard = guard
        self._made: WeakValueDictionary[Adapter, Method] = WeakValueDictionary()
        self._making = threading.Lock()
        self.default = self._make(adapter, None)

    def __len__(self) -> int:
        """Return how many methods of streams' own are in use."""
        return len(self._made)

    def prepare(self, section: AdapterSettings) -> Method:
        """Return the method of streams with settings of their own; it lives as long as somebody holds it.

        Any thread may call it, and any but the device thread should: the guard of a new method reads the canary
        images, which takes seconds.

        Raises:
            ValueError: If the name, a setting or a value is wrong, or the adapter does not fit.
        """
        adapter = make_adapter(section)
        with self._making:
            method = self._made.get(adapter)
            if method is None:
                self._made[adapter] = method = self._make(adapter, section)
            return method

    def _make(self, adapter: Adapter, section: AdapterSettings | None) -> Method:
        check(adapter, self._backbone, self._reference)
        return Method(adapter, adapter.init(self._backbone, self._reference), self._guard(adapter), section)
