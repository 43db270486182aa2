"""The row about domains: which kinds of input streams meet, and where they are now.

Each description tells someone who was just woken up what the panel means and what to do.
"""

from typing import Final

from k8s.dashboards.panels import Look, Query, Row, series
from k8s.dashboards.selectors import BY_STREAM, MODEL, RATE, STREAM

_DOMAINS: Final = [
    series(
        "Streams at home",
        "1 while what a stream sees looks like the source's images: the frozen model answers and nothing is learnt. 0 "
        "while it is away: a domain of its own answers, and GET /v1/streams/NAME/domains says which. Away since a "
        "change of camera, lens or preprocessing: look at the images. Of '_other' it is how many streams are at home. "
        "Nothing here: domains.max is 1.",
        [Query(f"tta_stream_at_home{{{STREAM}}}", BY_STREAM)],
        unit="none",
        look=Look(maximum=1),
    ),
    series(
        "Distance of what is seen",
        "Of the last request of each stream, squared, over what chance explains. From its domain: about 1; more for "
        "long means that the domain is wide, or the input moves. From the source: how strange the input is to the "
        "frozen model. Both are the same while a stream is at home.",
        [
            Query(f"tta_domain_distance_ratio{{{STREAM}}}", f"from its domain: {BY_STREAM}"),
            Query(f"tta_source_distance_ratio{{{STREAM}}}", f"from the source: {BY_STREAM}"),
        ],
        unit="none",
    ),
    series(
        "Domains by event",
        "What happens to domains, each minute. opened: something was seen for the first time. recalled: a stream came "
        "back to what it had learnt. merged: two had become alike. forgotten: one made room or was erased. Opened and "
        "forgotten again and again: raise domains.max, or look for input that is of no kind.",
        [Query(f"60 * sum by (event) (rate(tta_domain_events_total{{{STREAM}}}{RATE}))", "{{event}}")],
        unit="suffix: /min",
        look=Look(
            stacked=True, colours={"opened": "blue", "recalled": "green", "merged": "yellow", "forgotten": "orange"}
        ),
    ),
    series(
        "Domains kept",
        "How many kinds of input each stream keeps a state for, and all streams together, on disk included. At "
        "domains.max the one that was asked longest ago makes room for the next.",
        [
            Query(f"tta_stream_domains{{{STREAM}}}", BY_STREAM),
            Query(f"sum(tta_domains{{{MODEL}}})", "all streams together"),
        ],
        unit="none",
    ),
]

DOMAINS: Final = Row("Domains", _DOMAINS)
