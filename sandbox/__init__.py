"""Decodes image files of strangers in processes behind walls: `perturb.sandbox.pool` for PNGs, `Workers` for others.

    this process                    template                       worker, one share of one call
    Workers, Template  ──control──▶ imports the decoder, raises
                                    walls, forks when asked  ────▶ limits, seccomp, then hostile bytes
            ▲                                                             │
            └───────────── channel, and memory that is shared ────────────┘

The template never sees an image. A worker is used for one call and killed; the next one was forked ahead.
"""
