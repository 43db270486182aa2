"""The parts of PromQL that every query of the dashboard is made of."""

from typing import Final

# Where targets have no namespace, all that can be chosen is All, which is also those without.
NAMESPACE: Final = 'namespace=~"$namespace"'
MODEL: Final = f'{NAMESPACE},model=~"$model"'
STREAM: Final = f'{MODEL},stream=~"$stream"'
RATE: Final = "[$__rate_interval]"

# A stream's state lives in one server, so its series are never added up over servers.
BY_STREAM: Final = "{{stream}} on {{instance}}"

# The process's own metrics carry no model: behind them this picks the servers of the chosen models, of which a server
# may have several. It binds looser than a comparison: what is compared with a number needs brackets around both.
OURS: Final = f"and on (job, instance) tta_build_info{{{MODEL}}}"
