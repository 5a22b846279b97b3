"""streamd: real-time multi-stream video analytics.

    camera → source → decoder → slot → batch → engine → detections → event → Redis stream
    └──────── ingest ────────┘ slots └ inference ┘ engines └─ inference ─┘ └─ publishing ─┘

`supervision` keeps the workers of these alive; `models` makes an engine out of a model file;
`client` is for those who subscribe.
"""

__version__ = "0.1.0"
