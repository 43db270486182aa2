"""How streams learn: the server's own way, and the ways that single streams were given."""

from collections.abc import Callable

from tta_server.adapters import Adapter
from tta_server.adapters.base import check
from tta_server.guard.judge import Judge
from tta_server.models import Backbone, Reference
from tta_server.settings import AdapterSettings, make_adapter
from tta_server.streams.stream import Method


class Methods:
    """Make each method once: its first state and its guard are shared by all streams that use it."""

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
        self._made: dict[Adapter, Method] = {}
        self.default = self._make(adapter, None)

    def of(self, section: AdapterSettings) -> Method:
        """Return the method of a stream with settings of its own.

        Raises:
            ValueError: If the name, a setting or a value is wrong, or the adapter does not fit.
        """
        adapter = make_adapter(section)
        if adapter not in self._made:
            self._made[adapter] = self._make(adapter, section)
        return self._made[adapter]

    def _make(self, adapter: Adapter, section: AdapterSettings | None) -> Method:
        check(adapter, self._backbone, self._reference)
        return Method(adapter, adapter.init(self._backbone, self._reference), self._guard(adapter), section)
